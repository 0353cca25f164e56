"""A worker whose gateway is away: appends wait, bounded, then arrive once and in order."""

import asyncio
import json
import threading

import pytest

from gateway import connect, streams, task
from gateway.errors import ConnectionLost, InvalidToken, WriterFull
from gateway.model.records import StreamKey
from gateway.sdk.session import opened
from gateway.sdk.writers import stream_writer
from gateway.sdk.writers.stream_writer import StreamWriter
from gateway.stores.remote import connection
from gateway.stores.remote.store import RemoteStore
from tests.support import gateways
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    Process,
    gateway_process,
    new_run,
    until,
    worker_token,
)

numbers = streams.define("numbers", int)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(connection, "MAX_BACKOFF_S", 0.2)
    monkeypatch.setattr(gateways, "DEADLINE_S", 60)  # processes start slowly on a busy machine


@pytest.fixture
def process(tmp_path):
    with gateway_process(f"sqlite:{tmp_path}/test.db?durability=normal", tmp_path) as process:
        yield process


async def values_of(store, key):
    values, after = [], None
    while (page := await store.read(key, after)).records:
        values += [json.loads(record.data) for record in page.records]
        after = page.position
    return values


async def until_nothing_moves(counts):
    before = None
    while before != counts:
        before = dict(counts)
        await asyncio.sleep(0.3)
    return before


async def test_appends_of_threads_block_at_the_bound_and_arrive_once_and_in_order(
    process, monkeypatch
):
    monkeypatch.setattr(stream_writer, "MAX_WAITING_RECORDS", 100)
    done = dict.fromkeys(range(4), 0)
    may_stop = threading.Event()

    @task
    def work(who: int) -> int:
        while not (may_stop.is_set() and done[who] % 100 == 0):
            numbers.append(done[who])
            done[who] += 1
        return done[who]

    async with connect(process.url, secret_key=SECRET) as it:
        handles = [await work.trigger(who) for who in done]
        await until(lambda: all(count > 200 for count in done.values()))
        await asyncio.to_thread(process.kill)
        blocked = await until_nothing_moves(done)
        await asyncio.to_thread(process.start)
        await until(lambda: all(done[who] > blocked[who] + 200 for who in done))
        may_stop.set()
        for handle in handles:
            result = await asyncio.wait_for(handle.wait(), 3 * DEADLINE_S)
            assert result.ok, result.error
            key = StreamKey(handle.id, "numbers")
            assert await values_of(it.store, key) == list(range(result.output))


async def test_full_writer_on_event_loop_raises_and_loses_nothing(process, monkeypatch):
    monkeypatch.setattr(stream_writer, "MAX_WAITING_RECORDS", 300)
    async with opened(RemoteStore(process.url, worker_token)) as store:
        key = StreamKey((await store.create_run(new_run())).id, "s")
        appending = StreamWriter(store, key, None, "w", asyncio.get_running_loop())
        await appending.put(b"0")
        await asyncio.to_thread(process.kill)
        receipts = [appending.put(b"%d" % i) for i in range(1, 301)]
        with pytest.raises(WriterFull, match=r"300 records.*the limit is 300"):
            appending.put(b"301")
        await asyncio.to_thread(process.start)
        assert [await receipt for receipt in receipts] == list(range(1, 301))
        assert await appending.put(b"301") == 301
        assert await values_of(store, key) == list(range(302))


async def test_after_its_patience_an_append_fails_aloud_and_the_next_go_on(process):
    async with opened(RemoteStore(process.url, worker_token, patience_s=0.5)) as store:
        key = StreamKey((await store.create_run(new_run())).id, "s")
        appending = StreamWriter(store, key, None, "w", asyncio.get_running_loop())
        await appending.put(b"0")
        await asyncio.to_thread(process.kill)
        lost = appending.put(b"1")
        with pytest.raises(ConnectionLost, match=r"did not answer within 0\.5 s"):
            await asyncio.wait_for(appending.flush(), DEADLINE_S)
        with pytest.raises(ConnectionLost):
            await lost
        await asyncio.to_thread(process.start)
        await until(lambda: store.is_ready)
        assert await appending.put(b"2") == 1
        assert await values_of(store, key) == [0, 2]


async def test_a_worker_may_be_started_before_its_gateway(tmp_path):
    @task
    async def work() -> int:
        numbers.append(1)
        return await numbers.append(2)

    process = Process("memory:", tmp_path)

    async def execute() -> list[int]:
        async with connect(process.url, secret_key=SECRET) as it:
            handle = await work.trigger()
            assert (await handle.wait()).output == 1
            return await values_of(it.store, StreamKey(handle.id, "numbers"))

    executing = asyncio.create_task(execute())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(executing), 0.5)
    try:
        await asyncio.to_thread(process.start)
        assert await asyncio.wait_for(executing, gateways.DEADLINE_S) == [1, 2]
    finally:
        process.kill()


async def test_a_store_that_does_not_wait_for_its_gateway_keeps_the_order_of_calls(tmp_path):
    process = Process("memory:", tmp_path)
    async with opened(RemoteStore(process.url, worker_token, open_s=0)) as store:
        assert not store.was_reached
        run = new_run()
        key = StreamKey(run.id, "s")
        appending = StreamWriter(store, key, None, "w", asyncio.get_running_loop())
        creating = asyncio.create_task(store.create_run(run))
        await asyncio.sleep(0)
        receipts = [appending.put(b"%d" % i) for i in range(5)]
        await asyncio.to_thread(process.start)
        try:
            await asyncio.wait_for(asyncio.gather(creating, *receipts), gateways.DEADLINE_S)
            assert await values_of(store, key) == list(range(5))
            assert store.was_reached
        finally:
            process.kill()


async def test_a_refusal_fails_the_calls_of_a_store_that_does_not_wait(process):
    store = RemoteStore(process.url, lambda: worker_token()[:-6] + "AAAAAA", open_s=0)
    async with opened(store):
        with pytest.raises(InvalidToken, match="not valid here"):
            await asyncio.wait_for(store.get_run("run_a"), gateways.DEADLINE_S)
        with pytest.raises(InvalidToken):
            await store.reach()
