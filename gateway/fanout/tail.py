"""Tails: the live end of one stream in this process, with a ring of its recent records."""

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

RING_BYTES = 1 << 20  # per open stream; a reader that lags further reads the store
SHARED_FRAMES = 32  # per open stream: encoded frames kept for readers at the same position

_log = logging.getLogger("realtime.hub")


class Batch(NamedTuple):
    """The result of one step of a cursor.

    Attributes:
        frame: The `records` frame; None if the step has no records.
        position: After the last record of the step.
        end: Why the stream ended; None while records may follow.
        gap: Deleted records before these.
        reset: Why the cursor's position became void; these records are from the beginning.
        record_count: How many records `frame` has.
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
    """A reader as the tail uses it; `gateway.fanout.cursor.Cursor` implements it.

    Attributes:
        wake: Called when a parked reader may have a next batch.
    """

    wake: Callable[[], None]


class Tail:
    """The live end of one stream in this process.

    Args:
        key: The stream.
        shared: The store, counters and quotas of all tails. The caller closes the tail.
        on_idle: Called when the last cursor has left, or when the tail has failed.
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
        self._ring: deque[bytes] = deque()  # encoded records; the last one ends at `position`
        self._frames: dict[tuple[int, int, int, frozenset[str]], Frame] = {}
        self._frame_bytes = 0
        self._frame_ends: deque[int] = (
            deque()
        )  # offsets at which frames end; the open frame ends at the tail
        self._open_frame_bytes = 0  # bytes after the last of `_frame_ends`
        self._pages: PageCache | None = None
        self._is_closed = False
        self._budget = shared.budget
        self._solo: set[Reader] = set()  # readers outside of groups; each is woken
        self._parked: set[Reader] = set()  # readers of `_solo` that wait for `wake`
        self._groups: dict[GroupKey, BroadcastGroup] = {}
        self._trace: Any = None  # the trace of the run
        self._latency_offset = 0  # deliveries before this offset are measured already
        self._on_idle = on_idle
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._feeder: asyncio.Task[None] | None = asyncio.create_task(
            self._feed(), name=f"tail {key}"
        )
        self._feeder.add_done_callback(self._fed)

    async def ready(self) -> None:
        """Wait until the stream's head has been read.

        Raises:
            RealtimeError: the store could not read it.
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
        """How many readers the tail has."""
        return len(self._solo) + sum(len(group) for group in self._groups.values())

    def subscribe(self, cursor: Reader) -> None:
        """Add a reader. It is parked, so that the next append wakes it."""
        self._solo.add(cursor)
        self._parked.add(cursor)

    def park(self, cursor: Reader) -> None:
        """Wake this reader after the next append: it has nothing to read before."""
        self._parked.add(cursor)

    def unsubscribe(self, cursor: Reader) -> None:
        """Remove a reader; after the last one the tail stops following the store."""
        self._solo.discard(cursor)
        self._parked.discard(cursor)
        if not self._solo and not self._groups:
            if self._feeder is not None:
                self._feeder.cancel()
            self._on_idle(self)

    def join_group(
        self, cursor: Reader, key: GroupKey, sink: Sink, not_before: float
    ) -> BroadcastGroup:
        """Move a reader into the broadcast group of a key."""
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = BroadcastGroup(self, key, self._loop, self._drop_group)
        self._solo.discard(cursor)
        self._parked.discard(cursor)
        group.join(cursor, sink, not_before)
        return group

    def _drop_group(self, key: GroupKey) -> None:
        del self._groups[key]

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
        # A cancelled task references its error, whose traceback references the tail: a cycle that
        # would keep the ring until the garbage collector's next full pass, hours later.
        self._feeder = None

    async def _find_trace(self) -> Any:
        if not tracing.is_enabled() or belongs_to_no_run(self.key):
            return None
        run = (await self._store.get_run(self.key.run_id)).run
        return tracing.extract(run.metadata.get(tracing.TRACE_KEY))

    async def _follow(self, after: Position) -> None:
        try:
            async for page in self._store.follow(self.key, after, self._grow):
                self._grow(page)
        except RunNotFound:  # deleted since its head was read
            self._grow(Page([], self.position, "deleted"))

    @property
    def pages(self) -> PageCache:
        """Pages for readers that lag behind the ring."""
        if self._pages is None:
            self._pages = PageCache(self.key, self.shared)
            if self._is_closed:
                self._pages.close()
        return self._pages

    def close(self) -> None:
        """Close the tail and release its share of the memory budget."""
        self._is_closed = True
        self._budget.release(self)
        if self._pages is not None:
            self._pages.close()

    def head(self) -> Head:
        """Return the stream's head as far as this tail has followed it."""
        return Head(self.position, self._earliest, self.end)

    def _begin(self, head: Head) -> None:
        self.position, self._earliest, self.end = head
        self._ready.set_result(None)

    def _grow(self, page: Page) -> None:
        joins = page.position.offset - len(page.records) == self.position.offset
        if page.gap or page.reset or not joins:
            self._dissolve_groups()  # the new records do not follow those in the ring
            self._drop_ring()
        for record in page.records:
            encoded = protocol.encode_record(record, self.key.run_id)
            self._ring.append(encoded)
            self.ring_bytes += len(encoded)
            self._open_frame_bytes += len(encoded)
            if self._open_frame_bytes >= page_cache.FRAME_BYTES:
                self._end_frame(record.offset + 1)
        self.position, self.end = page.position, page.end
        while self.ring_bytes > RING_BYTES and len(self._ring) > 1:
            self.ring_bytes -= len(self._ring.popleft())
        self._charge_size()
        self._notify()

    def _end_frame(self, offset: int) -> None:
        """Make all frames end at this offset, so that readers at different positions meet."""
        self._frame_ends.append(offset)
        self._open_frame_bytes = 0

    def _charge_size(self) -> None:
        if not self._is_closed:
            self._budget.charge(self, self.ring_bytes + self._frame_bytes)

    def _drop_ring(self) -> None:
        self._ring.clear()
        self._frame_ends.clear()
        self._clear_frames()
        self.ring_bytes = self._latency_offset = self._open_frame_bytes = 0

    def _clear_frames(self) -> None:
        self._frames.clear()
        self._frame_bytes = 0

    def evict(self) -> None:
        """Drop the ring; readers that lag read the store."""
        self._drop_ring()

    def _fail(self, error: RealtimeError) -> None:
        self.error = error
        if not self._ready.done():
            self._ready.set_result(None)
        self._on_idle(self)
        self._notify()

    def _notify(self) -> None:
        # Only parked readers are woken: a reader that lags reads on without being woken.
        parked, self._parked = self._parked, set()
        for cursor in parked:
            cursor.wake()
        if self.end is not None or self.error is not None:
            self._dissolve_groups()  # each reader receives the end or the error by itself
        for group in self._groups.values():
            group.schedule()

    def _dissolve_groups(self) -> None:
        for group in tuple(self._groups.values()):
            group.dissolve()

    def contains(self, position: Position) -> bool:
        """Whether the ring holds the record that follows a position."""
        return self.ring_start <= position.offset < self.position.offset and (
            position.offset == 0 or position.epoch == self.position.epoch
        )

    def take(self, offset: int, id: int, skip: frozenset[str]) -> Batch:
        """Return the records after an offset that the ring holds."""
        frame, position = self._frame_after(offset, id, skip)
        end = self.end if position == self.position else None
        return Batch(frame, position, end, record_count=position.offset - offset)

    def record_delivery(
        self, start: int, stop: int, readers: int, size: int, *, is_live: bool
    ) -> None:
        """Count one delivery of the same bytes to several readers.

        Args:
            start: Offset of the first record; the ring still holds it.
            stop: Offset after the last record.
            readers: How many readers received them.
            size: Bytes that each reader received.
            is_live: The readers had caught up and had a throttle of at most `PROMPT_S`: the
                latency of the delivery is measured.
        """
        self.counters.records_sent += (stop - start) * readers
        self.counters.bytes_sent += size * readers
        if is_live and readers:
            self.record_latency(start)

    def record_latency(self, offset: int) -> None:
        """Measure the time since a record was accepted, once for each delivery of a tail."""
        if offset < self._latency_offset:
            return
        self._latency_offset = self.position.offset
        accepted_ms = protocol.time_of(self._ring[offset - self.ring_start])
        self.counters.delivered(accepted_ms)
        if self._trace is not None:
            tracing.record_span(
                f"send {self.key.stream_id}",
                parent=self._trace,
                began_ms=accepted_ms,
                offset=offset,
                **self.key.named(),
            )

    def text_after(self, offset: int, id: int, skip: frozenset[str]) -> tuple[str, Position]:
        """Encode the records after an offset that the ring holds; return the text and its end.

        Readers at the same position whose subscriptions have the same id share one text.
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
            if self._is_shared():
                self._share(frame, (offset, end_offset, id, skip))
        return frame, position

    def _is_shared(self) -> bool:
        """Whether a frame may be asked for twice: a group asks once for all of its readers."""
        return len(self._solo) + len(self._groups) > 1

    def _share(self, frame: Frame, key: tuple[int, int, int, frozenset[str]]) -> None:
        if len(self._frames) >= SHARED_FRAMES or self._frame_bytes > RING_BYTES:
            self._clear_frames()
        self._frames[key] = frame
        self._frame_bytes += frame.size
        self._charge_size()

    def data_after(self, offset: int) -> tuple[list[bytes], Position]:
        """Return the data of the records after an offset that the ring holds, and the end."""
        start, stop, position = self._span(offset)
        return [protocol.record_data(self._ring[i]) for i in range(start, stop)], position

    def _span(self, offset: int) -> tuple[int, int, Position]:
        if offset + 1 == self.position.offset:  # the usual case: one new record
            return len(self._ring) - 1, len(self._ring), self.position
        while self._frame_ends and self._frame_ends[0] <= self.ring_start:
            self._frame_ends.popleft()
        mark = next((mark for mark in self._frame_ends if mark > offset), self.position.offset)
        start, size = offset - self.ring_start, 0
        stop, until = start, mark - self.ring_start
        while stop < until and (stop == start or size < page_cache.FRAME_BYTES):
            size += len(self._ring[stop])
            stop += 1
        return start, stop, Position(self.position.epoch, self.ring_start + stop)
