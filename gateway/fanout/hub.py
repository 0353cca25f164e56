"""The hub: how many readers share the live streams of this process.

A cursor is a position on a tail. It takes from the tail's ring what is there; one that has fallen
out of the ring reads from the store until it has caught up. There is no queue for a reader, so a
slow one costs nothing but its place. Those that have caught up may join a cohort, which hands each
of them the same bytes.
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

NEWCOMERS_EACH_PASS = 16  # of the loop: about a millisecond
OPENINGS_EACH_PASS = 8  # the same

StartResolver = Callable[[Head], Position]
C = TypeVar("C", bound=Cursor)


class Hub:
    """Finds or opens the tail of a stream, and drops it when its last reader leaves.

    Args:
        store: Where the streams live.
        ring_bytes: Of the recent records of all streams together.
        counters: Of what its readers are given.

    Attributes:
        newcomers: Turns at what comes from clients that have asked for nothing yet.
        openings: Turns at opening cursors, for clients of whom thousands may come at once.
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
        self.newcomers = LoopQuota(NEWCOMERS_EACH_PASS)
        self.openings = LoopQuota(OPENINGS_EACH_PASS)
        self._runs = SingleFlight(store.get_run)
        self._tails: dict[StreamKey, Tail] = {}

    @property
    def live_streams(self) -> int:
        """How many streams are followed here."""
        return len(self._tails)

    @property
    def tails(self) -> Iterable[Tail]:
        """The streams that are followed here."""
        return self._tails.values()

    def readers(self, run_id: str) -> dict[str, int]:
        """Say how many cursors each stream of a run has here; those without any are left out."""
        tails = (tail for key, tail in self._tails.items() if key.run_id == run_id)
        return {tail.key.stream_id: tail.reader_count for tail in tails}

    async def find_run(self, run_id: str) -> RunState | None:
        """Return a run, None if there is none; who asks at one time shares the answer."""
        try:
            return await self._runs.about(run_id)
        except RunNotFound:
            return None

    async def cursor(
        self, key: StreamKey, place: StartResolver, id: int, wake: Callable[[], None]
    ) -> Cursor:
        """Open a cursor on a stream; see `open`."""
        return await self.open(Cursor, key, place, id, wake)

    async def open(
        self, kind: type[C], key: StreamKey, place: StartResolver, id: int, wake: Callable[[], None]
    ) -> C:
        """Open a cursor of some kind on a stream.

        Args:
            kind: What it gives in each step.
            key: Which stream.
            place: Chooses where to stand, from the stream's head.
            id: What `records` frames will carry as their id.
            wake: Called when there may be something new to take.

        Returns:
            The cursor; close it.

        Raises:
            RealtimeError: the store cannot say where the stream is.
        """
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail(key, self._shared, self._drop)
        cursor = kind(tail, id, wake)  # joined before the wait, so that the tail stays
        try:
            await tail.ready()
            cursor.position = place(tail.head())
        except BaseException:
            cursor.close()
            raise
        return cursor

    async def set_cursors(
        self, sets: Iterable[RunSet], found: SetState, id: int, wake: Callable[[], None]
    ) -> MergedCursor:
        """Open cursors on the logs of some sets of runs, where their snapshot was taken."""
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
