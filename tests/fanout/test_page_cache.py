"""Pages that readers who lag have in common are those that each would have read alone."""

import asyncio
import json
import random
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway._internal.counters import Counters
from gateway._internal.fair_share import MAX_CONCURRENT, LoopQuota
from gateway._internal.memory_budget import MemoryBudget
from gateway._internal.single_flight import SingleFlight
from gateway.errors import RunNotFound, StoreUnavailable
from gateway.fanout import page_cache as module
from gateway.fanout.frame import Frame
from gateway.fanout.hub import Hub
from gateway.fanout.page_cache import OVERHEAD_BYTES, EncodedPage, FanoutContext, PageCache
from gateway.model.records import ORIGIN, Position, StreamKey
from gateway.model.retention import Retention
from gateway.protocol import encode_record, encode_records, strip_run_record
from gateway.server.uvicorn.text_frames import encode_text_frame
from gateway.stores.memory import MemoryStore
from tests.support.gateways import new_run

NOTHING = frozenset()


class Store(MemoryStore):
    """A real store that counts what it is asked, takes its time, and can be made to fail."""

    def __init__(self, **options):
        super().__init__(**options)
        self.reads = self.heads = self.reading = self.most_heads = 0
        self.failure = None

    async def read(self, *args):
        self.reads += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        page = await super().read(*args)
        await asyncio.sleep(0)
        return page

    async def head(self, key):
        self.heads += 1
        await asyncio.sleep(0)
        return await super().head(key)


def shared(store, budget=1 << 30):
    return FanoutContext(
        store, MemoryBudget(budget), Counters(), LoopQuota(), SingleFlight(store.head)
    )


@asynccontextmanager
async def opened(stream="progress", budget=1 << 30, **options):
    store = Store(**options)
    await store.open()
    run = await store.create_run(new_run())
    key = StreamKey(run.id, stream)
    yield store, key, PageCache(key, shared(store, budget))


def values(count, size=100, start=0):
    return [b'"%06d%s"' % (start + i, b"x" * size) for i in range(count)]


async def all_after(pages, position):
    """Read to the end, as a cursor does."""
    data = []
    while (piece := await pages.read(position)) is not None:
        data += piece.data()
        position = piece.position
        if piece.end is not None:
            break
    return data


@pytest.mark.slow
async def test_a_thousand_at_one_place_cost_the_reads_of_one():
    async with opened() as (store, key, pages):
        written = values(5000)
        await store.append(key, written)
        assert await all_after(pages, ORIGIN) == written
        alone, pages = store.reads, PageCache(key, shared(store))
        store.reads = 0
        everyone = await asyncio.gather(*(all_after(pages, ORIGIN) for _ in range(1000)))
        assert all(each == written for each in everyone)
        assert store.reads <= alone + 1000, "each finds for itself that nothing follows"


async def test_readers_at_same_position_and_id_share_a_frame():
    async with opened() as (store, key, pages):
        written = values(300)
        await store.append(key, written)
        taken = await asyncio.gather(*(pages.read(ORIGIN) for _ in range(5)))
        frames = [pages.frame(piece, 1, NOTHING) for piece in taken]
        assert all(frame is frames[0] for frame in frames)
        other = pages.frame(taken[0], 2, NOTHING)
        assert json.loads(other.text) == json.loads(frames[0].text) | {"id": 2}
        assert frames[0].packed(encode_text_frame) is frames[1].packed(encode_text_frame)
        assert store.reads == 1


async def test_readers_of_one_page_end_at_the_same_position():
    async with opened() as (store, key, pages):
        epoch = (await store.append(key, values(3000))).position.epoch
        starts = [Position(epoch, offset) for offset in range(400)]
        random.Random(7).shuffle(starts)
        pieces = await asyncio.gather(*(pages.read(start) for start in starts))
        assert store.reads < 20, "only who comes from further back than all before reads"
        assert [piece.start for piece in pieces] == [start.offset for start in starts]
        ends = set()
        for piece in pieces:
            while piece.position.offset < 1500:
                piece = await pages.read(piece.position)
            ends.add(piece.position)
        assert len(ends) == 1
        held = sorted(pages._cached.values(), key=lambda records: records.start)
        assert all(a.stop <= b.start for a, b in pairwise(held))


async def test_cached_pages_are_bounded_and_count_against_budget(monkeypatch):
    monkeypatch.setattr(module, "PAGES_BYTES", 500_000)
    async with opened(budget=1 << 20) as (store, key, pages):
        await store.append(key, values(20_000))
        budget = pages._budget
        position = ORIGIN
        while (piece := await pages.read(position)) is not None:
            for id in range(10):
                for offset in (piece.start, piece.start + 1):
                    pages.frame(piece._replace(start=offset), id, NOTHING)
            position = piece.position
            held = sum(records.size for records in pages._cached.values())
            assert held == pages.size == budget.used
            assert held <= 500_000 or len(pages._cached) == 1
            frames = [len(records.frames) for records in pages._cached.values()]
            assert max(frames) <= module.FRAMES_PER_PAGE
        assert position.offset == 20_000
        pages.evict()
        assert (pages.size, len(pages._cached), len(pages._starts)) == (0, 0, 0)


async def test_the_pages_of_all_streams_and_the_rings_have_one_budget():
    async with opened() as (store, _, _):
        hub = Hub(store, ring_bytes=300_000)
        keys = [StreamKey((await store.create_run(new_run())).id, "s") for _ in range(6)]
        cursors = []
        for key in keys:
            await store.append(key, values(4000))
            cursors.append(await hub.cursor(key, lambda _: ORIGIN, 1, lambda: None))
        for cursor in cursors:
            while await cursor.next() is not None:
                held = sum(
                    tail.ring_bytes + tail._frame_bytes + tail.pages.size for tail in hub.tails
                )
                assert held == hub._budget.used <= 300_000 + 250_000  # and a page
        for cursor in cursors:
            assert cursor.position.offset == 4000
            cursor.close()
        assert hub._budget.used == 0


async def test_slow_reader_does_not_pin_pages():
    async with opened() as (store, key, _):
        hub = Hub(store, ring_bytes=500_000)
        await store.append(key, values(8000))
        slow, fast = [await hub.cursor(key, lambda _: ORIGIN, 1, lambda: None) for _ in range(2)]
        assert (await slow.next()).record_count
        while await fast.next() is not None:
            (tail,) = hub.tails
            assert tail.pages.size <= 500_000
        assert 0 not in tail.pages._cached, "others have long passed the beginning"
        while await slow.next() is not None:
            pass
        assert slow.position == fast.position


async def test_frames_omit_skipped_fields_per_subscriber():
    async with opened("$run") as (store, key, pages):
        await store.patch_run(key.run_id, {"tags": ["a"], "metadata": {"secret": 1}})
        skip = frozenset({"metadata"})
        piece = await pages.read(ORIGIN)
        bare, whole = (
            pages.frame(piece, 1, skip),
            pages.frame(piece, 1, NOTHING),
        )
        assert "secret" in whole.text and "secret" not in bare.text
        page = await store.read(key)
        encoded = [encode_record(record, key.run_id) for record in page.records]
        stripped = [strip_run_record(each, skip) for each in encoded]
        assert bare.text == encode_records(1, stripped, str(page.position))
        assert whole.text == encode_records(1, encoded, str(page.position))


async def test_a_page_is_not_given_after_its_records_are_gone():
    async with opened(retention=Retention(records=10)) as (store, key, pages):
        await store.append(key, values(100))
        await pages.read(ORIGIN)
        assert pages.size
        await store.sweep()
        piece = await pages.read(ORIGIN)
        assert (piece.gap.stop.offset, piece.start) == (90, 90)
        assert piece.data() == values(10, start=90)


async def test_a_page_is_not_given_after_the_stream_or_its_run_was_deleted():
    async with opened() as (store, key, pages):
        await store.append(key, values(100))
        await pages.read(ORIGIN)
        await store.delete(key)
        piece = await pages.read(ORIGIN)
        assert (piece.data(), piece.end) == ([], "deleted")
        assert pages.size == 0
        other = StreamKey(key.run_id, "other")
        pages = PageCache(other, shared(store))
        await store.append(other, values(100))
        await pages.read(ORIGIN)
        await store.delete_run(key.run_id)
        with pytest.raises(RunNotFound):
            await pages.read(ORIGIN)


async def test_canceled_first_reader_does_not_cancel_the_page_read():
    async with opened() as (store, key, pages):
        await store.append(key, values(10))
        first = asyncio.create_task(pages.read(ORIGIN))
        others = [asyncio.create_task(pages.read(ORIGIN)) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        for piece in await asyncio.gather(*others):
            assert piece.data() == values(10)
        assert store.reads == 1


async def test_page_read_failure_reaches_all_waiters_and_is_not_cached():
    async with opened() as (store, key, pages):
        await store.append(key, values(10))
        store.failure = StoreUnavailable("the disk is gone")
        outcomes = await asyncio.gather(
            *(pages.read(ORIGIN) for _ in range(50)), return_exceptions=True
        )
        assert all(isinstance(each, StoreUnavailable) for each in outcomes)
        assert store.reads == 1
        store.failure = None
        assert (await pages.read(ORIGIN)).data() == values(10)


async def test_every_reader_of_a_trimmed_page_gets_the_gap():
    async with opened(retention=Retention(records=5)) as (store, key, pages):
        epoch = (await store.append(key, values(50))).position.epoch
        await store.sweep()
        pieces = await asyncio.gather(*(pages.read(Position(epoch, 7)) for _ in range(40)))
        assert {piece.gap.start.offset for piece in pieces} == {7}
        assert all(piece.data() == values(5, start=45) for piece in pieces)


async def test_after_its_tail_is_gone_nothing_is_kept():
    async with opened() as (store, key, pages):
        await store.append(key, values(3000))
        reading = asyncio.create_task(pages.read(ORIGIN))
        await asyncio.sleep(0)
        pages.close()
        piece = await reading
        assert (await all_after(pages, piece.position))[-1] == values(3000)[-1]
        assert (pages.size, pages._budget.used, pages._cached) == (0, 0, {})


async def test_readers_of_cached_page_are_released_in_bounded_batches():
    async with opened() as (store, key, pages):
        await store.append(key, values(10))
        await pages.read(ORIGIN)
        released = []

        async def lag():
            await pages.read(ORIGIN)
            released.append("x")

        async def live():
            while len(released) - released.count("|") < 200:
                released.append("|")
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(lag())
            group.create_task(live())
        assert max(len(lot) for lot in "".join(released).split("|")) <= MAX_CONCURRENT
        assert store.heads < 200 / 4


def test_records_are_given_from_any_offset_as_they_were():
    encoded = [b'{"offset":%d,"data":"%s"}' % (i, b"y" * i) for i in range(5, 9)]
    records = EncodedPage(5, encoded)
    assert (records.start, records.stop) == (5, 9)
    for offset in range(5, 9):
        assert records.after(offset) == encoded[offset - 5 :]
        text = records.frame_after(offset, 3, NOTHING, "p").text
        assert text == encode_records(3, encoded[offset - 5 :], "p")
    body, frames = sum(map(len, encoded)), sum(each.size for each in records.frames.values())
    assert body + frames < records.size < body + frames + 6 * OVERHEAD_BYTES


@pytest.mark.parametrize("text", ['{"a":1}', '{"a":"ü€𝄞"}', "x" * 70_000])
def test_a_frame_is_held_once_and_gives_both_text_and_bytes(text):
    frame, other = Frame(text), (lambda text: b"!" + text.encode())
    for _ in range(2):
        assert frame.text == text
        assert frame.packed(encode_text_frame) == encode_text_frame(text)
        assert frame.packed(encode_text_frame) is frame.packed(encode_text_frame)
        assert frame._text is None
        assert frame.packed(other) == b"!" + text.encode()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 6), st.integers(0, 60)),
        st.tuples(st.just("read"), st.integers(0, 4), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("go on"), st.integers(0, 4), st.integers(0, 30)),
        st.tuples(st.just("lose"), st.integers(0, 4)),
        st.tuples(st.just("trim"), st.integers(1, 8)),
        st.tuples(st.just("delete")),
        st.tuples(st.just("renew")),
        st.tuples(st.just("end")),
        st.tuples(st.just("together"), st.integers(2, 5)),
    ),
    min_size=10,
    max_size=60,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(steps=STEPS, frame=st.integers(1, 300), kept=st.integers(1, 6000), stream=st.booleans())
def test_cached_page_equals_a_direct_read(steps, frame, kept, stream):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FRAME_BYTES", frame)
        patch.setattr(module, "PAGES_BYTES", kept)
        asyncio.run(_compare(steps, frame, kept))


async def _compare(steps, frame, kept):
    retention = Retention(records=1)
    async with opened(retention=retention) as (store, key, pages):
        at = [ORIGIN] * 5  # readers' positions
        count = 0
        for step in [("append", 5, 20), ("together", 2), *steps]:
            match step:
                case ("append", n, size):
                    await _try(store.append(key, values(n, size, count)))
                    count += n
                case ("read", who, id, stays):
                    position = await _same(store, key, pages, at[who], id)
                    at[who] = at[who] if stays else position
                case ("go on", who, offset):
                    epoch = (await store.head(key)).position.epoch
                    at[who] = Position(epoch, offset) if epoch else ORIGIN
                case ("lose", who):
                    at[who] = Position("0123456789abcdef", 3)
                case ("trim", n):
                    store._retention = Retention(records=n)
                    await store.sweep()
                case ("delete",):
                    await _try(store.delete(key))
                case ("end",):
                    await _try(store.append(key, [], end="completed"))
                case ("renew",):  # as a store does that was put back from a backup
                    store._streams.pop(key, None)
                case ("together", n):
                    who = [at[i] for i in range(n)]
                    taken = [_same(store, key, pages, each, id) for id, each in enumerate(who)]
                    await asyncio.gather(*taken)
            held = sum(records.size for records in pages._cached.values())
            assert held == pages.size == pages._budget.used
            assert held <= kept or len(pages._cached) == 1
            assert sorted(pages._cached) == pages._starts


async def _try(work):
    try:
        await work
    except Exception as error:
        assert error.__class__.__name__ == "StreamEnded"


async def _same(store, key, pages, after, id):
    """Read both ways at a time when nothing changes; returns where to go on."""
    plain = await MemoryStore.read(store, key, after, 1 << 30)
    piece = await pages.read(after)
    if piece is None:
        assert plain.is_empty
        return after
    taken = plain.records[: piece.record_count]
    assert (piece.gap, piece.reset) == (plain.gap, plain.reset)
    assert piece.data() == [record.data for record in taken]
    assert bool(taken) == bool(plain.records), "a step takes something if there is something"
    frame = pages.frame(piece, id, NOTHING)
    if taken:
        assert piece.start == taken[0].offset
        encoded = [encode_record(record, key.run_id) for record in taken]
        assert frame.text == encode_records(id, encoded, str(piece.position))
        assert piece.position == Position(plain.position.epoch, taken[-1].offset + 1)
    if piece.end is not None or not taken:
        assert (piece.end, piece.position) == (plain.end, plain.position)
    return piece.position
