"""Pages of a stream for readers that lag: read, encoded and framed once for all of them.

After a restart all clients resume at about the same position. The first reader reads the page; the
others wait for it or find it in the cache. A record never changes, but it may be deleted: before a
cached page is returned, the store's head is read, once for all concurrent readers.

Pages never overlap: records that the cache already has are cut off. So readers at different records
of one page are at the same position after it.
"""

from __future__ import annotations

import asyncio
import math
from array import array
from bisect import bisect_right, insort
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from gateway import protocol
from gateway._internal.counters import Counters
from gateway._internal.fair_share import LoopQuota
from gateway._internal.memory_budget import MemoryBudget
from gateway._internal.single_flight import SingleFlight, consume_exception
from gateway.fanout.frame import Frame
from gateway.model.log import Head
from gateway.model.records import EndReason, Gap, Position, Record, ResetReason, StreamKey
from gateway.stores.base import Store

FRAME_BYTES = 64 << 10  # of records in one frame
PAGES_BYTES = 4 << 20  # per open stream: readers that are further apart do not share pages
FRAMES_PER_PAGE = 4  # encoded frames kept per page: the most recent ids and positions
OVERHEAD_BYTES = 1 << 10  # Python objects around the bytes of one page or frame


class EncodedPage:
    """Consecutive records of a stream, encoded as in frames.

    Args:
        start: Offset of the first record.
        encoded: The records, at least one.
    """

    __slots__ = ("_body", "_starts_in_body", "frames", "start")

    def __init__(self, start: int, encoded: Sequence[bytes]) -> None:
        self.start = start
        self._body = b",".join(encoded)
        self._starts_in_body = array("Q", [0])  # where each record starts in the body
        for each in encoded:
            self._starts_in_body.append(self._starts_in_body[-1] + len(each) + 1)
        self.frames: dict[tuple[int, int, frozenset[str]], Frame] = {}

    @property
    def stop(self) -> int:
        """Offset after the last record."""
        return self.start + len(self._starts_in_body) - 1

    @property
    def size(self) -> int:
        """Memory, in bytes."""
        size = (
            OVERHEAD_BYTES
            + len(self._body)
            + self._starts_in_body.itemsize * len(self._starts_in_body)
        )
        return size + sum(OVERHEAD_BYTES + frame.size for frame in self.frames.values())

    def after(self, offset: int) -> list[bytes]:
        """Return the encoded records from an offset on."""
        marks = self._starts_in_body[offset - self.start :]
        return [self._body[begin : end - 1] for begin, end in pairwise(marks)]

    def frame_after(self, offset: int, id: int, skip: frozenset[str], position: str) -> Frame:
        """Return the frame of the records after an offset; readers with the same id share it."""
        frame = self.frames.get((offset, id, skip))
        if frame is None:
            if skip:
                stripped = [protocol.strip_run_record(each, skip) for each in self.after(offset)]
                body = b",".join(stripped)
            else:
                body = self._body[self._starts_in_body[offset - self.start] :]
            frame = self.frames[offset, id, skip] = Frame(protocol.encode_body(id, body, position))
            if len(self.frames) > FRAMES_PER_PAGE:
                del self.frames[next(iter(self.frames))]
        return frame


class PageSlice(NamedTuple):
    """The records of one step of a reader that lags.

    Attributes:
        records: The page with the next records; None if there are none.
        start: Offset of the first record for this reader.
        position: After the last record.
        end: Why the stream ended; None while records may follow.
        gap: Deleted records before these.
        reset: Why the reader's position became void; these records are from the beginning.
    """

    records: EncodedPage | None
    start: int
    position: Position
    end: EndReason | None = None
    gap: Gap | None = None
    reset: ResetReason | None = None

    @property
    def record_count(self) -> int:
        """How many records."""
        return 0 if self.records is None else self.position.offset - self.start

    def data(self) -> list[bytes]:
        """Return the data of each record."""
        encoded = [] if self.records is None else self.records.after(self.start)
        return [protocol.record_data(each) for each in encoded]


class FanoutContext(NamedTuple):
    """What all tails of one process share.

    Attributes:
        store: Where the streams are kept.
        budget: Memory for rings and pages.
        counters: Count what readers receive.
        catch_up_quota: Steps of readers that catch up, per tick of the event loop.
        heads: Reads heads of streams, once for concurrent callers.
    """

    store: Store
    budget: MemoryBudget
    counters: Counters
    catch_up_quota: LoopQuota
    heads: SingleFlight[StreamKey, Head]


class PageCache:
    """The pages of one stream, shared by readers that lag.

    Args:
        key: The stream.
        shared: The store, counters and quotas of all tails.
    """

    def __init__(self, key: StreamKey, shared: FanoutContext) -> None:
        self._key = key
        self._store, self._budget, self._counters, self._quota, self._heads = shared
        self._epoch = ""
        self._cached: dict[int, EncodedPage] = {}  # by start offset; least recently used first
        self._starts: list[int] = []  # start offsets, ascending
        self._size = 0
        self._is_closed = False
        self._reads: dict[Position, asyncio.Task[PageSlice | None]] = {}
        self._last_page_records = (
            math.inf
        )  # records of the last page read; infinite before the first

    @property
    def size(self) -> int:
        """Memory of the cached pages, in bytes."""
        return self._size

    async def read(self, after: Position) -> PageSlice | None:
        """Return the records after a position, as the store has them after this call.

        Returns:
            None if nothing follows and nothing is to be reported.

        Raises:
            RealtimeError: the store cannot be read.
        """
        has_waited = False
        while True:
            if self._find(after) is not None:
                async with self._quota.limiter:
                    piece = await self._cached_after(after)
                if piece is not None:
                    return piece
            elif not has_waited and (reading := self._inflight_read(after)) is not None:
                await asyncio.shield(reading)
                has_waited = True  # the page may turn out not to contain this position
            else:
                return await asyncio.shield(self._start_read(after))

    def frame(self, piece: PageSlice, id: int, skip: frozenset[str]) -> Frame | None:
        """Encode the frame of a slice; None if it has no records."""
        records = piece.records
        if records is None:
            return None
        before = records.size
        frame = records.frame_after(piece.start, id, skip, str(piece.position))
        if self._cached.get(records.start) is records:
            self._size += records.size - before
            self._evict_over_limit()
        return frame

    # ---- the cache ----

    def evict(self) -> None:
        """Drop all pages."""
        self._cached.clear()
        self._starts.clear()
        self._size = 0

    def clear(self) -> None:
        """Drop all pages and release their share of the memory budget."""
        self.evict()
        self._budget.release(self)

    def close(self) -> None:
        """Drop all pages and cache no more; remaining readers read each for itself."""
        self._is_closed = True
        self.clear()

    def _find(self, after: Position) -> EncodedPage | None:
        if after.offset > 0 and after.epoch != self._epoch:
            return None
        place = bisect_right(self._starts, after.offset) - 1
        records = self._cached[self._starts[place]] if place >= 0 else None
        return records if records is not None and after.offset < records.stop else None

    async def _cached_after(self, after: Position) -> PageSlice | None:
        """Return a cached page; None if it was evicted, or the store has deleted its records."""
        head = await self._heads.fetch(self._key)
        records = self._find(after)
        if records is None:
            return None  # evicted while the head was read
        if (
            head.position.epoch != self._epoch
            or head.end == "deleted"
            or not head.earliest.offset <= after.offset < head.position.offset
        ):
            self.clear()
            return None
        self._cached[records.start] = self._cached.pop(
            records.start
        )  # moved to the end: most recently used
        return PageSlice(records, after.offset, Position(self._epoch, records.stop))

    def _cache(self, epoch: str, start: int, read: list[Record]) -> EncodedPage:
        """Encode and cache records; return the page that contains the first of them."""
        known = self._find(Position(epoch, start)) if epoch == self._epoch else None
        if known is not None:
            return known
        if epoch != self._epoch:
            self.clear()
            self._epoch = epoch
        place = bisect_right(self._starts, start)
        if place < len(self._starts):
            read = read[: self._starts[place] - start]
        run_id = self._key.run_id
        records = EncodedPage(start, [protocol.encode_record(record, run_id) for record in read])
        if not self._is_closed:
            self._cached[start] = records
            insort(self._starts, start)
            self._size += records.size
            self._evict_over_limit()
        return records

    def _evict_over_limit(self) -> None:
        limit = min(PAGES_BYTES, self._budget.limit)
        while self._size > limit and len(self._cached) > 1:
            start = next(iter(self._cached))
            self._size -= self._cached.pop(start).size
            self._starts.remove(start)
        self._budget.charge(self, self._size)

    # ---- reads of the store ----

    def _inflight_read(self, after: Position) -> asyncio.Task[PageSlice | None] | None:
        """Return a pending read whose page may contain the record after a position."""
        for start, reading in self._reads.items():
            distance = after.offset - start.offset
            is_of_it = start.epoch == after.epoch or start.offset == 0 == after.offset
            # Before the first page has been read, its size is unknown: it may reach far enough.
            if is_of_it and (distance == 0 or 0 < distance < self._last_page_records):
                return reading
        return None

    def _start_read(self, after: Position) -> asyncio.Task[PageSlice | None]:
        # A separate task: the first reader may be canceled while others wait for the page.
        reading = asyncio.create_task(self._read(after), name=f"page of {self._key}")
        self._reads[after] = reading
        reading.add_done_callback(partial(self._read_done, after))
        return reading

    def _read_done(self, after: Position, reading: asyncio.Task[PageSlice | None]) -> None:
        if self._reads.get(after) is reading:
            del self._reads[after]
        consume_exception(reading)

    async def _read(self, after: Position) -> PageSlice | None:
        self._counters.catch_up_reads += 1
        page = await self._store.read(self._key, after, FRAME_BYTES)
        if not page.records:
            return None if page.is_empty else PageSlice(None, 0, *page[1:])
        position = page.position
        start = position.offset - len(page.records)
        self._last_page_records = len(page.records)
        records = self._cache(position.epoch, start, page.records)
        if records.stop == position.offset:
            return PageSlice(records, start, *page[1:])
        position = Position(position.epoch, records.stop)
        return PageSlice(records, start, position, None, page.gap, page.reset)
