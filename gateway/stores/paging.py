"""Resolve a reader's position in a stream, and build the page after it."""

from __future__ import annotations

from typing import Any

from gateway.model.log import Head, Page
from gateway.model.records import Gap, Position, Record, ResetReason


def place(after: Position | None, head: Head) -> tuple[int, ResetReason | None, Gap | None]:
    """Resolve a reader's position to the offset of its next record.

    Args:
        after: The reader's position; None for the beginning.
        head: The head of the stream.

    Returns:
        The offset to read from; the reset reason if the position is invalid; the gap if records
        before the offset are missing.
    """
    offset, reset = 0, None
    if after is not None and after.offset > 0:
        if after.epoch != head.position.epoch:
            reset = "epoch_changed"
        elif after.offset > head.position.offset:
            reset = "tail_lost"
        else:
            offset = after.offset
    gap = None
    if offset < head.earliest.offset:
        if head.end != "deleted":  # the end `deleted` already explains the loss
            gap = Gap(Position(head.position.epoch, offset), head.earliest, "trimmed")
        offset = head.earliest.offset
    return offset, reset, gap  # type: ignore[return-value]


def make_page(records: list[Record], start: int, head: Head, **more: Any) -> Page:
    """Build a page from records that were read from offset `start`."""
    position = Position(head.position.epoch, start + len(records))
    at_tail = position.offset >= head.position.offset
    return Page(records, position, head.end if at_tail else None, **more)
