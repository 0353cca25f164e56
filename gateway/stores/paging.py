"""Where a reader's position stands in a stream, and the page that it gets."""

from __future__ import annotations

from typing import Any

from gateway.model.log import Head, Page
from gateway.model.records import Gap, Position, Record, ResetReason


def place(after: Position | None, head: Head) -> tuple[int, ResetReason | None, Gap | None]:
    """Say where reading goes on for someone at `after`.

    Args:
        after: The reader's position; None for the beginning.
        head: The stream's.

    Returns:
        The offset to read from, why the position was void if it was, and what is missing before it.
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
        if head.end != "deleted":  # then the end says where they went
            gap = Gap(Position(head.position.epoch, offset), head.earliest, "trimmed")
        offset = head.earliest.offset
    return offset, reset, gap  # type: ignore[return-value]


def make_page(records: list[Record], start: int, head: Head, **more: Any) -> Page:
    """Make a page of records that were read from offset `start`."""
    position = Position(head.position.epoch, start + len(records))
    at_tail = position.offset >= head.position.offset
    return Page(records, position, head.end if at_tail else None, **more)
