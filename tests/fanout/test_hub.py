import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Internal, RunNotFound, StoreUnavailable
from gateway.fanout import page_cache
from gateway.fanout import tail as module
from gateway.fanout.hub import Hub
from gateway.fanout.page_cache import FRAME_BYTES
from gateway.model.records import ORIGIN, Position, StreamKey
from gateway.stores.memory import MemoryStore
from tests.support.gateways import DEADLINE_S, new_run, until


class Store(MemoryStore):
    """A real store that can be made to fail, and that counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.failure = None
        self.reads = 0
        self.follows = 0
        self._failed = asyncio.Event()

    def fail(self, error):
        self.failure = error
        self._failed.set()

    def mend(self):
        self.failure = None
        self._failed.clear()

    async def read(self, *args):
        self.reads += 1
        await asyncio.sleep(0)  # as a store does that has to fetch
        if self.failure:
            raise self.failure
        return await super().read(*args)

    async def head(self, key):
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        return await super().head(key)

    async def follow(self, key, after=None, on_page=None):
        self.follows += 1
        page_cache = super().follow(key, after)
        try:
            while True:
                page = asyncio.ensure_future(anext(page_cache, None))
                failed = asyncio.ensure_future(self._failed.wait())
                try:
                    await asyncio.wait({page, failed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    failed.cancel()
                    if not page.done():
                        page.cancel()
                        await asyncio.gather(page, return_exceptions=True)
                if page.cancelled():
                    raise self.failure
                if page.result() is None:
                    return
                yield page.result()
        finally:
            await page_cache.aclose()


@asynccontextmanager
async def opened():
    store = Store()
    await store.open()
    run = await store.create_run(new_run())
    yield store, StreamKey(run.id, "progress")


@pytest.fixture
async def world():
    async with opened() as (store, key):
        yield store, key, Hub(store)


def beginning(head):
    return ORIGIN if head.position == ORIGIN else Position(head.position.epoch, 0)


def latest(head):
    return head.position


class Reader:
    """A subscriber as the WebSocket carrier is one: takes steps when it is woken."""

    def __init__(self):
        self.woken = asyncio.Event()
        self.texts = []
        self.records = []
        self.end = None

    @classmethod
    async def open(cls, hub, key, place=beginning, id=1):
        reader = cls()
        reader.cursor = await hub.cursor(key, place, id, reader.woken.set)
        return reader

    async def step(self):
        batch = await self.cursor.next()
        if batch is not None:
            self.end = batch.end
            if batch.text is not None:
                frame = json.loads(batch.text)
                assert frame["position"] == str(batch.position)
                self.texts.append(batch.text)
                self.records += frame["records"]
        return batch

    async def take_all(self):
        """Take until there is nothing."""
        while self.end is None and await self.step() is not None:
            pass

    async def until(self, count):
        async with asyncio.timeout(DEADLINE_S):
            await self.take_all()
            while len(self.records) < count:
                await self.woken.wait()
                self.woken.clear()
                await self.take_all()

    def values(self):
        assert [record["offset"] for record in self.records] == list(
            range(self.records[0]["offset"], self.records[0]["offset"] + len(self.records))
        )
        return [record["data"] for record in self.records]


async def test_cursor_gets_stored_and_new_records(world):
    store, key, hub = world
    await store.append(key, [b"0", b"1"])
    reader = await Reader.open(hub, key)
    await reader.until(2)
    for i in range(2, 6):
        await store.append(key, [b"%d" % i])
    await reader.until(6)
    assert reader.values() == list(range(6))
    assert await reader.step() is None
    await store.append(key, [b"6"], end="failed")
    await reader.until(7)
    await until(lambda: reader.woken.is_set() or reader.end)
    await reader.take_all()
    assert (reader.values(), reader.end) == (list(range(7)), "failed")


async def test_the_latest_is_what_comes_from_now_on(world):
    store, key, hub = world
    await store.append(key, [b"0", b"1"])
    reader = await Reader.open(hub, key, latest)
    assert await reader.step() is None
    await store.append(key, [b"2"])
    await reader.until(1)
    assert reader.values() == [2]


async def test_a_stream_that_is_not_there_is_waited_for(world):
    store, key, hub = world
    reader = await Reader.open(hub, key)
    assert reader.cursor.position == ORIGIN
    assert await reader.step() is None
    await store.append(key, [b"0"])
    await reader.until(1)


async def test_a_stream_that_has_ended_is_read_to_its_end(world):
    store, key, hub = world
    await store.append(key, [b"0", b"1"], end="completed")
    for place, expected in ((beginning, 2), (latest, 0)):
        reader = await Reader.open(hub, key, place)
        await reader.take_all()
        assert (len(reader.records), reader.end) == (expected, "completed")
        reader.cursor.close()
    assert store.follows == 0


async def test_reads_within_ring_do_not_read_the_store(world):
    store, key, hub = world
    readers = [await Reader.open(hub, key, latest, id) for id in range(10)]
    await asyncio.sleep(0)
    before = store.reads
    for i in range(100):
        await store.append(key, [b"%d" % i])
    for reader in readers:
        await reader.until(100)
    assert store.reads <= before + 1  # the tail's own first look
    assert store.follows == 1


async def test_reader_behind_ring_catches_up_without_gap_or_repeat(world, monkeypatch):
    monkeypatch.setattr(module, "RING_BYTES", 2000)
    store, key, hub = world
    fast, slow = [await Reader.open(hub, key) for _ in range(2)]
    for i in range(200):
        await store.append(key, [b'"%03d%s"' % (i, b"x" * 50)])
        await fast.until(i + 1)
        if i == 0:
            await slow.step()
    tail = hub._tails[key]
    assert tail.ring_bytes <= 2000
    before = store.reads
    assert len(slow.records) == 1
    await slow.until(200)
    assert store.reads > before
    assert slow.values() == fast.values()
    assert len(slow.values()) == 200
    await store.append(key, [b'"on"'])
    before = store.reads
    await slow.until(201)
    assert store.reads == before  # it is back on the ring


async def test_rings_share_one_budget_and_slow_readers_read_the_store():
    async with opened() as (store, _):
        hub = Hub(store, ring_bytes=20_000)
        keys = [StreamKey((await store.create_run(new_run())).id, "s") for _ in range(10)]
        fast = [await Reader.open(hub, key) for key in keys]
        slow = [await Reader.open(hub, key) for key in keys]
        for i in range(30):
            for key, reader in zip(keys, fast, strict=True):
                await store.append(key, [b'"%03d%s"' % (i, b"x" * 300)])
                await reader.until(i + 1)
            held = sum(tail.ring_bytes + tail._frame_bytes for tail in hub._tails.values())
            assert held == hub._budget.used <= 20_000
        for reader in slow:
            await reader.until(30)
            assert [value[:3] for value in reader.values()] == [f"{i:03}" for i in range(30)]
        for reader in (*fast, *slow):
            reader.cursor.close()
        assert hub._budget.used == 0


async def test_frames_that_are_shared_count_as_memory_of_the_ring(world, monkeypatch):
    monkeypatch.setattr(module, "RING_BYTES", 50_000)
    store, key, hub = world
    readers = [await Reader.open(hub, key) for _ in range(3)]
    for i in range(40):
        await store.append(key, [b'"' + b"x" * 10_000 + b'"'])
        for reader in readers:
            await reader.until(i + 1)
        (tail,) = hub._tails.values()
        held = sum(frame.size for frame in tail._frames.values())
        assert held == tail._frame_bytes <= 50_000 + 10_100


async def test_a_frame_is_bounded_but_holds_at_least_one_record(world):
    store, key, hub = world
    reader = await Reader.open(hub, key)
    big = b'"' + b"x" * (FRAME_BYTES * 3) + b'"'
    await store.append(key, [b"0", big, b"2"])
    await store.append(key, [b'"' + b"y" * 1000 + b'"'] * 200)
    await reader.until(203)
    reader.values()
    assert max(len(text) for text in reader.texts) < 4 * FRAME_BYTES
    assert all(
        len(text) < FRAME_BYTES + 2000 or text.count('"offset"') <= 2 for text in reader.texts
    )


async def test_readers_at_the_same_place_share_one_text(world):
    store, key, hub = world
    same = [await Reader.open(hub, key, id=1) for _ in range(3)]
    other = await Reader.open(hub, key, id=2)
    await store.append(key, [b"0", b"1"])
    for reader in (*same, other):
        await reader.until(2)
    assert same[0].texts[0] is same[1].texts[0] is same[2].texts[0]
    assert json.loads(other.texts[0])["id"] == 2
    assert json.loads(other.texts[0]) | {"id": 1} == json.loads(same[0].texts[0])


async def test_a_tail_lives_as_long_as_it_has_readers(world):
    store, key, hub = world
    first = await Reader.open(hub, key)
    second = await Reader.open(hub, key)
    assert hub.live_streams == 1
    await until(lambda: store._growth._watches)
    first.cursor.close()
    first.cursor.close()
    assert hub.live_streams == 1
    second.cursor.close()
    assert hub.live_streams == 0
    await until(lambda: not store._growth._watches)
    assert store.follows == 1


async def test_a_new_reader_after_the_last_left_gets_everything(world):
    store, key, hub = world
    for i in range(5):
        reader = await Reader.open(hub, key)
        await store.append(key, [b"%d" % i])
        await reader.until(i + 1)
        assert reader.values() == list(range(i + 1))
        reader.cursor.close()


async def test_cursor_canceled_while_opening_leaves_no_state(world):
    store, key, hub = world
    opening = asyncio.create_task(hub.cursor(key, beginning, 1, lambda: None))
    await asyncio.sleep(0)
    assert hub.live_streams == 1
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert hub.live_streams == 0
    reader = await Reader.open(hub, key)
    await store.append(key, [b"0"])
    await reader.until(1)


async def test_a_place_that_cannot_be_found_leaves_nothing(world):
    _, key, hub = world

    def nowhere(head):
        raise Internal("no")

    with pytest.raises(Internal):
        await hub.cursor(key, nowhere, 1, lambda: None)
    assert hub.live_streams == 0


async def test_opening_cursor_of_missing_run_fails(world):
    _, _, hub = world
    with pytest.raises(RunNotFound):
        await hub.cursor(StreamKey("run_nowhere", "s"), beginning, 1, lambda: None)
    assert hub.live_streams == 0


async def test_store_failure_reaches_every_reader_and_reopening_works(world):
    store, key, hub = world
    readers = [await Reader.open(hub, key) for _ in range(3)]
    await store.append(key, [b"0"])
    for reader in readers:
        await reader.until(1)
        reader.woken.clear()
    store.fail(StoreUnavailable("the disk is gone"))
    for reader in readers:
        await asyncio.wait_for(reader.woken.wait(), DEADLINE_S)
        with pytest.raises(StoreUnavailable, match="the disk is gone"):
            await reader.step()
    assert hub.live_streams == 0
    with pytest.raises(StoreUnavailable):
        await Reader.open(hub, key)
    assert hub.live_streams == 0
    store.mend()
    again = await Reader.open(hub, key)
    for reader in readers:
        reader.cursor.close()
    assert hub.live_streams == 1
    await store.append(key, [b"1"])
    await again.until(2)
    assert again.values() == [0, 1]


async def test_reader_gets_buffered_records_before_tail_failure(world):
    store, key, hub = world
    reader = await Reader.open(hub, key)
    await store.append(key, [b"0"])
    await until(lambda: hub._tails[key].position.offset == 1)
    store.fail(StoreUnavailable("gone"))
    await until(lambda: hub.live_streams == 0)
    await reader.step()
    assert reader.values() == [0]
    with pytest.raises(StoreUnavailable):
        await reader.step()


async def test_a_fault_of_the_code_is_an_internal_error_and_logged(world, caplog):
    store, key, hub = world
    reader = await Reader.open(hub, key)
    store.fail(ZeroDivisionError())
    await asyncio.wait_for(reader.woken.wait(), DEADLINE_S)
    with pytest.raises(Internal, match="log has more"):
        await reader.step()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("epoch", "offset", "reason"),
    [("0123456789abcdef", 1, "epoch_changed"), (None, 9, "tail_lost")],
)
async def test_void_position_resets_reader_to_the_beginning(world, epoch, offset, reason):
    store, key, hub = world
    own = (await store.append(key, [b"0", b"1"])).position.epoch
    reader = await Reader.open(hub, key, lambda _: Position(epoch or own, offset))
    batch = await reader.step()
    assert batch.reset == reason
    assert reader.values() == [0, 1]
    await store.append(key, [b"2"])
    await reader.until(3)


async def test_reader_is_notified_of_deletion_at_any_position(world):
    store, key, hub = world
    early, late = [await Reader.open(hub, key) for _ in range(2)]
    await store.append(key, [b"0", b"1"])
    await early.until(2)
    await store.append(key, [b"2"])
    await store.delete(key)
    tail = hub._tails[key]
    await until(lambda: tail.end is not None)
    for reader in (early, late):
        await reader.take_all()
        assert reader.end == "deleted"
        values = reader.values() if reader.records else []
        assert values == list(range(len(values)))
        assert reader.cursor.position.offset == 3


async def test_cursor_is_woken_once_until_it_is_drained(world):
    store, key, hub = world
    wakes = []
    cursor = await hub.cursor(key, beginning, 1, lambda: wakes.append(1))
    assert await cursor.next() is None
    for i in range(3):
        await store.append(key, [b"%d" % i])
        await until(lambda i=i: hub._tails[key].position.offset == i + 1)
    assert len(wakes) == 1, "it knows, and has not looked yet"
    assert (await cursor.next()).record_count == 3
    await store.append(key, [b"3"])
    await until(lambda: hub._tails[key].position.offset == 4)
    assert len(wakes) == 1, "it takes until there is nothing"
    while await cursor.next() is not None:
        pass
    await store.append(key, [b"4"])
    await until(lambda: len(wakes) == 2)
    cursor.close()


async def test_readers_at_different_offsets_share_a_bounded_frame_cache(world):
    store, key, hub = world
    first = await Reader.open(hub, key)
    for i in range(30):
        await store.append(key, [b'"' + b"x" * 1000 + b'"'] * 20)
        await first.until(20 * (i + 1))
    (tail,) = hub.tails
    assert tail.ring_start == 0
    ends = []
    for offset in range(0, 60, 3):
        reader = await Reader.open(
            hub, key, lambda head, at=offset: Position(head.position.epoch, at)
        )
        await reader.until(600 - offset)
        ends.append({json.loads(text)["position"] for text in reader.texts})
        assert tail._frame_bytes <= module.RING_BYTES + 2 * FRAME_BYTES
        assert len(tail._frames) <= module.SHARED_FRAMES
    assert all(each == ends[0] for each in ends), "frames end at the same places for all"


async def test_fifty_concurrent_readers_get_every_record_in_order(world, monkeypatch):
    monkeypatch.setattr(module, "RING_BYTES", 3000)
    store, key, hub = world

    async def read(n):
        for _ in range(n % 7):
            await asyncio.sleep(0)
        reader = await Reader.open(hub, key, id=n)
        async with asyncio.timeout(60):
            while reader.end is None:
                await reader.take_all()
                if reader.end is None:
                    await reader.woken.wait()
                    reader.woken.clear()
                for _ in range(n % 5):
                    await asyncio.sleep(0)
        reader.cursor.close()
        return reader.values()

    async def append():
        for i in range(300):
            await store.append(key, [b'"%03d %s"' % (i, b"x" * (i % 50))])
            await asyncio.sleep(0)
        await store.append(key, [], end="completed")

    *read_values, _ = await asyncio.gather(*(read(n) for n in range(50)), append())
    assert all(len(values) == 300 for values in read_values)
    assert all(values == read_values[0] for values in read_values)
    assert hub.live_streams == 0


@settings(max_examples=80, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 5), st.integers(0, 60)),
            st.tuples(st.just("open"), st.booleans()),
            st.tuples(st.just("take"), st.integers(0, 5)),
            st.tuples(st.just("take all"), st.integers(0, 5)),
            st.tuples(st.just("close"), st.integers(0, 5)),
            st.tuples(st.just("breathe")),
        ),
        max_size=40,
    ),
    ring=st.integers(1, 400),
    frame=st.integers(1, 300),
)
def test_any_order_of_appends_and_reads_is_exactly_once(steps, ring, frame):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RING_BYTES", ring)
        patch.setattr(page_cache, "FRAME_BYTES", frame)
        asyncio.run(_grow_and_take(steps))


async def _grow_and_take(steps):
    async with opened() as (store, key):
        hub, readers, count = Hub(store), [], 0
        for step in steps:
            match step:
                case ("append", n, size):
                    values = [b'"%d %s"' % (count + i, b"x" * size) for i in range(n)]
                    await store.append(key, values)
                    count += n
                case ("open", from_beginning):
                    place = beginning if from_beginning else latest
                    reader = await Reader.open(hub, key, place)
                    reader.start = reader.cursor.position.offset
                    readers.append(reader)
                case ("take", n) if n < len(readers):
                    await readers[n].step()
                case ("take all", n) if n < len(readers):
                    await readers[n].take_all()
                case ("close", n) if n < len(readers):
                    readers.pop(n).cursor.close()
                case ("breathe",):
                    await asyncio.sleep(0)
        await store.append(key, [b'"last"'], end="completed")
        for reader in readers:
            await reader.until(count + 1 - reader.start)
            await until(lambda reader=reader: reader.end or reader.woken.is_set())
            await reader.take_all()
            assert reader.end == "completed"
            numbers = [int(value.split()[0]) for value in reader.values()[:-1]]
            assert numbers == list(range(reader.start, count))
            assert reader.values()[-1] == "last"
            reader.cursor.close()
        assert hub.live_streams == 0


async def test_run_deletion_reaches_live_and_lagging_readers(world, monkeypatch):
    monkeypatch.setattr(module, "RING_BYTES", 1)
    store, key, hub = world
    lagging, quick = await Reader.open(hub, key), await Reader.open(hub, key)
    for i in range(5):
        await store.append(key, [b"%d" % i])
        await quick.until(i + 1)
    await store.delete_run(key.run_id)
    await until(lambda: hub._tails[key].end == "deleted")
    await quick.take_all()
    assert (quick.end, quick.values()) == ("deleted", [0, 1, 2, 3, 4])
    await lagging.take_all()
    assert (lagging.end, lagging.records) == ("deleted", [])
    with pytest.raises(RunNotFound):
        await store.read(key)
