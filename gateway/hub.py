"""Tails and the hub: how many readers share one live stream.

A cursor is a position on a tail. It takes from the tail's ring what is there; one that has fallen
out of the ring reads from the store until it has caught up. There is no queue for a reader, so a
slow one costs nothing but its place. Those that have caught up may join a cohort, which hands each
of them the same bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from gateway import protocol, tracing
from gateway.budget import Budget
from gateway.cohorts import Cohort, Kind, Pack, Sink
from gateway.counters import Counters
from gateway.errors import Internal, RealtimeError, RunNotFound
from gateway.limits import DEFAULT_LIMITS
from gateway.records import (
    ORIGIN,
    RUN_STREAM,
    RUNS_STREAM,
    EndReason,
    Gap,
    Position,
    ResetReason,
    RunSet,
    StreamKey,
)
from gateway.stores.base import Head, Page, SetState, Store, belongs_to_no_run
from gateway.turns import Turns

RING_BYTES = (
    1 << 20
)  # per live stream: how far a reader may lag without costing a read of the store
FRAME_BYTES = 64 << 10  # of records in one frame
SHARED_FRAMES = 32  # per live stream: encoded frames kept for readers at the same place

_RUN_LOGS = (RUN_STREAM, RUNS_STREAM)

_log = logging.getLogger("realtime.hub")


class Batch(NamedTuple):
    """What a cursor takes in one step.

    Attributes:
        text: The `records` frame; None if there are no records in this step.
        position: Where the cursor stands after it.
        end: Why the stream ended, when nothing follows.
        gap: Records before these that are gone.
        reset: The cursor's position said nothing any more.
        record_count: In `text`.
    """

    text: str | None
    position: Position
    end: EndReason | None = None
    gap: Gap | None = None
    reset: ResetReason | None = None
    record_count: int = 0


class Tail:
    """The live end of one stream in this process.

    Args:
        key: Which stream.
        store: Where it lives.
        on_idle: Called when the last cursor has left or the tail has failed.
        budget: Of the memory of all tails; told by whoever makes the tail when it is gone.
        counters: Of what is handed over.
        turns: Of its readers that have yet to catch up.
    """

    def __init__(
        self,
        key: StreamKey,
        store: Store,
        on_idle: Callable[[Tail], None],
        budget: Budget,
        counters: Counters,
        turns: Turns,
    ) -> None:
        self.key = key
        self.store = store
        self.counters = counters
        self.turns = turns
        self.position = self._earliest = ORIGIN
        self.end: EndReason | None = None
        self.error: RealtimeError | None = None
        self.ring_bytes = 0
        self._ring: deque[bytes] = deque()  # encoded records; the last is right before `position`
        self._frames: dict[tuple[int, int, int, frozenset[str]], str] = {}
        self._frame_bytes = 0
        self._budget = budget
        self._alone: set[Cursor] = set()  # woken one by one
        self._cohorts: dict[Kind, Cohort] = {}
        self._trace: Any = None  # what the run is part of
        self._measured = 0  # offset up to which hand-overs were measured
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._feeder = asyncio.create_task(self._feed(), name=f"tail {key}")

    async def ready(self) -> None:
        """Wait until the tail knows where the stream ends.

        Raises:
            RealtimeError: the store could not say.
        """
        await asyncio.shield(self._ready)
        if self.error is not None:
            raise self.error

    @property
    def ring_start(self) -> int:
        """Offset of the ring's first record."""
        return self.position.offset - len(self._ring)

    @property
    def reader_count(self) -> int:
        """How many cursors stand on it."""
        return len(self._alone) + sum(len(cohort) for cohort in self._cohorts.values())

    def join(self, cursor: Cursor) -> None:
        """Wake this cursor from now on."""
        self._alone.add(cursor)

    def leave(self, cursor: Cursor) -> None:
        """Wake it no more; the last to leave ends the tail."""
        self._alone.discard(cursor)
        if not self._alone and not self._cohorts:
            self._feeder.cancel()
            self._on_idle(self)

    def join_cohort(self, cursor: Cursor, kind: Kind, sink: Sink, not_before: float) -> Cohort:
        """Move a cursor from those that are woken to those that are handed frames."""
        cohort = self._cohorts.get(kind)
        if cohort is None:
            cohort = self._cohorts[kind] = Cohort(self, kind, self._loop, self._drop_cohort)
        self._alone.discard(cursor)
        cohort.join(cursor, sink, not_before)
        return cohort

    def _drop_cohort(self, kind: Kind) -> None:
        del self._cohorts[kind]

    async def _feed(self) -> None:
        try:
            self._trace = await self._find_trace()
            head = await self.store.head(self.key)
            self._begin(head)
            if head.end is None:
                await self._follow(head.position)
        except RealtimeError as error:
            self._fail(error)
        except asyncio.CancelledError:
            self._fail(Internal("the tail was closed"))
            raise
        except Exception:
            _log.exception("the tail of %s failed", self.key, extra=self.key.named())
            self._fail(
                Internal(f"stream {self.key} cannot be followed; the gateway's log has more")
            )

    async def _find_trace(self) -> Any:
        if not tracing.is_on() or belongs_to_no_run(self.key):
            return None
        run = (await self.store.get_run(self.key.run_id)).run
        return tracing.context_of(run.metadata.get(tracing.TRACE_KEY))

    async def _follow(self, after: Position) -> None:
        try:
            async for page in self.store.follow(self.key, after):
                self._grow(page)
        except RunNotFound:  # it was there a moment ago
            self._grow(Page([], self.position, "deleted"))

    def head(self) -> Head:
        """Say where the stream stands as far as this tail has followed it."""
        return Head(self.position, self._earliest, self.end)

    def _begin(self, head: Head) -> None:
        self.position, self._earliest, self.end = head
        self._ready.set_result(None)

    def _grow(self, page: Page) -> None:
        joins = page.position.offset - len(page.records) == self.position.offset
        if page.gap or page.reset or not joins:
            self._disband()  # what the ring holds does not join these records
            self._drop_ring()
        for record in page.records:
            encoded = protocol.encode_record(record, self.key.run_id)
            self._ring.append(encoded)
            self.ring_bytes += len(encoded)
        self.position, self.end = page.position, page.end
        while self.ring_bytes > RING_BYTES and len(self._ring) > 1:
            self.ring_bytes -= len(self._ring.popleft())
        if len(self._frames) > SHARED_FRAMES or self._frame_bytes > RING_BYTES:
            self._drop_frames()
        self._note_size()
        self._wake()

    def _note_size(self) -> None:
        self._budget.note(self, self.ring_bytes + self._frame_bytes)

    def _drop_ring(self) -> None:
        self._ring.clear()
        self._drop_frames()
        self.ring_bytes = self._measured = 0

    def _drop_frames(self) -> None:
        self._frames.clear()
        self._frame_bytes = 0

    def shed(self) -> None:
        """Keep nothing of the past; readers that lag read the store."""
        self._drop_ring()

    def _fail(self, error: RealtimeError) -> None:
        self.error = error
        if not self._ready.done():
            self._ready.set_result(None)
        self._on_idle(self)
        self._wake()

    def _wake(self) -> None:
        for cursor in tuple(self._alone):
            cursor.wake()
        if self.end is not None or self.error is not None:
            self._disband()  # each is told by itself
        for cohort in self._cohorts.values():
            cohort.schedule()

    def _disband(self) -> None:
        for cohort in tuple(self._cohorts.values()):
            cohort.disband()

    def holds(self, position: Position) -> bool:
        """Whether the ring goes on right after a position."""
        return self.ring_start <= position.offset < self.position.offset and (
            position.offset == 0 or position.epoch == self.position.epoch
        )

    def take(self, offset: int, id: int, skip: frozenset[str]) -> Batch:
        """Take what follows an offset that the ring holds."""
        text, position = self.text_after(offset, id, skip)
        end = self.end if position == self.position else None
        return Batch(text, position, end, record_count=position.offset - offset)

    def handed_over(self, start: int, stop: int, readers: int, size: int, *, at_once: bool) -> None:
        """Count what readers that stood together were given.

        Args:
            start: Offset of the first record, which the ring still holds.
            stop: Offset after the last.
            readers: How many.
            size: Of the bytes that each was given.
            at_once: They had caught up, and were not to wait for longer than `PROMPT_S`.
        """
        self.counters.records_sent += (stop - start) * readers
        self.counters.bytes_sent += size * readers
        if at_once and readers:
            self.measure(start)

    def measure(self, offset: int) -> None:
        """Take the time since a record was accepted, unless that of a later one was taken."""
        if offset < self._measured:
            return
        self._measured = self.position.offset
        accepted_ms = protocol.time_of(self._ring[offset - self.ring_start])
        self.counters.delivered(accepted_ms)
        if self._trace is not None:
            tracing.past(
                f"send {self.key.stream_id}",
                parent=self._trace,
                began_ms=accepted_ms,
                offset=offset,
                **self.key.named(),
            )

    @property
    def readers(self) -> int:
        """How many cursors stand on it."""
        return len(self._alone) + sum(map(len, self._cohorts.values()))

    def text_after(self, offset: int, id: int, skip: frozenset[str]) -> tuple[str, Position]:
        """Make the frame of what follows an offset that the ring holds, and say where it ends.

        Readers at the same place whose subscriptions have the same id share one text.
        """
        start, stop, position = self._span(offset)
        end_offset = position.offset
        text = self._frames.get((offset, end_offset, id, skip))
        if text is None:
            encoded = (self._ring[i] for i in range(start, stop))
            if skip:
                encoded = (protocol.strip_run_record(record, skip) for record in encoded)
            text = protocol.encode_records(id, encoded, str(position))
            self._frames[offset, end_offset, id, skip] = text
            self._frame_bytes += len(text)
            self._note_size()
        return text, position

    def data_after(self, offset: int) -> tuple[list[bytes], Position]:
        """Return the data of what follows an offset that the ring holds, and where it ends."""
        start, stop, position = self._span(offset)
        return [protocol.record_data(self._ring[i]) for i in range(start, stop)], position

    def _span(self, offset: int) -> tuple[int, int, Position]:
        start = offset - self.ring_start
        stop, size = start, 0
        while stop < len(self._ring) and (stop == start or size < FRAME_BYTES):
            size += len(self._ring[stop])
            stop += 1
        return start, stop, Position(self.position.epoch, self.ring_start + stop)


class Cursor:
    """A reader's place on a tail. Made by `Hub.cursor`.

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
        self._cohort: Cohort | None = None
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

    def join(self, sink: Sink, throttle_s: float, pack: Pack, not_before: float = 0.0) -> None:
        """Be handed frames from now on, instead of being woken to take them.

        Whoever cannot be served so (it lags, the stream has ended, its connection is full) goes on
        as before; a member that cannot any more is woken again.

        Args:
            sink: The connection.
            throttle_s: At most one frame in this time.
            pack: Makes a frame's bytes.
            not_before: Time of the loop before which it wants none.
        """
        tail = self._tail
        if self._cohort or tail.end or tail.error or not sink.is_open or not self._is_on_tail():
            return
        kind = Kind(self._id, self._skip, throttle_s, pack)
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
            await self._tail.turns.take()

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

    def _measure(self) -> None:
        """Measure the hand-over of what comes next, which the tail holds."""
        if self.is_prompt and self._has_caught_up:
            self._tail.measure(self.position.offset)

    def _note_catch_up(self) -> None:
        self._tail.counters.catch_up_reads += 1
        self._has_caught_up = False

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
        tail = self._tail
        self._note_catch_up()
        try:
            page = await tail.store.read(tail.key, self.position, FRAME_BYTES)
        except RunNotFound:  # the run was deleted before this reader had caught up
            return Batch(None, self.position, "deleted")
        records = [protocol.encode_record(record, tail.key.run_id) for record in page.records]
        if self._skip:
            records = [protocol.strip_run_record(record, self._skip) for record in records]
        text = protocol.encode_records(self._id, records, str(page.position)) if records else None
        return None if page.is_empty else Batch(text, *page[1:], len(records))


class Cursors:
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


Place = Callable[[Head], Position]
C = TypeVar("C", bound=Cursor)


class Hub:
    """Finds or opens the tail of a stream, and drops it when its last reader leaves.

    Args:
        store: Where the streams live.
        ring_bytes: Of the recent records of all streams together.
        counters: Of what its readers are given.
    """

    def __init__(
        self,
        store: Store,
        ring_bytes: int = DEFAULT_LIMITS.ring_bytes,
        *,
        counters: Counters | None = None,
    ) -> None:
        self._store = store
        self._counters = counters or Counters()
        self._budget = Budget(ring_bytes)
        self._turns = Turns()
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

    async def cursor(
        self, key: StreamKey, place: Place, id: int, wake: Callable[[], None]
    ) -> Cursor:
        """Open a cursor on a stream; see `open`."""
        return await self.open(Cursor, key, place, id, wake)

    async def open(
        self, kind: type[C], key: StreamKey, place: Place, id: int, wake: Callable[[], None]
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
            budget, counters = self._budget, self._counters
            tail = Tail(key, self._store, self._drop, budget, counters, self._turns)
            self._tails[key] = tail
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
    ) -> Cursors:
        """Open cursors on the logs of some sets of runs, where their snapshot was taken."""
        cursors: list[Cursor] = []
        try:
            for each, position in zip(sets, found.positions, strict=True):
                cursors.append(await self.cursor(each.log, _at(position), id, wake))
        except BaseException:
            for cursor in cursors:
                cursor.close()
            raise
        return Cursors(cursors)

    def _drop(self, tail: Tail) -> None:
        self._budget.forget(tail)
        if self._tails.get(tail.key) is tail:
            del self._tails[tail.key]


def _at(position: Position) -> Place:
    return lambda _: position
