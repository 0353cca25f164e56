"""A cursor that gives records as they are, for those who write no frames."""

from __future__ import annotations

from typing import NamedTuple

from gateway.fanout.cursor import Cursor
from gateway.model.records import EndReason, Position


class RecordBatch(NamedTuple):
    """What a record cursor takes in one step.

    Attributes:
        data: JSON bytes of each record, in order.
        position: Where the cursor stands after them.
        end: Why the stream ended, when nothing follows.
        is_void: The cursor's position said nothing any more, or records before these are gone.
    """

    data: list[bytes]
    position: Position
    end: EndReason | None = None
    is_void: bool = False


class RecordCursor(Cursor):
    """A reader's place on a tail. Made by `Hub.open`."""

    async def next_records(self) -> RecordBatch | None:
        """Take the next step, as `Cursor.next` does.

        Returns:
            None when the cursor is at the tail of an open stream: `wake` will be called.

        Raises:
            RealtimeError: the stream cannot be read.
        """
        await self._turn()
        taken = self._taken() if self._is_on_tail() else await self._data()
        self._stepped(None if taken is None else taken.position)
        return taken

    def _taken(self) -> RecordBatch | None:
        tail = self._tail
        if tail.holds(self.position):
            self._measure()
            data, position = tail.data_after(self.position.offset)
            return RecordBatch(data, position, tail.end if position == tail.position else None)
        return RecordBatch([], tail.position, tail.end) if tail.end is not None else None

    async def _data(self) -> RecordBatch | None:
        piece = await self._read()
        if piece is None:
            return None
        is_void = piece.reset is not None or piece.gap is not None
        return RecordBatch(piece.data(), piece.position, piece.end, is_void)
