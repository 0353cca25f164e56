"""Taskiq's tasks as runs, and tasks of this library on real Taskiq workers."""

import asyncio
import os
import signal
from unittest.mock import AsyncMock

import pytest
from taskiq import InMemoryBroker

from gateway import connect, runs, streams, task
from gateway.errors import QueueUnavailable, RunNotFound
from gateway.integrations.taskiq import TaskiqQueue, handle_of, install, middleware
from gateway.sdk.execution import task_queues
from gateway.sdk.runtime import current_runtime
from tests.support.gateways import DEADLINE_S, SECRET, Process, environment, serving
from tests.support.queues.taskiq_lists import ListBroker
from tests.support.queues.workers import (
    TASKIQ_SHOP,
    Shop,
    ended,
    first,
    read_as_page,
    shop,
    statuses,
    wait_for_takeover_request,
)

WORKER = ("taskiq", "worker", f"{TASKIQ_SHOP}:broker", "--workers", "2", "--log-level", "INFO")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    with shop(tmp_path_factory.mktemp("taskiq")) as place, place.worker(*WORKER):
        os.environ["BROKER"] = place.broker
        yield place


@pytest.fixture
async def taskiq(place):
    from tests.support.queues import taskiq_shop

    task_queues.register(TaskiqQueue(taskiq_shop.broker))
    async with place.connected():
        await taskiq_shop.broker.startup()
        yield taskiq_shop


async def send(taskiq, task, *args):
    """Send a task; return Taskiq's handle and the run."""
    sent = await task.kiq(*args)
    return sent, handle_of(sent, taskiq.broker)


async def values(stream, run_id):
    return [value async for value in stream.read(run_id)]


async def test_task_is_a_run_with_ordered_records(place, taskiq):
    sent, run = await send(taskiq, taskiq.greet, "ann")
    records = await read_as_page(place.gateway.url, run.access_token, run.id, "lines")
    assert [each["data"] for each in records] == ["hello ann", "attempt 1"]
    kept = await ended(run.id)
    assert (kept.task, kept.status, kept.output) == (f"{TASKIQ_SHOP}:greet", "completed", None)
    assert await statuses(run.id) == ["queued", "executing", "completed"]
    assert (await sent.wait_result(timeout=10)).return_value == "ANN"
    assert kept.owner.startswith("worker_") and kept.owner != current_runtime().runner.owner


async def test_plain_function_appends(taskiq):
    _, run = await send(taskiq, taskiq.greet_plainly, "bob")
    assert (await ended(run.id)).status == "completed"
    assert await values(taskiq.lines, run.id) == ["hello bob"]


async def test_sent_tasks_are_children_with_tags(taskiq):
    _, run = await send(taskiq, taskiq.order, ["ann", "bob"])
    assert (await ended(run.id)).metadata == {"sent": 2}
    children = await runs.list(parent_id=run.id)
    assert [child.tags for child in children] == [["to-bob", "greeting"], ["to-ann", "greeting"]]
    assert {(await ended(child.id)).status for child in children} == {"completed"}
    assert {child.root_id for child in children} == {run.id}


async def test_retry_is_another_attempt_of_the_same_run(taskiq):
    sent, run = await send(taskiq, taskiq.flaky, 2)
    assert (await ended(run.id)).status == "completed"
    kept = await runs.retrieve(run.id)
    assert (kept.attempt, kept.last_error.type) == (3, "ConnectionError")
    assert await statuses(run.id) == ["queued", "executing"] * 3 + ["completed"]
    assert await values(taskiq.lines, run.id) == ["try 1", "try 2", "try 3"]
    assert (await sent.wait_result(timeout=10)).return_value == "done"


async def test_task_without_attempts_left_fails(taskiq):
    _, run = await send(taskiq, taskiq.flaky, 9)
    kept = await ended(run.id)
    assert (kept.status, kept.attempt, kept.error.message) == ("failed", 3, "attempt 3")
    _, run = await send(taskiq, taskiq.fail, "no stock")
    kept = await ended(run.id)
    assert (kept.status, kept.error.type, kept.error.message) == (
        "failed",
        "ValueError",
        "no stock",
    )
    assert await first(taskiq.lines, run.id) == "before"


@pytest.mark.parametrize("name", ["linger", "linger_plainly"])
async def test_canceled_executing_run_stops(taskiq, tmp_path, name):
    flag = tmp_path / "flag"
    flag.touch()
    sent, run = await send(taskiq, getattr(taskiq, name), str(flag))
    await first(taskiq.lines, run.id)
    await runs.cancel(run.id)
    assert (await ended(run.id)).status == "canceled"
    assert (await sent.wait_result(timeout=10)).is_err


async def test_timeout_label_times_out_the_run(taskiq):
    _, run = await send(taskiq, taskiq.dawdle)
    assert (await ended(run.id)).status == "timed_out"


async def test_task_of_other_process_has_no_handle(taskiq):
    sent = await taskiq.greet.kiq("ann")
    sent.task_id = "another"
    with pytest.raises(RunNotFound, match="this process has no run"):
        handle_of(sent, taskiq.broker)


# ---- tasks of this library ----


async def test_worker_executes_task_and_appends_records(place, taskiq):
    handle = await taskiq.add.trigger(a=1, b=2)
    assert (await handle.wait()).output == 3
    records = await read_as_page(place.gateway.url, handle.access_token, handle.id, "numbers")
    assert [each["data"] for each in records] == [1, 2]
    assert (await runs.retrieve(handle.id)).owner != current_runtime().runner.owner


async def test_children_execute_while_parent_waits(taskiq):
    pairs = [[number, number] for number in range(20)]  # far more than the workers' slots
    result = await taskiq.add_all.trigger_and_wait(pairs=pairs)
    assert result.output == 2 * sum(range(20))
    assert len(await runs.list(parent_id=result.run_id)) == 20
    assert await values(taskiq.numbers, result.run_id) == [2 * number for number in range(20)]


async def test_retries_delays_and_idempotency_keys_work(taskiq):
    result = await taskiq.sometimes.trigger_and_wait(fails=2)
    run = await runs.retrieve(result.run_id)
    assert (result.output, run.attempt, run.last_error.type) == (3, 3, "ConnectionError")
    failed = await taskiq.sometimes.trigger_and_wait(fails=3)
    assert (failed.status, failed.error.message) == ("failed", "attempt 3")
    delayed = await taskiq.add.options(delay_s=0.2).trigger_and_wait(a=1, b=2)
    assert await statuses(delayed.run_id) == ["delayed", "queued", "executing", "completed"]
    task = taskiq.add.options(idempotency_key="once")
    assert (await task.trigger(a=1, b=2)).id == (await task.trigger(a=1, b=2)).id


async def test_runs_are_canceled_before_and_during_execution(taskiq, tmp_path):
    waiting = await taskiq.add.options(delay_s=60).trigger(a=1, b=2)
    await runs.cancel(waiting.id)
    assert (await ended(waiting.id)).status == "canceled"
    flag = tmp_path / "flag"
    flag.touch()
    handle = await taskiq.nap.trigger(flag=str(flag))
    await first(taskiq.numbers, handle.id)
    await runs.cancel(handle.id)
    assert (await ended(handle.id)).status == "canceled"


async def test_duplicate_delivery_executes_once(taskiq, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    handle = await taskiq.nap.trigger(flag=str(flag))
    pid = await first(taskiq.numbers, handle.id)
    run = await runs.retrieve(handle.id)
    queue = task_queues.get("taskiq")

    async def bring():
        while True:  # the executing worker may be faster than the other one
            await queue.enqueue(run)
            await asyncio.sleep(0.1)

    bringing = asyncio.create_task(bring())
    await wait_for_takeover_request(run)
    bringing.cancel()
    flag.unlink()
    assert (await ended(handle.id)).status == "completed"
    assert await values(taskiq.numbers, handle.id) == [pid]


async def test_stopping_worker_returns_delayed_runs(place, taskiq, tmp_path, monkeypatch):
    monkeypatch.setattr(taskiq.broker, "queue", "of one worker after the other")
    own = Shop(tmp_path, place.server, place.gateway)
    one = (*WORKER[:3], "--workers", "1")
    owners = set()
    with own.worker(*one, QUEUE=taskiq.broker.queue):
        handle = await taskiq.add.options(delay_s=3600).trigger(a=1, b=2)
        async for run in runs.subscribe(handle.id):
            owners.add(run.owner)
            if run.owner.startswith("worker_"):
                break
    assert (await runs.retrieve(handle.id)).owner == "queue:taskiq"
    with own.worker(*one, QUEUE=taskiq.broker.queue):
        async for run in runs.subscribe(handle.id):
            if run.owner not in owners:
                break
        await runs.cancel(handle.id)
    assert (await ended(handle.id)).status == "canceled"


async def test_killed_worker_crashes_its_runs(place, tmp_path, monkeypatch):
    """The gateway detects the lost connection; here at once, by default after a minute."""
    from tests.support.queues import taskiq_shop

    flag = tmp_path / "flag"
    flag.touch()
    async with serving() as here:
        here.gateway._leases._lease_s = 0.0
        monkeypatch.setattr(taskiq_shop.broker, "queue", "of one worker")
        own = Shop(tmp_path, place.server, here)
        with own.worker(*WORKER[:3], "--workers", "1", QUEUE="of one worker"):
            task_queues.register(TaskiqQueue(taskiq_shop.broker))
            await taskiq_shop.broker.startup()
            handle = await taskiq_shop.nap.trigger(flag=str(flag))
            pid = await first(taskiq_shop.numbers, handle.id)
            os.kill(pid, signal.SIGKILL)
            run = await ended(handle.id)
            assert (run.status, run.error.type) == ("crashed", "ProcessDied")
            flag.unlink()


async def test_in_memory_broker_needs_no_worker():
    broker = InMemoryBroker()
    install(broker, with_payloads=True)
    lines = streams.define("lines")

    @broker.task
    async def greet(name: str) -> str:
        lines.append(f"hello {name}")
        return name

    @task(runner="taskiq")
    async def double(number: int) -> int:
        return 2 * number

    async with connect(store="memory:", secret_key=SECRET):
        await broker.startup()
        sent = await greet.kiq("ann")
        run = await ended(handle_of(sent, broker).id)
        assert run.status == "completed"
        assert (run.payload, run.output) == ({"args": ["ann"], "kwargs": {}}, "ann")
        assert [line async for line in lines.read(run.id)] == ["hello ann"]
        assert (await double.trigger_and_wait(21)).output == 42
        await broker.shutdown()


async def test_worker_starts_before_its_gateway(tmp_path, monkeypatch):
    process = Process("memory:", tmp_path)
    for name, value in environment(REALTIME_URL=process.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(middleware, "UPDATE_TIMEOUT_S", 0.1)
    broker = InMemoryBroker()
    install(broker)
    lines = streams.define("lines")

    @broker.task
    async def greet(name: str) -> str:
        lines.append(f"hello {name}")
        return name

    await broker.startup()
    try:
        sent = await greet.kiq("ann")
        run_id = handle_of(sent, broker).id
        await asyncio.to_thread(process.start)
        result = await sent.wait_result(timeout=DEADLINE_S)
        assert (result.is_err, result.return_value) == (False, "ann")
        assert (await ended(run_id)).status == "completed"
        assert await values(lines, run_id) == ["hello ann"]
    finally:
        await broker.shutdown()
        process.kill()


async def test_own_timeout_error_is_not_the_timeout_label():
    broker = InMemoryBroker()
    install(broker)

    async def asks_a_slow_server() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    def asks_it_plainly() -> None:
        raise TimeoutError

    functions = {
        "async": broker.task(asks_a_slow_server),
        "plain": broker.task(asks_it_plainly),
        "async, with a label": broker.task("labeled", timeout=10)(asks_a_slow_server),
        "plain, with a label": broker.task("labeled plain", timeout=10)(asks_it_plainly),
    }
    async with connect(store="memory:", secret_key=SECRET):
        await broker.startup()
        for name, function in functions.items():
            run = await ended(handle_of(await function.kiq(), broker).id)
            assert (run.status, run.error.type) == ("failed", "TimeoutError"), name
        await broker.shutdown()


async def test_unusual_exceptions_fail_the_run():
    broker = InMemoryBroker()
    install(broker, with_payloads=True)

    class Mute(Exception):
        def __str__(self):
            raise ValueError("no text")

    failures = {
        "half an emoji": (ValueError("cannot parse \ud83d"), "cannot parse \ufffd"),
        "mute": (Mute(), "its text cannot be shown: str() raised ValueError"),
        "group": (ExceptionGroup("g", [OSError("a"), OSError("b")]), "OSError: a; OSError: b"),
        "canceled": (asyncio.CancelledError(), "nobody had canceled its run"),
    }

    @broker.task
    async def fail(what: str, _: str = "") -> None:
        raise failures[what][0]

    async with connect(store="memory:", secret_key=SECRET):
        await broker.startup()
        for what, (error, text) in failures.items():
            sent = await fail.kiq(what, "\ud83d")
            run = await ended(handle_of(sent, broker).id)
            assert (run.status, run.error.type) == ("failed", type(error).__name__), what
            assert text in run.error.message, what
        await broker.shutdown()


async def test_flush_error_fails_the_run(monkeypatch):
    broker = InMemoryBroker()
    install(broker)

    @broker.task
    async def work() -> None: ...

    async with connect(store="memory:", secret_key=SECRET) as active:
        await broker.startup()
        fault = AsyncMock(side_effect=[ZeroDivisionError("a fault")])
        with monkeypatch.context() as patched:
            patched.setattr(active, "flush", fault)
            run = await ended(handle_of(await work.kiq(), broker).id)
        assert (run.status, run.error.type) == ("failed", "ZeroDivisionError")
        await broker.shutdown()


async def test_run_is_finished_when_broker_rejects_it():
    broker = ListBroker("redis://127.0.0.1:1/0")
    install(broker)

    @task(runner="taskiq")
    async def lost() -> None: ...

    async with connect(store="memory:", secret_key=SECRET):
        with pytest.raises(QueueUnavailable, match="did not accept a run of lost"):
            await lost.trigger()
        assert await runs.list() == []
