"""Tails: the live end of one stream in this process, and what is kept of its recent records."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from gateway import protocol
from gateway._internal import tracing
from gateway.errors import Internal, RealtimeError, RunNotFound
from gateway.fanout import page_cache
from gateway.fanout.frame import Frame
from gateway.fanout.group import BroadcastGroup, GroupKey, Member, Sink
from gateway.fanout.page_cache import FanoutContext, PageCache
from gateway.model.log import Head, Page, belongs_to_no_run
from gateway.model.records import ORIGIN, EndReason, Gap, Position, ResetReason, StreamKey

RING_BYTES = (
    1 << 20
)  # per live stream: how far a reader may lag without costing a read of the store
SHARED_FRAMES = 32  # per live stream: encoded frames kept for readers at the same place

_log = logging.getLogger("realtime.hub")


class Batch(NamedTuple):
    """What a cursor takes in one step.

    Attributes:
        frame: The `records` frame; None if there are no records in this step.
        position: Where the cursor stands after it.
        end: Why the stream ended, when nothing follows.
        gap: Records before these that are gone.
        reset: The cursor's position said nothing any more.
        record_count: In `text`.
    """

    frame: Frame | None
    position: Position
    end: EndReason | None = None
    gap: Gap | None = None
    reset: ResetReason | None = None
    record_count: int = 0

    @property
    def text(self) -> str | None:
        """The frame's text."""
        return None if self.frame is None else self.frame.text


class Reader(Member, Protocol):
    """Who stands on a tail, from the outside: see `gateway.fanout.cursor.Cursor`.

    Attributes:
        wake: Called when there may be something new to take.
    """

    wake: Callable[[], None]


class Tail:
    """The live end of one stream in this process.

    Args:
        key: Which stream.
        shared: What it has in common with others; whoever makes the tail closes it.
        on_idle: Called when the last cursor has left or the tail has failed.
    """

    def __init__(
        self, key: StreamKey, shared: FanoutContext, on_idle: Callable[[Tail], None]
    ) -> None:
        self.key = key
        self.shared = shared
        self.counters = shared.counters
        self._store = shared.store
        self.position = self._earliest = ORIGIN
        self.end: EndReason | None = None
        self.error: RealtimeError | None = None
        self.ring_bytes = 0
        self._ring: deque[bytes] = deque()  # encoded records; the last is right before `position`
        self._frames: dict[tuple[int, int, int, frozenset[str]], Frame] = {}
        self._frame_bytes = 0
        self._marks: deque[int] = deque()  # where frames end, but for those that reach the tail
        self._unmarked = 0  # bytes since the last
        self._pages: PageCache | None = None
        self._is_closed = False
        self._budget = shared.budget
        self._alone: set[Reader] = set()  # woken one by one
        self._resting: set[Reader] = set()  # those of them who wait to be woken
        self._cohorts: dict[GroupKey, BroadcastGroup] = {}
        self._trace: Any = None  # what the run is part of
        self._measured = 0  # offset up to which hand-overs were measured
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._feeder: asyncio.Task[None] | None = asyncio.create_task(
            self._feed(), name=f"tail {key}"
        )
        self._feeder.add_done_callback(self._fed)

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

    def join(self, cursor: Reader) -> None:
        """Wake this cursor once, and whenever it rests again."""
        self._alone.add(cursor)
        self._resting.add(cursor)

    def rest(self, cursor: Reader) -> None:
        """Wake this cursor once: it found nothing, and will look again only then."""
        self._resting.add(cursor)

    def leave(self, cursor: Reader) -> None:
        """Wake it no more; the last to leave ends the tail."""
        self._alone.discard(cursor)
        self._resting.discard(cursor)
        if not self._alone and not self._cohorts:
            if self._feeder is not None:
                self._feeder.cancel()
            self._on_idle(self)

    def join_cohort(
        self, cursor: Reader, kind: GroupKey, sink: Sink, not_before: float
    ) -> BroadcastGroup:
        """Move a cursor from those that are woken to those that are handed frames."""
        cohort = self._cohorts.get(kind)
        if cohort is None:
            cohort = self._cohorts[kind] = BroadcastGroup(self, kind, self._loop, self._drop_cohort)
        self._alone.discard(cursor)
        self._resting.discard(cursor)
        cohort.join(cursor, sink, not_before)
        return cohort

    def _drop_cohort(self, kind: GroupKey) -> None:
        del self._cohorts[kind]

    async def _feed(self) -> None:
        try:
            self._trace = await self._find_trace()
            head = await self._store.head(self.key)
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

    def _fed(self, _: asyncio.Task[None]) -> None:
        # A cancelled task holds its error, whose traceback holds the tail: a cycle, which would
        # keep the ring until the garbage collector's next full pass, hours later.
        self._feeder = None

    async def _find_trace(self) -> Any:
        if not tracing.is_on() or belongs_to_no_run(self.key):
            return None
        run = (await self._store.get_run(self.key.run_id)).run
        return tracing.context_of(run.metadata.get(tracing.TRACE_KEY))

    async def _follow(self, after: Position) -> None:
        try:
            async for page in self._store.follow(self.key, after, self._grow):
                self._grow(page)
        except RunNotFound:  # it was there a moment ago
            self._grow(Page([], self.position, "deleted"))

    @property
    def pages(self) -> PageCache:
        """What those who lag behind the ring read."""
        if self._pages is None:
            self._pages = PageCache(self.key, self.shared)
            if self._is_closed:
                self._pages.close()
        return self._pages

    def close(self) -> None:
        """Be found no more: nothing is held that counts against the budget."""
        self._is_closed = True
        self._budget.forget(self)
        if self._pages is not None:
            self._pages.close()

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
            self._unmarked += len(encoded)
            if self._unmarked >= page_cache.FRAME_BYTES:
                self._mark(record.offset + 1)
        self.position, self.end = page.position, page.end
        while self.ring_bytes > RING_BYTES and len(self._ring) > 1:
            self.ring_bytes -= len(self._ring.popleft())
        self._note_size()
        self._wake()

    def _mark(self, offset: int) -> None:
        """Let frames end here, so that readers who come from different places meet."""
        self._marks.append(offset)
        self._unmarked = 0

    def _note_size(self) -> None:
        if not self._is_closed:
            self._budget.note(self, self.ring_bytes + self._frame_bytes)

    def _drop_ring(self) -> None:
        self._ring.clear()
        self._marks.clear()
        self._drop_frames()
        self.ring_bytes = self._measured = self._unmarked = 0

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
        # Those who lag look again by themselves: a thousand of them need not be told each time.
        resting, self._resting = self._resting, set()
        for cursor in resting:
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
        frame, position = self._frame_after(offset, id, skip)
        end = self.end if position == self.position else None
        return Batch(frame, position, end, record_count=position.offset - offset)

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

    def text_after(self, offset: int, id: int, skip: frozenset[str]) -> tuple[str, Position]:
        """Make the frame of what follows an offset that the ring holds, and say where it ends.

        Readers at the same place whose subscriptions have the same id share one text.
        """
        frame, position = self._frame_after(offset, id, skip)
        return frame.text, position

    def _frame_after(self, offset: int, id: int, skip: frozenset[str]) -> tuple[Frame, Position]:
        start, stop, position = self._span(offset)
        end_offset = position.offset
        frame = self._frames.get((offset, end_offset, id, skip))
        if frame is None:
            encoded = (self._ring[i] for i in range(start, stop))
            if skip:
                encoded = (protocol.strip_run_record(record, skip) for record in encoded)
            frame = Frame(protocol.encode_records(id, encoded, str(position)))
            if self._has_company():
                self._share(frame, (offset, end_offset, id, skip))
        return frame, position

    def _has_company(self) -> bool:
        """Whether a frame may be asked for twice: a cohort asks once for all of its readers."""
        return len(self._alone) + len(self._cohorts) > 1

    def _share(self, frame: Frame, place: tuple[int, int, int, frozenset[str]]) -> None:
        if len(self._frames) >= SHARED_FRAMES or self._frame_bytes > RING_BYTES:
            self._drop_frames()
        self._frames[place] = frame
        self._frame_bytes += frame.size
        self._note_size()

    def data_after(self, offset: int) -> tuple[list[bytes], Position]:
        """Return the data of what follows an offset that the ring holds, and where it ends."""
        start, stop, position = self._span(offset)
        return [protocol.record_data(self._ring[i]) for i in range(start, stop)], position

    def _span(self, offset: int) -> tuple[int, int, Position]:
        if offset + 1 == self.position.offset:  # one record, as it is most times
            return len(self._ring) - 1, len(self._ring), self.position
        while self._marks and self._marks[0] <= self.ring_start:
            self._marks.popleft()
        mark = next((mark for mark in self._marks if mark > offset), self.position.offset)
        start, size = offset - self.ring_start, 0
        stop, until = start, mark - self.ring_start
        while stop < until and (stop == start or size < page_cache.FRAME_BYTES):
            size += len(self._ring[stop])
            stop += 1
        return start, stop, Position(self.position.epoch, self.ring_start + stop)
