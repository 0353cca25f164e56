"""Cursors: readers' places on tails, and what they take from there in each step."""

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
    """A reader's place on a tail. Made by `gateway.fanout.hub.Hub.cursor`.

    Attributes:
        position: Where it stands.
        is_prompt: It takes what is new at once, so that the time that this takes says something.
    """

    def __init__(self, tail: Tail, id: int, wake: Callable[[], None]) -> None:
        self.position = tail.position
        self.is_prompt = False
        self._has_caught_up = False
        self._skip: frozenset[str] = frozenset()
        self.wake = wake
        self._tail = tail
        self._id = id
        self._cohort: BroadcastGroup | None = None
        tail.join(self)

    @property
    def key(self) -> StreamKey:
        """Which stream it is on."""
        return self._tail.key

    @property
    def lag(self) -> int:
        """How many records it has yet to take; as a member it has what the others have."""
        behind = self._tail.position.offset - self.position.offset
        return 0 if self.is_member else max(0, behind)

    @property
    def tail_position(self) -> Position:
        """Where the stream ends as far as this process has followed it."""
        return self._tail.position

    def skip(self, fields: frozenset[str]) -> None:
        """Leave these fields of runs out from now on; what users have appended stays whole."""
        skip = fields if self._tail.key.stream_id in _RUN_LOGS else frozenset[str]()
        if skip != self._skip:
            self._skip = skip
            if self._leave_cohort():
                self.put_out()

    def join(self, sink: Sink, throttle_s: float, way: WireFormat, not_before: float = 0.0) -> None:
        """Be handed frames from now on, instead of being woken to take them.

        Whoever cannot be served so (it lags, the stream has ended, its connection is full) goes on
        as before; a member that cannot any more is woken again.

        Args:
            sink: The connection.
            throttle_s: At most one frame in this time.
            way: How bytes get there.
            not_before: Time of the loop before which it wants none.
        """
        tail = self._tail
        if self._cohort or tail.end or tail.error or not sink.is_open or not self._is_on_tail():
            return
        kind = GroupKey(self._id, self._skip, throttle_s, way)
        self._cohort = tail.join_cohort(self, kind, sink, not_before)

    @property
    def is_member(self) -> bool:
        """Whether it is handed frames."""
        return self._cohort is not None

    def put_out(self) -> None:
        """Go on alone from `position`."""
        self._cohort = None
        self._has_caught_up = False
        self._tail.join(self)
        self.wake()

    def _leave_cohort(self) -> bool:
        cohort, self._cohort = self._cohort, None
        if cohort is not None:
            cohort.leave(self)
        return cohort is not None

    def close(self) -> None:
        """Leave the tail. Safe to call twice."""
        self._leave_cohort()
        self._tail.leave(self)

    async def next(self) -> Batch | None:
        """Take the next step.

        Returns:
            None when the cursor is at the tail of an open stream: `wake` will be called.

        Raises:
            RealtimeError: the stream cannot be read; subscribing again may help.
        """
        await self._turn()
        batch = self._from_tail() if self._is_on_tail() else await self._from_store()
        self._stepped(None if batch is None else batch.position)
        return batch

    async def _turn(self) -> None:
        """Let those who are live go before one that has yet to catch up."""
        if not self._has_caught_up:
            await self._tail.shared.turns.take()

    def _stepped(self, position: Position | None) -> None:
        """Stand after what was taken; None: there was nothing to take.

        Raises:
            RealtimeError: nor will there be, since the tail has failed.
        """
        if position is not None:
            self.position = position
        elif self._tail.error is not None:
            raise self._tail.error
        else:
            self._has_caught_up = True
            self._tail.rest(self)

    def _measure(self) -> None:
        """Measure the hand-over of what comes next, which the tail holds."""
        if self.is_prompt and self._has_caught_up:
            self._tail.measure(self.position.offset)

    def _is_on_tail(self) -> bool:
        """Whether the tail knows what follows; else the store does (lagging, void)."""
        at, end = self.position, self._tail.position
        return at == end or (at.offset == 0 == end.offset) or self._tail.holds(at)

    def _from_tail(self) -> Batch | None:
        tail = self._tail
        if tail.holds(self.position):
            self._measure()
            return tail.take(self.position.offset, self._id, self._skip)
        return Batch(None, tail.position, tail.end) if tail.end is not None else None

    async def _from_store(self) -> Batch | None:
        piece = await self._read()
        if piece is None:
            return None
        frame = self._tail.pages.frame_of(piece, self._id, self._skip)
        return Batch(frame, *piece[2:], piece.record_count)

    async def _read(self) -> PageSlice | None:
        """Take what the tail does not hold."""
        self._has_caught_up = False
        try:
            return await self._tail.pages.read(self.position)
        except RunNotFound:  # the run was deleted before this reader had caught up
            return PageSlice(None, 0, self.position, "deleted")


class MergedCursor:
    """Cursors on several logs as one, which takes from each in turn.

    Args:
        cursors: At least one; they are closed with this.
    """

    def __init__(self, cursors: Iterable[Cursor]) -> None:
        self._cursors = deque(cursors)

    @property
    def position(self) -> Position:
        """How many records were taken of all; only to be compared with `tail_position`."""
        return Position("", sum(cursor.position.offset for cursor in self._cursors))

    @property
    def tail_position(self) -> Position:
        """How many there are in all, as far as this process has followed them."""
        return Position("", sum(cursor.tail_position.offset for cursor in self._cursors))

    def skip(self, fields: frozenset[str]) -> None:
        """See `Cursor.skip`."""
        for cursor in self._cursors:
            cursor.skip(fields)

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
