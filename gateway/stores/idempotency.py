"""What a store remembers of a writer, and how it tells a repeat, a gap and an old epoch by it."""

from __future__ import annotations

from typing import NamedTuple

from gateway.errors import OutOfOrder, WriterFenced, WriterGap
from gateway.model.log import Appended, Head
from gateway.model.records import EndReason, StreamKey, Writer


class WriterState(NamedTuple):
    """What a stream remembers of one writer.

    Attributes:
        epoch: The newest seen.
        next_sequence: Of the writer's next record, or append, as the writer counts.
        last_offset: Offset of the writer's last record.
    """

    epoch: int
    next_sequence: int
    last_offset: int


def count_duplicates(state: WriterState | None, writer: Writer, count: int) -> int:
    """Say how many of an append's first records are there already.

    Args:
        state: What the stream remembers of the writer.
        writer: As the append names it.
        count: How many records it has.

    Returns:
        0 for a new append, `count` for a repeat.

    Raises:
        WriterFenced: the epoch is older than the newest seen.
        WriterGap: the sequence is ahead of what is there.
    """
    if state is not None and writer.epoch < state.epoch:
        fenced = WriterFenced(
            f"writer {writer.id} has epoch {writer.epoch}; epoch {state.epoch} has taken over"
        )
        fenced.epoch = state.epoch
        raise fenced
    expected = state.next_sequence if state is not None and writer.epoch == state.epoch else 0
    if writer.sequence > expected:
        gap = WriterGap(
            f"writer {writer.id} sent sequence {writer.sequence}; {expected} is expected next"
        )
        gap.expected, gap.is_new_epoch = expected, state is not None and writer.epoch > state.epoch
        raise gap
    if writer.counts == "appends":
        return count if writer.sequence < expected else 0
    return min(expected - writer.sequence, count)


def is_repeated_end(
    state: WriterState | None, writer: Writer, ended: EndReason | None, end: EndReason | None
) -> bool:
    """Whether an append without records is a repeat of the one that ended the stream."""
    if state is None or writer.epoch != state.epoch:
        return False
    if writer.counts == "appends":
        return writer.sequence < state.next_sequence
    return writer.sequence == state.next_sequence and end is not None and ended == end


def repeat(state: WriterState, writer: Writer, count: int, head: Head) -> Appended:
    """Return what a repeated append is answered with."""
    counts_appends = writer.counts == "appends"
    offset = None if counts_appends else first_offset_of_repeat(state, writer, count)
    return Appended(offset, head.position, True, state.next_sequence if counts_appends else None)


def check_order(key: StreamKey, last: str | None, order: str | None) -> None:
    """Refuse an append whose order is not after the last one's.

    Raises:
        OutOfOrder: names both.
    """
    if last is not None and order is not None and order.encode() <= last.encode():
        raise OutOfOrder(f"stream {key} has order {last[:80]!r}; {order[:80]!r} is not after it")


def first_offset_of_repeat(state: WriterState, writer: Writer, count: int) -> int | None:
    """Find a repeated append's first offset; known for the writer's last append only."""
    if count == 0 or writer.sequence + count != state.next_sequence:
        return None
    return state.last_offset - count + 1
