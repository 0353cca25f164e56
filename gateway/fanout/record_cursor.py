"""A cursor that returns records instead of frames, for HTTP readers."""

from __future__ import annotations

from typing import NamedTuple

from gateway.fanout.cursor import Cursor
from gateway.model.records import EndReason, Position


class RecordBatch(NamedTuple):
    """The records of one step.

    Attributes:
        data: JSON bytes of each record, in order.
        position: After the last of them.
        end: Why the stream ended; None while records may follow.
        is_void: The cursor's position was reset, or records before these were deleted.
    """

    data: list[bytes]
    position: Position
    end: EndReason | None = None
    is_void: bool = False


class RecordCursor(Cursor):
    """A cursor whose steps are records. Made by `Hub.open`."""

    async def next_records(self) -> RecordBatch | None:
        """Return the next records and advance past them, as `Cursor.next` does.

        Returns:
            None at the tail of an open stream: `wake` will be called after the next append.

        Raises:
            RealtimeError: the stream cannot be read.
        """
        await self._wait_for_quota()
        taken = self._from_ring() if self._tail_has_next() else await self._data()
        self._advance(None if taken is None else taken.position)
        return taken

    def _from_ring(self) -> RecordBatch | None:
        tail = self._tail
        if tail.contains(self.position):
            self._record_latency()
            data, position = tail.data_after(self.position.offset)
            return RecordBatch(data, position, tail.end if position == tail.position else None)
        return RecordBatch([], tail.position, tail.end) if tail.end is not None else None

    async def _data(self) -> RecordBatch | None:
        piece = await self._read()
        if piece is None:
            return None
        is_void = piece.reset is not None or piece.gap is not None
        return RecordBatch(piece.data(), piece.position, piece.end, is_void)
