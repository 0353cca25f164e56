"""Pipes: each item of an iterable is appended and passed on."""

import asyncio
import threading

import pytest

from gateway import task
from gateway.errors import (
    InvalidValue,
    StreamEnded,
)
from gateway.model.records import StreamKey
from gateway.sdk.writers import stream_writer as writers
from gateway.sdk.writers.pipe import PIPE_WINDOW
from tests.support.gateways import new_run, until
from tests.support.sdk.streams import answer, complete, numbers, values_of


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
async def test_pipe_appends_and_yields_each_value(runtime, run, make):
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


async def test_sync_pipe_on_event_loop_raises(runtime, run):
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


async def test_pipe_reads_at_most_its_window_ahead(runtime, run):
    taken = 0

    async def source():
        nonlocal taken
        for i in range(2000):
            taken += 1
            yield i

    async for _ in numbers.pipe(source(), target=run.id):
        head = await runtime.store.head(StreamKey(run.id, "numbers"))
        assert taken - head.position.offset <= 2 * PIPE_WINDOW
    assert taken == 2000


async def test_failing_source_fails_pipe_after_storing_earlier_values(runtime, run):
    async def source():
        yield 1
        yield 2
        raise ConnectionError("the model is gone")

    with pytest.raises(ConnectionError, match="the model is gone"):
        await numbers.pipe(source(), target=run.id)
    assert await values_of(runtime, run, numbers) == [1, 2]


async def test_invalid_value_stops_pipe_and_closes_its_source(runtime, run):
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
