"""Readers of a stream: where they start, time-outs, and the end."""

import asyncio

import pytest

from gateway import task
from gateway.errors import (
    InvalidId,
    InvalidPosition,
    InvalidValue,
    ReadTimeout,
    RunNotFound,
    StreamIncomplete,
)
from gateway.model.records import StreamKey
from tests.support.gateways import DEADLINE_S, until
from tests.support.sdk.streams import complete, numbers
from tests.support.stores import working_on


async def test_read_starts_at_requested_position_and_waits_for_records(runtime, run):
    for i in range(3):
        await numbers.append(i, target=run.id)
    records = [r async for r in _some(numbers.read_records(run.id), 3)]
    assert [r.offset for r in records] == [0, 1, 2]
    assert {r.source for r in records} == {None}

    async def read(start):
        return [value async for value in numbers.read(run.id, start=start, timeout_s=20)]

    readings = [
        asyncio.create_task(read(start))
        for start in ("beginning", "latest", records[0].position, records[2].position)
    ]
    await until(lambda: len(runtime.store._growth._watches.get(run.id, {})) == 1)
    (watches,) = runtime.store._growth._watches[run.id].values()
    await until(lambda: len(watches) == 4)
    await numbers.append(3, target=run.id)
    await complete(runtime, run)
    assert await asyncio.gather(*readings) == [[0, 1, 2, 3], [3], [1, 2, 3], [3]]


async def _some(records, count):
    async for record in records:
        yield record
        count -= 1
        if count == 0:
            await records.aclose()
            return


async def test_read_times_out_without_a_record(runtime, run):
    await numbers.append(1, target=run.id)
    got = []
    with pytest.raises(ReadTimeout, match=r"numbers: no record came within 0\.05 s"):
        async for value in numbers.read(run.id, timeout_s=0.05):
            got.append(value)
    assert got == [1]
    assert runtime.store._growth._watches == {}


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "remote"])
async def test_read_timeout_of_0_yields_stored_records_without_waiting(kind, tmp_path):
    going_on = asyncio.Event()

    @task
    async def work() -> None:
        for i in range(2000):
            numbers.append(i)
        await numbers.append(2000)
        await going_on.wait()

    async def read(run_id, start="beginning"):
        got = []
        with pytest.raises(ReadTimeout, match="no record came within 0 s"):
            async for record in numbers.read_records(run_id, start=start, timeout_s=0):
                got.append(record)
        return got

    async with working_on(kind, tmp_path) as runtime:
        run = await work.trigger()
        async for value in numbers.read(run.id, timeout_s=DEADLINE_S):
            if value == 2000:
                break
        got = await read(run.id)
        assert [record.value for record in got] == list(range(2001))
        assert [record.value for record in await read(run.id, got[1998].position)] == [1999, 2000]
        assert await read(run.id, "latest") == []
        going_on.set()
        assert (await run.wait()).ok
        assert [value async for value in numbers.read(run.id, timeout_s=0)] == list(range(2001))
        with pytest.raises(InvalidValue, match=r"timeout_s is -1; it goes from 0 to"):
            async for _ in numbers.read(run.id, timeout_s=-1):
                pass
        if kind == "memory":
            assert runtime.store._growth._watches == {}


async def test_a_time_out_is_kept_when_the_store_does_not_answer(runtime, run, monkeypatch):
    monkeypatch.setattr("gateway.sdk.stream_reader.READ_NOW_TIMEOUT_S", 0.01)
    monkeypatch.setattr(runtime.store, "read", lambda *_: asyncio.Event().wait())
    with pytest.raises(ReadTimeout, match=r"no record came within 0\.01 s"):
        async for _ in numbers.read(run.id, start="latest", timeout_s=0.01):
            pass


async def test_the_time_of_a_reader_counts_from_record_to_record(runtime, run):
    async def produce():
        for i in range(5):
            await asyncio.sleep(0.1)
            await numbers.append(i, target=run.id)
        await complete(runtime, run)

    producing = asyncio.create_task(produce())
    assert [value async for value in numbers.read(run.id, timeout_s=0.4)] == list(range(5))
    await producing


@pytest.mark.parametrize("status", ["failed", "canceled", "crashed"])
async def test_a_stream_that_did_not_complete_is_an_error_after_its_values(runtime, run, status):
    await numbers.append(1, target=run.id)
    await complete(runtime, run, status)
    got = []
    with pytest.raises(StreamIncomplete, match=f"has ended: {status}"):
        async for value in numbers.read(run.id):
            got.append(value)
    assert got == [1]


async def test_a_deleted_stream_is_an_error(runtime, run):
    await numbers.append(1, target=run.id)
    await runtime.store.delete(StreamKey(run.id, "numbers"))
    with pytest.raises(StreamIncomplete, match="deleted"):
        _ = [value async for value in numbers.read(run.id)]


async def test_read_fails_at_a_void_position(runtime, run):
    await numbers.append(1, target=run.id)
    with pytest.raises(StreamIncomplete, match="epoch_changed"):
        position = "0123456789abcdef_0000000000000001"
        _ = [value async for value in numbers.read(run.id, start=position)]
    with pytest.raises(InvalidPosition, match=r'start: .soon. is not .*, "beginning" or "latest"$'):
        _ = [value async for value in numbers.read(run.id, start="soon")]


async def test_a_run_that_is_not_there_cannot_be_read(runtime):
    with pytest.raises(RunNotFound):
        _ = [value async for value in numbers.read("run_nowhere")]
    with pytest.raises(InvalidId):
        _ = [value async for value in numbers.read("nowhere")]


async def test_a_reader_that_leaves_early_leaves_nothing(runtime, run):
    for i in range(10):
        await numbers.append(i, target=run.id)
    records = numbers.read_records(run.id)
    async for record in records:
        if record.value == 3:
            break
    await records.aclose()
    assert runtime.store._growth._watches == {}
