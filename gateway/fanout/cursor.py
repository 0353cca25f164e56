"""Cursors: the position of one reader on a tail, and the next batch after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from gateway.errors import RunNotFound
from gateway.fanout.group import BroadcastGroup, GroupKey, Sink, WireFormat
from gateway.fanout.page_cache import PageSlice
from gateway.fanout.tail import Batch, Tail
from gateway.model.records import RUN_STREAM, RUNS_STREAM, Position, StreamKey

_RUN_LOGS = (RUN_STREAM, RUNS_STREAM)


class Cursor:
    """The position of one reader on a tail. Made by `gateway.fanout.hub.Hub.cursor`.

    Attributes:
        position: After the last record that the reader has received.
        is_unthrottled: The reader takes new records immediately, so its latency is measured.
    """

    def __init__(self, tail: Tail, id: int, wake: Callable[[], None]) -> None:
        self.position = tail.position
        self.is_unthrottled = False
        self._has_caught_up = False
        self._excluded: frozenset[str] = frozenset()
        self.wake = wake
        self._tail = tail
        self._id = id
        self._group: BroadcastGroup | None = None
        tail.subscribe(self)

    @property
    def key(self) -> StreamKey:
        """The stream."""
        return self._tail.key

    @property
    def lag(self) -> int:
        """How many records the reader is behind the tail; 0 for a member of a group."""
        behind = self._tail.position.offset - self.position.offset
        return 0 if self.is_member else max(0, behind)

    @property
    def tail_position(self) -> Position:
        """The end of the stream as far as this process has followed it."""
        return self._tail.position

    def exclude_fields(self, fields: frozenset[str]) -> None:
        """Leave fields of runs out of the frames from now on; records of users stay complete."""
        skip = fields if self._tail.key.stream_id in _RUN_LOGS else frozenset[str]()
        if skip != self._excluded:
            self._excluded = skip
            if self._leave_group():
                self.detach()

    def join(
        self, sink: Sink, throttle_s: float, wire: WireFormat, not_before: float = 0.0
    ) -> None:
        """Join the broadcast group of this reader's key, if that is possible.

        A reader that lags, whose stream has ended or whose send buffer is full stays outside and
        is woken as before. An evicted member is woken again.

        Args:
            sink: The connection.
            throttle_s: At most one frame in this time.
            wire: How frames are written to the connection.
            not_before: Time of the loop before which the throttle allows no frame.
        """
        tail = self._tail
        if self._group or tail.end or tail.error or not sink.is_open or not self._tail_has_next():
            return
        kind = GroupKey(self._id, self._excluded, throttle_s, wire)
        self._group = tail.join_group(self, kind, sink, not_before)

    @property
    def is_member(self) -> bool:
        """Whether a broadcast group writes to this reader."""
        return self._group is not None

    def detach(self) -> None:
        """Continue alone from `position`."""
        self._group = None
        self._has_caught_up = False
        self._tail.subscribe(self)
        self.wake()

    def _leave_group(self) -> bool:
        group, self._group = self._group, None
        if group is not None:
            group.leave(self)
        return group is not None

    def close(self) -> None:
        """Leave the group and the tail. A second call has no effect."""
        self._leave_group()
        self._tail.unsubscribe(self)

    async def next(self) -> Batch | None:
        """Return the next batch and advance past it.

        Returns:
            None at the tail of an open stream: `wake` will be called after the next append.

        Raises:
            RealtimeError: the stream cannot be read; subscribing again may help.
        """
        await self._wait_for_quota()
        batch = self._from_tail() if self._tail_has_next() else await self._from_store()
        self._advance(None if batch is None else batch.position)
        return batch

    async def _wait_for_quota(self) -> None:
        """Wait for the quota of readers that catch up, so that live readers are served between."""
        if not self._has_caught_up:
            await self._tail.shared.catch_up_quota.acquire()

    def _advance(self, position: Position | None) -> None:
        """Advance to a position; None parks the cursor at the tail.

        Raises:
            RealtimeError: there was no batch because the tail has failed.
        """
        if position is not None:
            self.position = position
        elif self._tail.error is not None:
            raise self._tail.error
        else:
            self._has_caught_up = True
            self._tail.park(self)

    def _record_latency(self) -> None:
        """Measure the delivery latency of the next record, which the ring holds."""
        if self.is_unthrottled and self._has_caught_up:
            self._tail.record_latency(self.position.offset)

    def _tail_has_next(self) -> bool:
        """Whether the tail knows the next record; if not (a gap, a lag), the store is read."""
        at, end = self.position, self._tail.position
        return at == end or (at.offset == 0 == end.offset) or self._tail.contains(at)

    def _from_tail(self) -> Batch | None:
        tail = self._tail
        if tail.contains(self.position):
            self._record_latency()
            return tail.take(self.position.offset, self._id, self._excluded)
        return Batch(None, tail.position, tail.end) if tail.end is not None else None

    async def _from_store(self) -> Batch | None:
        piece = await self._read()
        if piece is None:
            return None
        frame = self._tail.pages.frame(piece, self._id, self._excluded)
        return Batch(frame, *piece[2:], piece.record_count)

    async def _read(self) -> PageSlice | None:
        """Read records that the ring no longer holds."""
        self._has_caught_up = False
        try:
            return await self._tail.pages.read(self.position)
        except RunNotFound:  # deleted before this reader had caught up
            return PageSlice(None, 0, self.position, "deleted")


class MergedCursor:
    """Several cursors as one, which serves them round robin.

    Args:
        cursors: At least one; `close` closes them.
    """

    def __init__(self, cursors: Iterable[Cursor]) -> None:
        self._cursors = deque(cursors)

    @property
    def position(self) -> Position:
        """How many records of all logs were read; comparable only with `tail_position`."""
        return Position("", sum(cursor.position.offset for cursor in self._cursors))

    @property
    def tail_position(self) -> Position:
        """How many records all logs have, as far as this process has followed them."""
        return Position("", sum(cursor.tail_position.offset for cursor in self._cursors))

    def exclude_fields(self, fields: frozenset[str]) -> None:
        """See `Cursor.exclude_fields`."""
        for cursor in self._cursors:
            cursor.exclude_fields(fields)

    def close(self) -> None:
        """See `Cursor.close`."""
        for cursor in self._cursors:
            cursor.close()

    async def next(self) -> Batch | None:
        """See `Cursor.next`."""
        for _ in range(len(self._cursors)):
            self._cursors.rotate(-1)
            batch = await self._cursors[-1].next()
            if batch is not None:
                return batch
        return None
