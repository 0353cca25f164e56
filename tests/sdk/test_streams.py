import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import pytest
from pydantic import BaseModel

from gateway import connect, run_in_loop, streams, task
from gateway.errors import (
    InvalidId,
    InvalidValue,
    NoParent,
    NotStarted,
    RecordTooLarge,
    RunNotFound,
    StreamEnded,
    StreamIncomplete,
    WriterFull,
)
from gateway.model.records import StreamKey
from gateway.sdk.writers import stream_writer as writers
from tests.support.gateways import SECRET, new_run
from tests.support.sdk.streams import answer, complete, numbers, values_of


@dataclass
class Progress:
    current: int
    total: int = 10


class Step(BaseModel):
    name: str
    kind: Literal["a", "b"] = "a"


progress = streams.define("progress", Progress)


# Defining.


@pytest.mark.parametrize(
    ("id", "rule"),
    [
        ("", "1 to 64"),
        ("x" * 65, "1 to 64"),
        ("two words", "A-Z a-z 0-9"),
        ("a/b", "A-Z a-z 0-9"),
        ("ä", "A-Z a-z 0-9"),
        ("$run", r"start with \$ are reserved"),
        ("..", "reserved"),
        (3, "1 to 64"),
    ],
)
def test_a_stream_is_named_by_the_rule_that_the_message_states(id, rule):
    with pytest.raises(InvalidId, match=rule):
        streams.define(id)


@pytest.mark.parametrize("id", ["run", "status", "error", "a.b-c_D9"])
def test_a_stream_may_have_any_other_name(id):
    assert streams.define(id, int).id == id


def test_define_rejects_unverifiable_type():
    with pytest.raises(InvalidValue, match="stream 'x'"):
        streams.define("x", object())


def test_without_a_store_the_error_says_what_to_do():
    with pytest.raises(NotStarted, match="connect"):
        numbers.append(1, target="run_a")


# Values.


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (str, "ü 🎉"),
        (int, -3),
        (float, 0.1),
        (bool, True),
        (None, None),
        (list[int], [1, 2]),
        (dict[str, float], {"a": 1.5}),
        (Progress, Progress(3)),
        (Step, Step(name="x", kind="b")),
        (Progress | Step, Step(name="x")),
        (tuple[int, str], (1, "a")),
        (bytes, b"abc"),
    ],
)
async def test_read_returns_values_of_the_stream_type(runtime, run, type, value):
    stream = streams.define("values", type)
    await stream.append(value, target=run.id)
    await complete(runtime, run)
    assert [got async for got in stream.read(run.id)] == [value]


@pytest.mark.parametrize(
    ("stream", "value", "field", "shown"),
    [
        (numbers, "seven", "the value", "'seven'"),
        (progress, {"current": "x"}, "current", "'x'"),
        (progress, {}, "current", "required"),
        (streams.define("steps", list[Step]), [{"name": "a"}, {"name": 1}], "1.name", "1"),
        (streams.define("steps", Step), {"name": "a", "kind": "c"}, "kind", "'c'"),
    ],
)
async def test_append_rejects_invalid_value_naming_stream_and_field(
    runtime, run, stream, value, field, shown
):
    with pytest.raises(InvalidValue) as caught:
        stream.append(value, target=run.id)
    for part in (f"stream '{stream.id}'", field, shown):
        assert part in caught.value.message
    assert await values_of(runtime, run, stream) == []


async def test_a_record_that_does_not_fit_is_refused_when_it_is_read(runtime, run):
    await runtime.store.append(StreamKey(run.id, "numbers"), [b"1", b'"two"'])
    got = []
    with pytest.raises(InvalidValue, match=r"stream 'numbers'.*'two'"):
        async for value in numbers.read(run.id):
            got.append(value)
    assert got == [1]


async def test_append_rejects_too_large_record_immediately(runtime, run):
    with pytest.raises(RecordTooLarge, match="1048578 bytes; the limit is 1048576"):
        answer.append("x" * (1 << 20), target=run.id)
    assert await answer.append("x" * ((1 << 20) - 2), target=run.id) == 0


# Order and receipts.


async def test_fifty_unawaited_appends_are_stored_in_order(runtime, run):
    for i in range(50):
        numbers.append(i, target=run.id)
    assert await values_of(runtime, run, numbers) == list(range(50))


async def test_appends_of_eight_threads_are_in_order_for_each(runtime, run):
    pairs = streams.define("pairs", tuple[int, int])
    together = threading.Barrier(8)

    def work(thread):
        together.wait()
        for i in range(50):
            pairs.append((thread, i), target=run.id)

    with ThreadPoolExecutor(8) as pool:
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(pool, work, n) for n in range(8)))
    values = await values_of(runtime, run, pairs)
    assert len(values) == 400
    for thread in range(8):
        assert [i for who, i in values if who == thread] == list(range(50))


@pytest.mark.slow
async def test_a_hundred_thousand_records_are_read_back_in_order(tmp_path):
    url = f"sqlite:{tmp_path}/a.db?durability=normal"
    async with connect(store=url, secret_key=SECRET) as runtime:
        run = await runtime.store.create_run(new_run())

        async def read():
            count = 0
            async for record in numbers.read_records(run.id, timeout_s=60):
                assert record.value == record.offset == count
                count += 1
            return count

        reading = asyncio.create_task(read())
        await numbers.pipe(range(100_000), target=run.id)
        await complete(runtime, run)
        assert await reading == 100_000


async def test_a_receipt_tells_the_offset(runtime, run):
    receipts = [numbers.append(i, target=run.id) for i in range(3)]
    assert receipts[2].offset is None
    assert not receipts[2].is_done
    assert [await receipt for receipt in receipts] == [0, 1, 2]
    assert await receipts[1] == 1
    assert [receipt.offset for receipt in receipts] == [0, 1, 2]


async def test_a_receipt_can_be_waited_for_in_a_thread(runtime, run):
    def work():
        return [numbers.append(i, target=run.id).wait(20) for i in range(5)]

    assert await asyncio.to_thread(work) == list(range(5))


async def test_blocking_on_a_receipt_in_the_loop_raises(runtime, run):
    receipt = numbers.append(1, target=run.id)
    with pytest.raises(RuntimeError, match="await"):
        receipt.wait()
    assert await receipt == 0
    assert receipt.wait() == 0  # nothing to wait for any more


async def test_canceled_awaiter_does_not_cancel_the_others(runtime, run):
    receipt = numbers.append(1, target=run.id)
    first, second = (asyncio.ensure_future(_await(receipt)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 0


async def _await(receipt):
    return await receipt


async def test_failure_seen_at_the_receipt_is_not_raised_by_flush(runtime, run):
    await complete(runtime, run)
    receipt = numbers.append(1, target=run.id)
    for _ in range(2):
        with pytest.raises(StreamEnded):
            await receipt
    await runtime.flush()


async def test_unseen_failure_is_raised_once_by_flush(runtime, run):
    await complete(runtime, run)
    receipt = numbers.append(1, target=run.id)
    with pytest.raises(StreamEnded):
        await runtime.flush()
    await runtime.flush()
    with pytest.raises(StreamEnded):
        await receipt


async def test_a_run_whose_append_failed_fails(runtime, run):
    await complete(runtime, run)

    @task
    async def work(target: str):
        numbers.append(1, target=target)

    result = await work.trigger_and_wait(target=run.id)
    assert (result.status, result.error.type) == ("failed", "StreamEnded")


async def test_a_failure_that_the_task_handled_does_not_fail_its_run(runtime, run):
    await complete(runtime, run)

    @task
    async def work(target: str):
        try:
            await numbers.append(1, target=target)
        except StreamEnded:
            return "handled"

    assert (await work.trigger_and_wait(target=run.id)).output == "handled"


async def test_failed_append_does_not_block_the_next(runtime, run):
    first = numbers.append(1, target="run_nowhere")
    with pytest.raises(RunNotFound):
        await first
    await runtime.store.create_run(new_run(id="run_nowhere"))
    assert await numbers.append(2, target="run_nowhere") == 0


# Bounds.


async def test_a_full_writer_is_an_error_on_the_loop_and_drops_nothing(runtime, run, monkeypatch):
    monkeypatch.setattr(writers, "MAX_WAITING_RECORDS", 10)
    accepted = []
    with pytest.raises(WriterFull, match=r"10 records.*the limit is 10"):
        for i in range(20):
            accepted.append(numbers.append(i, target=run.id))
    assert len(accepted) == 10
    await accepted[-1]
    await numbers.append(10, target=run.id)
    assert await values_of(runtime, run, numbers) == list(range(11))


async def test_a_writer_is_full_by_bytes_too(runtime, run, monkeypatch):
    monkeypatch.setattr(writers, "MAX_WAITING_BYTES", 1000)
    answer.append("x" * 5000, target=run.id)  # a single one is always taken
    with pytest.raises(WriterFull, match="1000 B"):
        answer.append("y", target=run.id)


async def test_a_full_writer_blocks_a_thread_until_there_is_room(runtime, run, monkeypatch):
    monkeypatch.setattr(writers, "MAX_WAITING_RECORDS", 10)

    def work():
        for i in range(500):
            numbers.append(i, target=run.id)

    await asyncio.to_thread(work)
    assert await values_of(runtime, run, numbers) == list(range(500))


async def test_everything_is_durable_before_the_run_ends(runtime):
    @task
    async def work():
        for i in range(500):
            numbers.append(i)

    handle = await work.trigger()
    values = []
    async for value in numbers.read(handle.id, timeout_s=20):
        values.append(value)
    assert values == list(range(500))
    assert (await handle.wait()).ok


async def test_records_of_a_failing_run_are_stored(runtime):
    @task
    async def work():
        for i in range(100):
            numbers.append(i)
        raise ValueError("no")

    result = await work.trigger_and_wait()
    assert result.status == "failed"
    values = []
    with pytest.raises(StreamIncomplete):
        async for value in numbers.read(result.run_id):
            values.append(value)
    assert values == list(range(100))


# Targets.


async def test_outside_a_run_only_a_run_id_is_a_target(runtime, run):
    for target in ("self", "parent", "root"):
        with pytest.raises(NoParent, match="outside a task"):
            numbers.append(1, target=target)
    with pytest.raises(InvalidId):
        numbers.append(1, target="somewhere")
    await numbers.append(1, target=run.id)


async def test_the_loop_is_reached_from_a_thread_and_not_from_itself(runtime, run):
    def work():
        return run_in_loop(_head(runtime, run))

    assert await asyncio.to_thread(work) == 0
    with pytest.raises(RuntimeError, match="await the coroutine"):
        run_in_loop(_head(runtime, run))


async def _head(runtime, run):
    return (await runtime.store.head(StreamKey(run.id, "numbers"))).position.offset


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_append_rejects_number_that_json_cannot_represent(value):
    with pytest.raises(InvalidValue, match=rf"'number': the value: {value} would be read back"):
        streams.define("number", float).encode(value)
    assert streams.define("number", float | None).encode(None) == b"null"
