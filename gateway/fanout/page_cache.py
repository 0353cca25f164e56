"""Pages of a stream for readers that lag: read, encoded and framed once for all of them.

After a restart everybody comes back at about the same place. Whoever is first reads; the others
wait for that page, or find it. A record never changes, but it may be gone: before a kept page is
given, the store is asked whether it still would, and all who want to know at one time ask once.

Pages never overlap: what is read and known already is cut off. So readers who stand at different
records of one page stand together after it.
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
from gateway._internal.single_flight import SingleFlight, look_at
from gateway.fanout.frame import Frame
from gateway.model.log import Head
from gateway.model.records import EndReason, Gap, Position, Record, ResetReason, StreamKey
from gateway.stores.base import Store

FRAME_BYTES = 64 << 10  # of records in one frame
PAGES_BYTES = 4 << 20  # per live stream: how far apart those who catch up may be and share reads
FRAMES_EACH = 4  # of one page: kept for so many subscription ids or places, the latest
OVERHEAD_BYTES = 1 << 10  # of one page and of one frame: objects around the bytes


class EncodedPage:
    """Some records of a stream, one after the other, encoded as they stand in frames.

    Args:
        start: Offset of the first.
        encoded: At least one.
    """

    __slots__ = ("_body", "_marks", "frames", "start")

    def __init__(self, start: int, encoded: Sequence[bytes]) -> None:
        self.start = start
        self._body = b",".join(encoded)
        self._marks = array("Q", [0])  # where each begins in the body
        for each in encoded:
            self._marks.append(self._marks[-1] + len(each) + 1)
        self.frames: dict[tuple[int, int, frozenset[str]], Frame] = {}

    @property
    def stop(self) -> int:
        """Offset after the last."""
        return self.start + len(self._marks) - 1

    @property
    def size(self) -> int:
        """What it holds, in bytes."""
        size = OVERHEAD_BYTES + len(self._body) + self._marks.itemsize * len(self._marks)
        return size + sum(OVERHEAD_BYTES + frame.size for frame in self.frames.values())

    def after(self, offset: int) -> list[bytes]:
        """Return them one by one, from an offset on."""
        marks = self._marks[offset - self.start :]
        return [self._body[begin : end - 1] for begin, end in pairwise(marks)]

    def frame_after(self, offset: int, id: int, skip: frozenset[str], position: str) -> Frame:
        """Return the frame of what follows an offset; readers with the same id share it."""
        frame = self.frames.get((offset, id, skip))
        if frame is None:
            if skip:
                stripped = [protocol.strip_run_record(each, skip) for each in self.after(offset)]
                body = b",".join(stripped)
            else:
                body = self._body[self._marks[offset - self.start] :]
            frame = self.frames[offset, id, skip] = Frame(protocol.encode_body(id, body, position))
            if len(self.frames) > FRAMES_EACH:
                del self.frames[next(iter(self.frames))]
        return frame


class PageSlice(NamedTuple):
    """What a reader that lags takes in one step.

    Attributes:
        records: Those that hold what is for it; None if there is nothing.
        start: Offset of the first that is for it.
        position: After the last.
        end: Why the stream ended, when nothing follows.
        gap: Records before these that are gone.
        reset: The reader's position said nothing any more.
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
    """What the streams of one process have in common.

    Attributes:
        store: Where they live.
        budget: Of the memory of what is kept of them.
        counters: Of what their readers are given.
        turns: Of readers that have yet to catch up.
        heads: Asks the store where streams begin and end.
    """

    store: Store
    budget: MemoryBudget
    counters: Counters
    turns: LoopQuota
    heads: SingleFlight[StreamKey, Head]


class PageCache:
    """The pages of one stream that readers who lag have in common.

    Args:
        key: Which stream.
        shared: What it has in common with others.

    """

    def __init__(self, key: StreamKey, shared: FanoutContext) -> None:
        self._key = key
        self._store, self._budget, self._counters, self._turns, self._heads = shared
        self._epoch = ""
        self._kept: dict[
            int, EncodedPage
        ] = {}  # by their start; who was used the longest ago is first
        self._starts: list[int] = []  # in order
        self._size = 0
        self._is_closed = False
        self._readings: dict[Position, asyncio.Task[PageSlice | None]] = {}
        self._reach = math.inf  # how many records the last page had

    @property
    def size(self) -> int:
        """What is kept, in bytes."""
        return self._size

    async def read(self, after: Position) -> PageSlice | None:
        """Take what follows a position, as the store gives it at a time after this call.

        Returns:
            None if the store has nothing to say.

        Raises:
            RealtimeError: the store cannot say.
        """
        has_waited = False
        while True:
            if self._find(after) is not None:
                async with self._turns.room:
                    piece = await self._kept_after(after)
                if piece is not None:
                    return piece
            elif not has_waited and (reading := self._reading_of(after)) is not None:
                await asyncio.shield(reading)
                has_waited = True  # in vain, if it is something else than records
            else:
                return await asyncio.shield(self._begin_to_read(after))

    def frame_of(self, piece: PageSlice, id: int, skip: frozenset[str]) -> Frame | None:
        """Make the frame of what a reader took; None if there are no records in it."""
        records = piece.records
        if records is None:
            return None
        before = records.size
        frame = records.frame_after(piece.start, id, skip, str(piece.position))
        if self._kept.get(records.start) is records:
            self._size += records.size - before
            self._bound()
        return frame

    # ---- what is kept ----

    def shed(self) -> None:
        """Keep nothing of the past."""
        self._kept.clear()
        self._starts.clear()
        self._size = 0

    def clear(self) -> None:
        """Let go of what is kept."""
        self.shed()
        self._budget.forget(self)

    def close(self) -> None:
        """Keep nothing from now on; those who still read do so each for itself."""
        self._is_closed = True
        self.clear()

    def _find(self, after: Position) -> EncodedPage | None:
        if after.offset > 0 and after.epoch != self._epoch:
            return None
        place = bisect_right(self._starts, after.offset) - 1
        records = self._kept[self._starts[place]] if place >= 0 else None
        return records if records is not None and after.offset < records.stop else None

    async def _kept_after(self, after: Position) -> PageSlice | None:
        """Return what is kept; None if it is not, or the store would not give it any more."""
        head = await self._heads.about(self._key)
        records = self._find(after)
        if records is None:
            return None  # others needed the room
        if (
            head.position.epoch != self._epoch
            or head.end == "deleted"
            or not head.earliest.offset <= after.offset < head.position.offset
        ):
            self.clear()
            return None
        self._kept[records.start] = self._kept.pop(records.start)  # used just now
        return PageSlice(records, after.offset, Position(self._epoch, records.stop))

    def _keep(self, epoch: str, start: int, read: list[Record]) -> EncodedPage:
        """Encode records, unless they are known; returns those that hold the first of them."""
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
            self._kept[start] = records
            insort(self._starts, start)
            self._size += records.size
            self._bound()
        return records

    def _bound(self) -> None:
        limit = min(PAGES_BYTES, self._budget.limit)
        while self._size > limit and len(self._kept) > 1:
            start = next(iter(self._kept))
            self._size -= self._kept.pop(start).size
            self._starts.remove(start)
        self._budget.note(self, self._size)

    # ---- what is read ----

    def _reading_of(self, after: Position) -> asyncio.Task[PageSlice | None] | None:
        """Find a read under way that may bring what follows a position."""
        for start, reading in self._readings.items():
            distance = after.offset - start.offset
            is_of_it = start.epoch == after.epoch or start.offset == 0 == after.offset
            # As long as nobody knows how far a page reaches, this one may reach far enough.
            if is_of_it and (distance == 0 or 0 < distance < self._reach):
                return reading
        return None

    def _begin_to_read(self, after: Position) -> asyncio.Task[PageSlice | None]:
        # A task of its own, since whoever asked first may leave while others wait.
        reading = asyncio.create_task(self._read(after), name=f"page of {self._key}")
        self._readings[after] = reading
        reading.add_done_callback(partial(self._is_read, after))
        return reading

    def _is_read(self, after: Position, reading: asyncio.Task[PageSlice | None]) -> None:
        if self._readings.get(after) is reading:
            del self._readings[after]
        look_at(reading)

    async def _read(self, after: Position) -> PageSlice | None:
        self._counters.catch_up_reads += 1
        page = await self._store.read(self._key, after, FRAME_BYTES)
        if not page.records:
            return None if page.is_empty else PageSlice(None, 0, *page[1:])
        position = page.position
        start = position.offset - len(page.records)
        self._reach = len(page.records)
        records = self._keep(position.epoch, start, page.records)
        if records.stop == position.offset:
            return PageSlice(records, start, *page[1:])
        position = Position(position.epoch, records.stop)
        return PageSlice(records, start, position, None, page.gap, page.reset)
