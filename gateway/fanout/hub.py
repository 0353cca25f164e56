"""The hub: the open streams of this process, shared by all their readers.

A cursor is a position on a tail. It reads from the tail's ring; a cursor that has fallen behind
the ring reads from the store until it has caught up. A reader has no queue, so a slow reader costs
only its position. Readers that have caught up may join a broadcast group, which writes the same
bytes to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from gateway._internal.counters import Counters
from gateway._internal.fair_share import LoopQuota
from gateway._internal.memory_budget import MemoryBudget
from gateway._internal.single_flight import SingleFlight
from gateway.errors import RunNotFound
from gateway.fanout.cursor import Cursor, MergedCursor
from gateway.fanout.page_cache import FanoutContext
from gateway.fanout.tail import Tail
from gateway.model.limits import DEFAULT_LIMITS
from gateway.model.log import Head, RunState, SetState
from gateway.model.records import Position, RunSet, StreamKey
from gateway.stores.base import Store

HANDSHAKES_PER_TICK = 16  # of the event loop: about one millisecond
OPENS_PER_TICK = 8  # about one millisecond

StartResolver = Callable[[Head], Position]
C = TypeVar("C", bound=Cursor)


class Hub:
    """Opens the tail of a stream for its first reader, and closes it after the last has left.

    Args:
        store: Where the streams are kept.
        ring_bytes: Memory for the recent records of all streams together.
        counters: Count what readers receive.

    Attributes:
        handshake_quota: Limits frames of new connections per tick, so that they do not delay
            connections with subscriptions.
        open_quota: Limits opened cursors per tick: thousands of clients may subscribe together.
    """

    def __init__(
        self,
        store: Store,
        ring_bytes: int = DEFAULT_LIMITS.ring_bytes,
        *,
        counters: Counters | None = None,
    ) -> None:
        self._budget = MemoryBudget(ring_bytes)
        counters, heads = counters or Counters(), SingleFlight(store.head)
        self._shared = FanoutContext(store, self._budget, counters, LoopQuota(), heads)
        self.handshake_quota = LoopQuota(HANDSHAKES_PER_TICK)
        self.open_quota = LoopQuota(OPENS_PER_TICK)
        self._runs = SingleFlight(store.get_run)
        self._tails: dict[StreamKey, Tail] = {}

    @property
    def live_streams(self) -> int:
        """How many streams are open."""
        return len(self._tails)

    @property
    def tails(self) -> Iterable[Tail]:
        """The open streams."""
        return self._tails.values()

    def readers(self, run_id: str) -> dict[str, int]:
        """Return how many readers each open stream of a run has, by stream id."""
        tails = (tail for key, tail in self._tails.items() if key.run_id == run_id)
        return {tail.key.stream_id: tail.reader_count for tail in tails}

    async def find_run(self, run_id: str) -> RunState | None:
        """Return the run, or None. Concurrent calls for one run share one read of the store."""
        try:
            return await self._runs.fetch(run_id)
        except RunNotFound:
            return None

    async def cursor(
        self, key: StreamKey, start: StartResolver, id: int, wake: Callable[[], None]
    ) -> Cursor:
        """Open a cursor on a stream; see `open`."""
        return await self.open(Cursor, key, start, id, wake)

    async def open(
        self,
        cursor_type: type[C],
        key: StreamKey,
        start: StartResolver,
        id: int,
        wake: Callable[[], None],
    ) -> C:
        """Open a cursor on a stream.

        Args:
            cursor_type: The class of the cursor.
            key: The stream.
            start: Chooses the position from the stream's head.
            id: The subscription id in `records` frames.
            wake: Called when a parked cursor may have a next batch.

        Returns:
            The cursor. The caller closes it.

        Raises:
            RealtimeError: the store cannot read the stream's head.
        """
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail(key, self._shared, self._drop)
        cursor = cursor_type(
            tail, id, wake
        )  # subscribed before the wait, so that the tail stays open
        try:
            await tail.ready()
            cursor.position = start(tail.head())
        except BaseException:
            cursor.close()
            raise
        return cursor

    async def set_cursors(
        self, sets: Iterable[RunSet], found: SetState, id: int, wake: Callable[[], None]
    ) -> MergedCursor:
        """Open cursors on the logs of run sets, at the positions of their snapshot."""
        cursors: list[Cursor] = []
        try:
            for each, position in zip(sets, found.positions, strict=True):
                cursors.append(await self.cursor(each.log, _at(position), id, wake))
        except BaseException:
            for cursor in cursors:
                cursor.close()
            raise
        return MergedCursor(cursors)

    def _drop(self, tail: Tail) -> None:
        tail.close()
        if self._tails.get(tail.key) is tail:
            del self._tails[tail.key]


def _at(position: Position) -> StartResolver:
    return lambda _: position
