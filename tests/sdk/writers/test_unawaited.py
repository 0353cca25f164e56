"""What nobody awaits: refusals outside runs, threads that outlive their run, forgotten pipes."""

import asyncio
import contextvars
import gc
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway import connect, current_run, metadata, streams, task
from gateway.errors import NoParent, NotInRun, RealtimeError, StreamEnded
from gateway.sdk.writers.writer_pool import RECENT_WRITERS
from tests.support.gateways import DEADLINE_S, until, working

approval = streams.input("untold-approval", bool)
numbers = streams.define("numbers", int)


@task
async def quick() -> None:
    """Return at once."""


def refusals(caplog) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]


async def test_refused_send_that_is_not_awaited_is_logged_and_raised_at_the_end(caplog) -> None:
    with pytest.raises(StreamEnded) as raised:
        async with connect(store="memory:"):
            run = await quick.trigger()
            await run.wait()
            approval.send(run.id, True)
            await until(lambda: refusals(caplog), "the log to tell of it")
    (told,) = refusals(caplog)
    assert f"{run.id}/untold-approval" in told and str(raised.value) in told


async def test_refused_append_whose_receipt_is_still_held_is_raised_at_the_end(caplog) -> None:
    with pytest.raises(StreamEnded):
        async with connect(store="memory:"):
            run = await quick.trigger()
            await run.wait()
            receipt = numbers.append(1, target=run.id)
    assert receipt.is_done and len(refusals(caplog)) == 1


@pytest.mark.slow
async def test_refusal_that_was_awaited_is_not_reported_again(caplog) -> None:
    async with connect(store="memory:"):
        run = await quick.trigger()
        await run.wait()
        with pytest.raises(StreamEnded):
            await approval.send(run.id, True)
        with pytest.raises(StreamEnded):
            async with numbers.writer(target=run.id) as writer:
                writer.append(1)
        gc.collect()
    assert refusals(caplog) == []


async def test_error_of_the_block_takes_precedence(caplog) -> None:
    with pytest.raises(ZeroDivisionError):
        async with connect(store="memory:"):
            run = await quick.trigger()
            await run.wait()
            approval.send(run.id, True)
            raise ZeroDivisionError
    assert len(refusals(caplog)) == 1


@pytest.mark.parametrize("what", ["append", "metadata"])
async def test_thread_that_outlives_its_run_is_reported(what, caplog) -> None:
    over, done = threading.Event(), threading.Event()

    def late() -> None:
        assert over.wait(DEADLINE_S)
        numbers.append(2) if what == "append" else metadata.set("n", 2)
        done.set()

    @task
    async def leaves() -> None:
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(late,)).start()

    async with connect(store="memory:") as runtime:
        run = await leaves.trigger()
        await run.wait()
        over.set()
        await asyncio.to_thread(done.wait, DEADLINE_S)
        await until(lambda: refusals(caplog), "the log to tell of it")
        assert run.id in refusals(caplog)[0]
        assert isinstance(runtime.writers.unreported, RealtimeError)
        runtime.writers.unreported = None


async def test_unawaited_pipe_warns() -> None:
    @task
    async def forgets() -> None:
        with pytest.warns(RuntimeWarning, match=r"'numbers' was never awaited"):
            numbers.pipe([1])
            gc.collect()

    @task
    def uses() -> None:
        list(numbers.pipe([1]))

    async with connect(store="memory:"):
        assert (await (await forgets.trigger()).wait()).ok
        assert (await (await uses.trigger()).wait()).ok


# Writers outside runs.


async def test_writers_of_a_backend_are_released() -> None:
    @task
    async def asks() -> bool:
        return await approval.once(timeout_s=DEADLINE_S)

    count = 2 * RECENT_WRITERS
    async with connect(store="memory:") as runtime:
        writers = weakref.WeakSet()
        for _ in range(count):
            run = await asks.trigger()
            writers.add(runtime.writer(approval.id, run.id))
            await approval.send(run.id, True)
            await run.wait()
        assert 0 < len(writers) <= RECENT_WRITERS + 1


async def test_writer_outside_a_run_is_used_again() -> None:
    later = quick.options(delay_s=3600)
    async with connect(store="memory:") as runtime:
        run = await later.trigger()
        first = runtime.writer("numbers", run.id)
        await numbers.append(1, target=run.id)
        for _ in range(RECENT_WRITERS - 1):
            runtime.writer("numbers", (await later.trigger()).id)
        assert runtime.writer("numbers", run.id) is first
        receipt = numbers.append(2, target=run.id)
        assert await receipt == 1


# Threads.


async def test_pipes_that_wait_leave_the_default_pool_to_others() -> None:
    go_on = threading.Event()
    waits = 0

    def blocking():
        nonlocal waits
        yield 0
        waits += 1
        go_on.wait(DEADLINE_S)
        yield current_run().id

    @task
    async def pipes() -> int:
        return len(await streams.define("anything", int | str).pipe(blocking()))

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
    async with connect(store="memory:"):
        runs = [await pipes.trigger() for _ in range(3)]
        await until(lambda: waits == 3, "three pipes that wait")
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), DEADLINE_S) == 7
        go_on.set()
        assert [(await run.wait()).output for run in runs] == [2, 2, 2]


async def test_pipe_raises_what_its_iterable_raises() -> None:
    class Broken:
        def __iter__(self):
            raise OSError("no file")

    def breaks():
        yield 1
        raise OSError("no more")

    @task
    async def pipes(which: int) -> None:
        await numbers.pipe([Broken(), breaks()][which])

    async with connect(store="memory:"):
        errors = [(await (await pipes.trigger(n)).wait()).error.message for n in range(2)]
    assert errors == ["no file", "no more"]


async def test_error_in_pool_thread_explains_context_propagation() -> None:
    def in_pool(function, *args):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function, *args).result(DEADLINE_S)

    @task
    def works() -> list[str]:
        texts = []
        for use in (lambda: numbers.append(1), lambda: metadata.set("n", 1)):
            with pytest.raises((NoParent, NotInRun)) as raised:
                in_pool(use)
            texts.append(str(raised.value))
        in_pool(contextvars.copy_context().run, numbers.append, 2)
        return texts

    async with connect(store="memory:"):
        run = await works.trigger()
        for text in (await run.wait()).output:
            assert "copy_context().run" in text and "asyncio.to_thread" in text
        assert [value async for value in numbers.read(run.id, timeout_s=DEADLINE_S)] == [2]


# Inputs.


async def test_input_is_not_lost_when_a_timeout_strikes_before_the_slot_is_held() -> None:
    occupied, let_go = asyncio.Event(), asyncio.Event()

    @task
    async def decide() -> bool:
        waiting = asyncio.ensure_future(approval.wait(timeout_s=DEADLINE_S))
        inputs = current_run().inputs
        await until(lambda: approval.id in inputs and inputs[approval.id].buffered, "the value")
        waiting.cancel()  # as a time-out of the caller's does
        let_go.set()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        return await approval.once(timeout_s=DEADLINE_S)

    @task
    async def occupies() -> None:
        occupied.set()
        await let_go.wait()

    async with working(concurrency=1):
        run, other = await decide.trigger(), await occupies.trigger()
        await occupied.wait()
        await approval.send(run.id, True)
        assert (await run.wait()).output is True
        assert (await other.wait()).ok


async def test_two_waits_and_a_handler_take_each_value_once() -> None:
    @task
    async def decide() -> list[int]:
        seen: list[int] = []
        votes = streams.input("untold-votes", int)
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(votes.wait(timeout_s=DEADLINE_S)) for _ in range(4)]
            async with votes.on(seen.append):
                await until(lambda: len(seen) == 4, "what the waits leave to the handler")
        return sorted(seen + [wait.result() for wait in waits])

    async with connect(store="memory:"):
        run = await decide.trigger()
        for n in range(8):
            await streams.input("untold-votes", int).send(run.id, n)
        assert (await run.wait()).output == list(range(8))
