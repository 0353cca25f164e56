"""Runs that a task queue brings a second time."""

import asyncio
from functools import partial

import pytest

from gateway import Retry, current_run, runs, streams, task
from gateway.sdk import task_registry
from gateway.sdk.execution.redelivery import ANSWER_S, take_over
from gateway.sdk.execution.runner import Runner
from gateway.sdk.execution.task_queues import queue_owner
from gateway.sdk.runtime import Runtime
from tests.support.gateways import DEADLINE_S, Time, new_run, until, working

QUEUE = queue_owner("test")
progress = streams.define("progress", int)


def held(**options):
    """Define a task `work` that waits: an item for each execution, what ends them, the task."""
    began, release = [], asyncio.Event()

    @task(**options)
    async def work() -> int:
        began.append(1)
        await release.wait()
        return len(began)

    return began, release, work


async def lost_run(active, **fields):
    """Leave a run as a worker that was killed does."""
    fields = {"task": "work", "payload": {}, "owner": QUEUE} | fields
    run = await active.store.create_run(new_run(**fields))
    return await active.store.patch_run(run.id, {"status": "executing", "owner": "worker_dead"})


async def brought(time, run):
    """Bring a run whose former worker does not answer."""
    carrying = asyncio.create_task(task_registry.execute_queued(run.id, QUEUE))
    await until(lambda: carrying.done() or time.sleeping == [ANSWER_S])
    time.let_pass(ANSWER_S)
    return await carrying


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_attempts": 3}, ("completed", 2)),
        ({"max_attempts": 3, "attempt": 2}, ("completed", 3)),
        ({"max_attempts": 3, "attempt": 3}, ("crashed", 3)),
        ({"max_attempts": 3, "retry_on_crash": False}, ("crashed", 1)),
        ({"retry_on_crash": False}, ("crashed", 1)),
        ({}, ("completed", 1)),  # how often it is brought is the queue's own business
    ],
)
async def test_a_run_that_is_brought_again_is_at_its_next_attempt_if_it_has_one(fields, expected):
    time, executed = Time(), []

    @task
    async def work() -> int:
        executed.append(current_run().attempt)
        return current_run().attempt

    async with working(owner="worker_b", time=time) as active:
        run = await brought(time, await lost_run(active, **fields))
        assert (run.status, run.attempt) == expected
        assert executed == ([run.attempt] if run.status == "completed" else [])
        if run.attempt > fields.get("attempt", 1):
            assert "its queue brought it again" in run.last_error.message


async def test_a_run_whose_worker_is_alive_is_not_executed_a_second_time():
    time = Time()
    began, release, _ = held(retry=Retry(max_attempts=3))
    async with working(owner="worker_a", time=time) as active:
        run = await active.store.create_run(
            new_run(task="work", payload={}, owner=QUEUE, max_attempts=3)
        )
        first = asyncio.create_task(task_registry.execute_queued(run.id, QUEUE))
        await until(lambda: began)
        elsewhere = Runtime(active.store, asyncio.get_running_loop(), **time.of_runtime)
        run = (await active.store.get_run(run.id)).run
        found = await asyncio.wait_for(take_over(elsewhere, run, "worker_b"), DEADLINE_S)
        assert (found.status, found.owner, found.attempt) == ("executing", "worker_a", 1)
        again = await task_registry.execute_queued(run.id, QUEUE)  # brought to the same worker
        assert again.status == "executing"
        release.set()
        assert ((await first).status, (await runs.retrieve(run.id)).output) == ("completed", 1)


async def test_returning_worker_does_not_change_the_next_attempt(caplog):
    time, stopped = Time(), asyncio.Event()

    @task(retry=Retry(max_attempts=3))
    async def work() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with working(owner="worker_a", time=time) as active:
        run = await active.store.create_run(
            new_run(task="work", payload={}, owner=QUEUE, max_attempts=3)
        )
        first = asyncio.create_task(task_registry.execute_queued(run.id, QUEUE))
        async for now in runs.subscribe(run.id):
            if now.status == "executing":
                break
        patch = {"owner": "worker_b", "attempt": 2, "status": "queued"}  # it heard of nothing
        await active.store.patch_run(run.id, patch)
        await active.store.patch_run(run.id, {"status": "executing"})
        await asyncio.wait_for(stopped.wait(), DEADLINE_S)
        await first
        run = await runs.retrieve(run.id)
        assert (run.status, run.owner, run.attempt) == ("executing", "worker_b", 2)
        assert "another process has taken the run over" in caplog.text


async def test_run_delivered_to_two_workers_starts_once():
    began, release, work = held(retry=Retry(max_attempts=2))
    async with working(owner="worker_a") as active:
        elsewhere = Runtime(active.store, active.loop)
        elsewhere.runner = Runner(elsewhere, owner="worker_b", concurrency=1)
        run = await active.store.create_run(
            new_run(task="work", payload={}, owner=QUEUE, max_attempts=2)
        )
        body = partial(work._execute, active.runner)
        carrying = [
            asyncio.create_task(each.execute_queued(run, body, Retry(), QUEUE))
            for each in (active.runner, elsewhere.runner)
        ]
        await asyncio.wait(carrying, return_when=asyncio.FIRST_COMPLETED)
        assert len(began) == 1
        release.set()
        found = await asyncio.gather(*carrying)
        assert sorted(each.status for each in found) == ["completed", "executing"]
        assert (await runs.retrieve(run.id)).output == 1


async def test_a_worker_that_comes_back_stops_also_if_the_attempt_has_its_number():
    """A run without a `Retry` that its queue has brought again."""
    time, stopped = Time(), asyncio.Event()

    @task
    async def work() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with working(owner="worker_a", time=time) as active:
        run = await active.store.create_run(new_run(task="work", payload={}, owner=QUEUE))
        first = asyncio.create_task(task_registry.execute_queued(run.id, QUEUE))
        async for now in runs.subscribe(run.id):
            if now.status == "executing":
                break
        later = "2126-11-22T12:56:14.000Z"  # in one change, so that the first one cannot answer
        patch = {"owner": "worker_b", "queued_at": later}
        await active.store.patch_run(run.id, patch)
        await asyncio.wait_for(stopped.wait(), 20)
        await first
        run = await runs.retrieve(run.id)
        assert (run.status, run.owner) == ("executing", "worker_b")


async def test_a_run_that_one_worker_is_brought_twice_is_executed_once():
    began, release, _ = held()
    async with working(owner="worker_a") as active:
        run = await active.store.create_run(new_run(task="work", payload={}, owner=QUEUE))
        both = [asyncio.create_task(task_registry.execute_queued(run.id, QUEUE)) for _ in range(2)]
        await until(lambda: began)
        release.set()
        ended = await asyncio.gather(*both)
        assert [(each.status, each.output) for each in ended] == [("completed", 1)] * 2


async def test_a_worker_that_is_asked_for_its_run_does_not_ask_for_it_too():
    """Its own copy of the message arrives before it has answered another worker."""
    began, release, _ = held()
    async with working(owner="worker_a") as active:
        run = await active.store.create_run(new_run(task="work", payload={}, owner=QUEUE))
        first = asyncio.create_task(task_registry.execute_queued(run.id, QUEUE))
        await until(lambda: began)
        await active.store.patch_run(run.id, {"owner": "worker_b", "attempt": 1})
        again = await task_registry.execute_queued(run.id, QUEUE)
        assert (again.status, again.owner) == ("executing", "worker_b")  # has not been answered yet
        async for now in runs.subscribe(run.id):
            if now.owner == "worker_a":
                break
        release.set()
        assert ((await first).status, (await runs.retrieve(run.id)).output) == ("completed", 1)
