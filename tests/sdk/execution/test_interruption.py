"""Runs that are cut short in unusual ways: each ends, and the process ends too."""

import asyncio
import itertools

import pytest

from gateway import Retry, connect, current_run, metadata, runs, streams, task, wait
from tests.support.gateways import SECRET, gateway_process, until, working
from tests.support.redis.servers import fresh_url, shared_server
from tests.support.stores import new_store

lines = streams.define("lines", int)


async def ended(run_id):
    async with asyncio.timeout(20):
        async for run in runs.subscribe(run_id):
            last = run
    return last


@pytest.mark.parametrize(
    "raised", [StopIteration, KeyboardInterrupt, SystemExit, StopAsyncIteration]
)
async def test_run_of_a_plain_function_fails_whatever_that_raises(raised):
    @task
    def work() -> None:
        raise raised

    async with working(concurrency=1) as active:
        result = await asyncio.wait_for(work.trigger_and_wait(), 20)
        assert result.status == "failed"
        assert result.error.type == (
            "StopAsyncIteration" if raised is StopAsyncIteration else "RuntimeError"
        )
        await until(lambda: active.runner._context.slots._value == 1)


def cancel_all_others():
    for each in asyncio.all_tasks() - {asyncio.current_task()}:
        each.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_code_that_cancels_all_tasks_leaves_every_run_ended(kind, steps, tmp_path):
    """A library's idea of a shutdown; the process lives on."""

    @task(retry=Retry(max_attempts=2, min_s=0))
    async def tried_again() -> int:
        await wait.for_seconds(0 if current_run().attempt == 2 else 3600)
        return current_run().attempt

    @task
    async def writing() -> None:
        for n in itertools.count():
            await lines.append(n)
            metadata.set("n", n)
            if n == 5:
                reached.set()

    @task
    async def queued() -> str:
        return "executed"

    async with working(new_store(kind, tmp_path), concurrency=2) as active:
        reached = asyncio.Event()
        handles = [await each.trigger() for each in (tried_again, writing, writing, queued)]
        await reached.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        receipts = [lines.append(n, target=handles[0].id) for n in range(3)]
        cancel_all_others()
        statuses = [(await ended(handle.id)).status for handle in handles]
        assert statuses == ["completed", "crashed", "crashed", "completed"]
        await asyncio.wait_for(asyncio.gather(*receipts, return_exceptions=True), 20)
        await until(lambda: active.runner._context.slots._value == 2)


@pytest.mark.parametrize("kind", ["sqlite", "redis", "worker"])
def test_keyboard_interrupt_in_a_task_ends_run_and_process(kind, tmp_path):
    @task
    async def work() -> None:
        lines.append(1)
        metadata.set("a", 1)
        raise KeyboardInterrupt

    ids = []

    async def main(**where):
        async with connect(**where, secret_key=SECRET):
            handle = await work.trigger()
            ids.append(handle.id)
            await handle.wait()

    async def look(**where):
        async with connect(**where, secret_key=SECRET):
            return await runs.retrieve(ids[0])

    def interrupt(**where):
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main(**where))
        run = asyncio.run(look(**where))
        assert (run.status, run.error.type) == ("crashed", "ProcessStopped")

    sqlite = f"sqlite:{tmp_path}/test.db?durability=normal"
    if kind == "worker":
        with gateway_process(sqlite, tmp_path) as process:
            interrupt(url=process.url)
    else:
        interrupt(store=sqlite if kind == "sqlite" else fresh_url())


@pytest.mark.parametrize("how", ["completed", "failed", "tried again", "waits"])
async def test_run_ends_though_a_failover_lost_that_it_began(how, tmp_path):
    """The keys of the run are put back to what they were before its attempt."""
    store = new_store("redis", tmp_path)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @task(retry=Retry(max_attempts=2 if how == "tried again" else 1, min_s=0, jitter=False))
    async def work() -> int:
        begun.set()
        await go_on.wait()
        if how == "waits":
            await wait.for_seconds(0.01)
        if how == "failed" or current_run().attempt < attempts:
            raise ValueError
        return current_run().attempt

    attempts = 2 if how == "tried again" else 1
    client = shared_server().client()
    client.connection_pool.connection_kwargs["decode_responses"] = False
    async with working(store, concurrency=1) as active:
        await active.runner._context.slots.acquire()
        handle = await work.trigger()
        before = {key: client.dump(key) for key in client.scan_iter(f"*{handle.id}*")}
        active.runner._context.slots.release()
        await begun.wait()
        for key, value in before.items():
            client.restore(key, 0, value, replace=True)
        assert (await runs.retrieve(handle.id)).status == "queued"
        go_on.set()
        await until(lambda: not active.runner._executions)
        run = await runs.retrieve(handle.id)
        assert run.status == ("failed" if how == "failed" else "completed")
        assert run.attempt == attempts
