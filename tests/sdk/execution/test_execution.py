"""The execution of runs: statuses, errors, slots, and the end of the process."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

from gateway import connect, current_run, runs, task
from gateway.errors import (
    NotStarted,
    RunCanceled,
    RunFailed,
    RunNotFound,
)
from gateway.model.records import StreamKey
from tests.support.gateways import DEADLINE_S, SECRET, environment, until
from tests.support.sdk.tasks import notes, notes_of, room_for, statuses


async def status_is(run_id, status):
    async with asyncio.timeout(DEADLINE_S):
        while (await runs.retrieve(run_id)).status != status:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


# Executing.


async def test_an_async_task_runs_and_its_run_tells_of_it(runtime):
    @task
    async def add_up(a: int, b: int = 2) -> int:
        return a + b

    handle = await add_up.trigger(1)
    result = await handle.wait()
    assert (result.ok, result.status, result.output, result.error) == (True, "completed", 3, None)
    run = await runs.retrieve(handle.id)
    assert (run.task, run.payload, run.output) == ("add-up", {"a": 1, "b": 2}, 3)
    assert (run.root_id, run.parent_id, run.attempt) == (run.id, None, 1)
    assert run.created_at <= run.started_at <= run.finished_at
    assert await statuses(runtime, run.id) == ["queued", "executing", "completed"]


async def test_a_plain_task_runs_in_a_thread(runtime):
    @task
    def where() -> list[str]:
        notes.append("from a thread")
        return [threading.current_thread().name, current_run().task]

    result = await where.trigger_and_wait()
    name, id = result.output
    assert name.startswith("realtime-task")
    assert id == "where"
    assert await notes_of(runtime, result.run_id) == [("from a thread", result.run_id)]


async def test_calling_a_task_calls_its_function():
    @task
    async def double(n: int) -> int:
        """Double a number."""
        assert current_run() is None
        return n * 2

    assert await double(4) == 8
    assert double.__doc__ == "Double a number."
    assert double.__name__ == "double"


async def test_a_task_knows_its_run(runtime):
    @task
    async def look() -> dict:
        await asyncio.sleep(0)
        run = current_run()
        return {"id": run.id, "root": run.root_id, "tags": run.tags, "canceled": run.is_canceled}

    result = await look.options(tags=["a", "b"]).trigger_and_wait()
    assert result.output == {
        "id": result.run_id,
        "root": result.run_id,
        "tags": ["a", "b"],
        "canceled": False,
    }
    assert current_run() is None


async def test_without_a_store_nothing_can_be_triggered():
    @task
    async def work() -> None: ...

    with pytest.raises(NotStarted, match="connect"):
        await work.trigger()


async def test_a_task_that_fails_shows_its_error_without_a_traceback(runtime, caplog):
    @task
    async def work():
        raise ValueError("the file is empty")

    result = await work.trigger_and_wait()
    assert (result.ok, result.status) == (False, "failed")
    assert (result.error.type, result.error.message) == ("ValueError", "the file is empty")
    with pytest.raises(RunFailed, match="ValueError: the file is empty"):
        _ = result.output
    run = await runs.retrieve(result.run_id)
    assert run.error == result.error
    assert "Traceback" not in str(run.to_wire())
    assert "Traceback" in caplog.text
    assert run.finished_at is not None


async def test_an_error_with_a_book_for_a_message_is_cut(runtime):
    @task
    async def work():
        raise ValueError("x" * 100_000)

    assert len((await work.trigger_and_wait()).error.message) <= 2000


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_task_that_wants_to_end_the_process_ends_its_run_only(runtime, kind):
    @task(id="async")
    async def leave():
        sys.exit(3)

    @task(id="plain")
    def leave_thread():
        sys.exit(3)

    result = await (leave if kind == "async" else leave_thread).trigger_and_wait()
    assert (result.status, result.error.message) == ("failed", "the task called sys.exit(3)")


async def test_concurrent_runs_stay_within_the_concurrency_limit():
    executing, most = 0, 0

    @task
    async def work():
        nonlocal executing, most
        executing += 1
        most = max(most, executing)
        await asyncio.sleep(0.005)
        executing -= 1

    async with room_for(3):
        results = await work.batch_trigger_and_wait([{}] * 12)
        assert all(result.ok for result in results)
    assert most == 3


# Canceling.


async def test_an_async_task_is_canceled_at_its_next_await(runtime):
    cleaned = []

    @task
    async def work():
        notes.append("before")
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    handle = await work.trigger()
    await status_is(handle.id, "executing")
    run = await runs.cancel(handle.id)
    assert run.cancel_requested_at is not None
    result = await asyncio.wait_for(handle.wait(), DEADLINE_S)
    assert result.status == "canceled"
    assert cleaned == [True]
    assert await notes_of(runtime, handle.id) == [("before", handle.id)]
    with pytest.raises(RunFailed, match="canceled"):
        _ = result.output


async def test_a_plain_task_is_canceled_at_its_next_append(runtime):
    told = threading.Event()

    @task
    def work():
        try:
            for i in range(1_000_000):
                notes.append(str(i))
        except RunCanceled:
            told.set()
            raise

    handle = await work.trigger()
    await status_is(handle.id, "executing")
    await runs.cancel(handle.id)
    assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).status == "canceled"
    assert await asyncio.to_thread(told.wait, 20)


async def test_a_plain_task_can_ask_whether_it_is_canceled(runtime):
    left = threading.Event()

    @task
    def work():
        while not current_run().is_canceled:
            pass
        left.set()

    handle = await work.trigger()
    await status_is(handle.id, "executing")
    await runs.cancel(handle.id)
    assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).status == "canceled"
    assert await asyncio.to_thread(left.wait, 20)


async def test_queued_run_is_canceled_immediately_and_never_executes():
    executed = []
    go_on = asyncio.Event()

    @task
    async def work(n: int):
        executed.append(n)
        await go_on.wait()

    async with room_for(1):
        first, second, third = await work.batch_trigger([{"n": n} for n in (1, 2, 3)])
        await until(lambda: executed)
        assert (await runs.cancel(second.id)).status == "canceled"
        assert (await second.wait()).status == "canceled"
        go_on.set()
        assert [(await handle.wait()).status for handle in (first, third)] == ["completed"] * 2
    assert executed == [1, 3]


async def test_canceling_a_waiting_run_cancels_its_children(runtime):
    @task
    async def child():
        await asyncio.Event().wait()

    @task
    async def parent():
        await child.batch_trigger_and_wait([{}, {}])

    handle = await parent.trigger()
    await status_is(handle.id, "waiting")
    children = await runs.list(parent_id=handle.id)
    await runs.cancel(handle.id)
    assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).status == "canceled"
    for run in children:
        assert (await asyncio.wait_for(child.wait(run.id), DEADLINE_S)).status == "canceled"
    assert len(children) == 2


async def test_canceling_leaves_room_for_others():
    @task
    async def stuck():
        await asyncio.Event().wait()

    @task
    async def parent():
        await stuck.trigger_and_wait()

    @task
    async def quick() -> int:
        return 1

    async with room_for(1):
        for _ in range(3):
            handle = await parent.trigger()
            await status_is(handle.id, "waiting")
            await runs.cancel(handle.id)
            assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).status == "canceled"
            result = await asyncio.wait_for(quick.trigger_and_wait(), DEADLINE_S)
            assert result.output == 1


async def test_canceling_what_has_ended_changes_nothing(runtime):
    @task
    async def work(): ...

    result = await work.trigger_and_wait()
    run = await runs.cancel(result.run_id)
    assert (run.status, run.cancel_requested_at) == ("completed", None)
    with pytest.raises(RunNotFound):
        await runs.cancel("run_nowhere")


async def test_a_child_that_is_canceled_is_a_result_for_its_parent(runtime):
    @task
    async def child():
        await asyncio.Event().wait()

    @task
    async def parent() -> str:
        return (await child.trigger_and_wait()).status

    handle = await parent.trigger()
    await status_is(handle.id, "waiting")
    (run,) = await runs.list(parent_id=handle.id)
    await status_is(run.id, "executing")
    await runs.cancel(run.id)
    assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).output == "canceled"


# The end of the process.


async def test_runs_that_execute_when_the_process_stops_are_crashed(tmp_path):
    url = f"sqlite:{tmp_path}/a.db"

    @task
    async def work():
        notes.append("started")
        await asyncio.Event().wait()

    async with connect(store=url, secret_key=SECRET):
        handle = await work.trigger()
        async for _ in notes.read(handle.id):
            break
    async with connect(store=url, secret_key=SECRET) as runtime:
        run = await runs.retrieve(handle.id)
        assert (run.status, run.error.type) == ("crashed", "ProcessStopped")
        assert await notes_of(runtime, handle.id) == [("started", handle.id)]


DYING = """
import asyncio, sys
from gateway import connect, streams, task

notes = streams.define("notes")

@task
async def work():
    await notes.append("started")
    print("started", flush=True)
    await asyncio.Event().wait()

@task
async def parent():
    await work.batch_trigger_and_wait([{}, {}])

async def main():
    async with connect(store=sys.argv[1]):
        handle = await parent.trigger()
        print(handle.id, flush=True)
        await handle.wait()

asyncio.run(main())
"""


async def test_runs_of_a_process_that_was_killed_are_crashed_at_the_next_start(tmp_path):
    url = f"sqlite:{tmp_path}/a.db"
    parent_id = await asyncio.to_thread(_start_and_kill, url)
    async with connect(store=url, secret_key=SECRET) as runtime:
        family = [await runs.retrieve(parent_id), *await runs.list(parent_id=parent_id)]
        assert len(family) == 3
        for run in family:
            assert (run.status, run.error.type) == ("crashed", "ProcessDied")
            assert run.finished_at is not None
        for child in family[1:]:
            assert await notes_of(runtime, child.id) == [("started", child.id)]
            head = await runtime.store.head(StreamKey(child.id, "notes"))
            assert head.end == "crashed"


def _start_and_kill(url):
    command = [sys.executable, "-c", DYING, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        lines = [process.stdout.readline().strip() for _ in range(3)]
        os.kill(process.pid, signal.SIGKILL)
    assert lines.count("started") == 2
    return next(line for line in lines if line != "started")
