"""The state of a writer in a stream, by which a store detects repeats, gaps and old epochs."""

from __future__ import annotations

from typing import NamedTuple

from gateway.errors import OutOfOrder, WriterFenced, WriterGap
from gateway.model.log import Appended, Head
from gateway.model.records import EndReason, StreamKey, Writer


class WriterState(NamedTuple):
    """The state of one writer in a stream.

    Attributes:
        epoch: The newest epoch seen.
        next_sequence: Sequence of the writer's next record, or of its next append, depending on
            what the writer counts.
        last_offset: Offset of the writer's last record.
    """

    epoch: int
    next_sequence: int
    last_offset: int


def count_duplicates(state: WriterState | None, writer: Writer, count: int) -> int:
    """Count how many of an append's first records are duplicates.

    Args:
        state: The writer's state in the stream; None for a new writer.
        writer: The writer of the append.
        count: Number of records in the append.

    Returns:
        0 for a new append, `count` for a repeat, a number between for a partial repeat.

    Raises:
        WriterFenced: the epoch is older than the newest seen.
        WriterGap: the sequence is greater than the expected one.
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
    """Whether an append without records repeats the append that ended the stream."""
    if state is None or writer.epoch != state.epoch:
        return False
    if writer.counts == "appends":
        return writer.sequence < state.next_sequence
    return writer.sequence == state.next_sequence and end is not None and ended == end


def repeat(state: WriterState, writer: Writer, count: int, head: Head) -> Appended:
    """Return the result of a repeated append."""
    counts_appends = writer.counts == "appends"
    offset = None if counts_appends else first_offset_of_repeat(state, writer, count)
    return Appended(offset, head.position, True, state.next_sequence if counts_appends else None)


def check_order(key: StreamKey, last: str | None, order: str | None) -> None:
    """Reject an append whose order is not greater than the stream's last one.

    Raises:
        OutOfOrder: the order is not greater; the message names both.
    """
    if last is not None and order is not None and order.encode() <= last.encode():
        raise OutOfOrder(f"stream {key} has order {last[:80]!r}; {order[:80]!r} is not after it")


def first_offset_of_repeat(state: WriterState, writer: Writer, count: int) -> int | None:
    """Return the first offset of a repeated append; None unless it is the writer's last append."""
    if count == 0 or writer.sequence + count != state.next_sequence:
        return None
    return state.last_offset - count + 1
