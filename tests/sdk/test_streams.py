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
    InvalidPosition,
    InvalidValue,
    NoParent,
    NotStarted,
    ReadTimeout,
    RecordTooLarge,
    RunNotFound,
    StreamEnded,
    StreamIncomplete,
    WriterFull,
)
from gateway.model.records import StreamKey
from gateway.sdk.writers import stream_writer as writers
from tests.support.gateways import DEADLINE_S, SECRET, new_run, until
from tests.support.stores import working_on


@dataclass
class Progress:
    current: int
    total: int = 10


class Step(BaseModel):
    name: str
    kind: Literal["a", "b"] = "a"


progress = streams.define("progress", Progress)
numbers = streams.define("numbers", int)
answer = streams.define("answer")


@pytest.fixture
async def runtime():
    async with connect(store="memory:", secret_key=SECRET) as runtime:
        yield runtime


@pytest.fixture
async def run(runtime):
    return await runtime.store.create_run(new_run())


async def values_of(runtime, run, stream):
    await runtime.flush()
    page = await runtime.store.read(StreamKey(run.id, stream.id), max_bytes=1 << 30)
    return [stream.decode(record.data) for record in page.records]


async def complete(runtime, run, status="completed"):
    await runtime.store.patch_run(run.id, {"status": "executing"})
    await runtime.store.patch_run(run.id, {"status": status})


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


def test_a_type_that_cannot_be_checked_is_refused_when_it_is_defined():
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
async def test_what_was_appended_is_read_as_its_type(runtime, run, type, value):
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
async def test_what_does_not_fit_is_refused_with_stream_field_and_value(
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


async def test_a_record_over_the_limit_is_refused_at_once(runtime, run):
    with pytest.raises(RecordTooLarge, match="1048578 bytes; the limit is 1048576"):
        answer.append("x" * (1 << 20), target=run.id)
    assert await answer.append("x" * ((1 << 20) - 2), target=run.id) == 0


# Order and receipts.


async def test_fifty_appends_that_nobody_awaits_are_in_order(runtime, run):
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


async def test_waiting_for_a_receipt_on_the_loop_is_refused_and_does_not_hang(runtime, run):
    receipt = numbers.append(1, target=run.id)
    with pytest.raises(RuntimeError, match="await"):
        receipt.wait()
    assert await receipt == 0
    assert receipt.wait() == 0  # nothing to wait for any more


async def test_one_awaiter_that_is_canceled_does_not_cancel_the_others(runtime, run):
    receipt = numbers.append(1, target=run.id)
    first, second = (asyncio.ensure_future(_await(receipt)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 0


async def _await(receipt):
    return await receipt


async def test_a_failure_is_told_at_the_receipt_and_not_again(runtime, run):
    await complete(runtime, run)
    receipt = numbers.append(1, target=run.id)
    for _ in range(2):
        with pytest.raises(StreamEnded):
            await receipt
    await runtime.flush()


async def test_a_failure_that_nobody_saw_is_told_at_the_flush_once(runtime, run):
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


async def test_one_bad_append_does_not_keep_the_next_from_being_written(runtime, run):
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


async def test_what_a_failing_run_appended_is_kept(runtime):
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


# Piping.


async def generate(count):
    for i in range(count):
        await asyncio.sleep(0)
        yield i


@pytest.mark.parametrize(
    "make",
    [
        lambda: generate(600),
        lambda: list(range(600)),
        lambda: range(600),
        lambda: (i for i in range(600)),
        lambda: iter(range(600)),
    ],
    ids=["async", "list", "range", "generator", "iterator"],
)
async def test_a_pipe_appends_and_passes_on_what_it_is_given(runtime, run, make):
    assert await numbers.pipe(make(), target=run.id) == list(range(600))
    assert await values_of(runtime, run, numbers) == list(range(600))
    other = await runtime.store.create_run(new_run())
    got = [value async for value in numbers.pipe(make(), target=other.id)]
    assert got == list(range(600))
    assert await values_of(runtime, other, numbers) == list(range(600))


async def test_a_plain_function_pipes_with_a_plain_loop(runtime):
    @task
    def work() -> int:
        return sum(value for value in numbers.pipe(i for i in range(300)))

    result = await work.trigger_and_wait()
    assert result.output == sum(range(300))
    assert [value async for value in numbers.read(result.run_id)] == list(range(300))


async def test_a_plain_loop_on_the_event_loop_is_refused_and_does_not_hang(runtime, run):
    with pytest.raises(RuntimeError, match="async for"):
        list(numbers.pipe([1, 2], target=run.id))
    with pytest.raises(TypeError, match="async for"):
        list(numbers.pipe(generate(1), target=run.id))


async def test_a_pipe_of_a_blocking_iterable_does_not_stop_the_loop(runtime, run):
    may_go_on = threading.Event()

    def blocking():
        yield 1
        assert may_go_on.wait(20)
        yield 2

    piping = asyncio.ensure_future(numbers.pipe(blocking(), target=run.id)._collect())
    async for record in numbers.read_records(run.id, timeout_s=20):
        if record.value == 1:
            may_go_on.set()
        else:
            break
    assert await piping == [1, 2]


async def test_a_pipe_waits_when_too_much_is_under_way(runtime, run, monkeypatch):
    monkeypatch.setattr(writers, "MAX_WAITING_BYTES", 5000)
    monkeypatch.setattr(writers, "MAX_APPEND_BYTES", 1000)
    texts = ["x" * 900 + str(i) for i in range(100)]
    assert await answer.pipe(texts, target=run.id) == texts
    assert await values_of(runtime, run, answer) == texts


async def test_a_pipe_takes_no_more_than_its_window_ahead(runtime, run):
    taken = 0

    async def source():
        nonlocal taken
        for i in range(2000):
            taken += 1
            yield i

    async for _ in numbers.pipe(source(), target=run.id):
        head = await runtime.store.head(StreamKey(run.id, "numbers"))
        assert taken - head.position.offset <= 2 * streams.PIPE_WINDOW
    assert taken == 2000


async def test_a_source_that_fails_fails_the_pipe_and_what_came_before_is_kept(runtime, run):
    async def source():
        yield 1
        yield 2
        raise ConnectionError("the model is gone")

    with pytest.raises(ConnectionError, match="the model is gone"):
        await numbers.pipe(source(), target=run.id)
    assert await values_of(runtime, run, numbers) == [1, 2]


async def test_a_value_that_does_not_fit_stops_the_pipe_and_closes_its_source(runtime, run):
    closed = []

    async def source():
        try:
            yield 1
            yield "two"
            yield 3
        finally:
            closed.append(True)

    with pytest.raises(InvalidValue, match="'two'"):
        await numbers.pipe(source(), target=run.id)
    assert await values_of(runtime, run, numbers) == [1]
    await until(lambda: closed)


async def test_a_pipe_tells_of_a_failed_append(runtime, run):
    await complete(runtime, run)
    with pytest.raises(StreamEnded):
        await numbers.pipe([1, 2], target=run.id)


async def test_a_pipe_of_nothing_is_nothing(runtime, run):
    assert await numbers.pipe([], target=run.id) == []


async def test_a_writer_flushes_at_the_end_of_its_block(runtime, run):
    async with numbers.writer(target=run.id) as writer:
        for i in range(100):
            writer.append(i)
    head = await runtime.store.head(StreamKey(run.id, "numbers"))
    assert head.position.offset == 100
    await complete(runtime, run)
    with pytest.raises(StreamEnded):
        async with numbers.writer(target=run.id) as writer:
            writer.append(1)


# Reading.


async def test_reading_starts_where_it_is_told_and_waits_for_what_comes(runtime, run):
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


async def test_a_reader_that_gets_nothing_in_time_is_told_so(runtime, run):
    await numbers.append(1, target=run.id)
    got = []
    with pytest.raises(ReadTimeout, match=r"numbers: no record came within 0\.05 s"):
        async for value in numbers.read(run.id, timeout_s=0.05):
            got.append(value)
    assert got == [1]
    assert runtime.store._growth._watches == {}


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "remote"])
async def test_a_time_out_of_0_yields_what_is_there_and_waits_for_nothing(kind, tmp_path):
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
    monkeypatch.setattr("gateway.sdk.inputs.LOOK_S", 0.01)
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


async def test_a_position_that_says_nothing_any_more_is_an_error(runtime, run):
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
def test_a_number_that_json_cannot_hold_is_refused_where_it_is_appended(value):
    with pytest.raises(InvalidValue, match=rf"'number': the value: {value} would be read back"):
        streams.define("number", float).encode(value)
    assert streams.define("number", float | None).encode(None) == b"null"
