"""What becomes of runs when the process that has them ends, and when it comes back."""

import asyncio
import os
import subprocess
import sys

import pytest

import gateway
from gateway import Retry, current_run, runs, task
from gateway.sdk import task_registry
from gateway.sdk.session import opened
from gateway.stores.memory import MemoryStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import DEADLINE_S, SECRET, Time, environment, new_run, until, working

LONG_AGO = "2026-11-22T12:56:14.000Z"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "test.db"


def store_at(file):
    return SqliteStore(file, durability="normal")


async def test_queued_and_delayed_runs_start_again_in_the_next_process(file):
    time, release, executed = Time(), asyncio.Event(), []

    @task
    async def blocking() -> None:
        await release.wait()

    @task
    async def work(n: int) -> int:
        executed.append(n)
        return n

    async with working(store_at(file), time=time, concurrency=1):
        first = await blocking.trigger()
        queued = [await work.trigger(n) for n in range(3)]
        delayed = await work.options(delay_s=1).trigger(3)
        expiring = await work.options(ttl_s=0.01).trigger(4)
        async for run in runs.subscribe(first.id):
            if run.status == "executing":
                break
        time.let_pass(0.01)
        assert (await expiring.wait()).status == "expired"
        assert executed == []
    async with working(store_at(file), time=time):
        assert (await runs.retrieve(first.id)).error.type == "ProcessStopped"
        for n, handle in enumerate(queued):
            assert (await work.wait(handle.id)).output == n
        assert executed == [0, 1, 2]
        time.let_pass(1)
        for n, handle in enumerate([*queued, delayed]):
            result = await work.wait(handle.id)
            assert (result.status, result.output) == ("completed", n)
        assert executed == [0, 1, 2, 3]


async def test_delayed_retry_continues_after_restart(file):
    time = Time()

    @task(retry=Retry(max_attempts=2, min_s=60, max_s=60))
    async def work() -> int:
        if current_run().attempt == 1:
            raise ValueError("no")
        return current_run().attempt

    async with working(store_at(file), time=time):
        handle = await work.trigger()
        async for run in runs.subscribe(handle.id):
            if run.attempt == 2:
                break
    async with working(store_at(file), time=time):
        time.let_pass(60)
        assert (await work.wait(handle.id)).output == 2


async def test_queued_runs_of_a_task_that_is_not_known_are_crashed_with_a_reason(file, monkeypatch):
    @task
    async def work() -> None: ...

    async with working(store_at(file)):
        handle = await work.options(delay_s=3600).trigger()
    monkeypatch.setattr(task_registry, "_tasks", {})
    async with working(store_at(file)):
        run = await runs.retrieve(handle.id)
        assert (run.status, run.error.type) == ("crashed", "ProcessDied")
        assert "knows no task 'work'" in run.error.message


async def test_executing_and_waiting_runs_are_crashed_at_start(file):
    store = store_at(file)
    await store.open()
    made = []
    for status in ("executing", "waiting"):
        run = await store.create_run(
            new_run(owner="embedded", started_at="2026-11-22T12:56:14.000Z")
        )
        await store.patch_run(run.id, {"status": "executing"})
        await store.patch_run(run.id, {"status": status})
        made.append(run.id)
    await store.close()
    async with working(store_at(file)):
        for id in made:
            run = await runs.retrieve(id)
            assert (run.status, run.error.type) == ("crashed", "ProcessDied")
            assert run.duration_ms > 0


async def left_executing(file, **fields):
    """Leave a run of the task `work` as a process that was killed does."""
    async with opened(store_at(file)) as store:
        fields = {"task": "work", "owner": "embedded", "payload": {}} | fields
        run = await store.create_run(new_run(**fields))
        await store.patch_run(run.id, {"status": "executing"})
        await store.patch_run(run.id, {"status": "waiting"})
        return run.id


async def test_crashed_run_continues_with_its_remaining_attempts(file, caplog):
    @task(retry=Retry(max_attempts=3))
    async def work() -> int:
        return current_run().attempt

    ids = [await left_executing(file, attempt=n, max_attempts=3) for n in (1, 2, 3)]
    async with working(store_at(file)):
        ended = [await work.wait(id) for id in ids]
        assert [(run.status, run.output) for run in ended[:2]] == [
            ("completed", 2),
            ("completed", 3),
        ]
        assert (ended[2].status, ended[2].error.type) == ("crashed", "ProcessDied")
        assert (await runs.retrieve(ids[0])).last_error.type == "ProcessDied"
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        f"run {id} (work) was cut off: the process that executed it ended; {then}"
        for id, then in zip(
            ids,
            ["attempt 2 of 3 follows", "attempt 3 of 3 follows", "it is marked crashed"],
            strict=True,
        )
    ]


@pytest.mark.parametrize("fields", [{"retry_on_crash": False}, {"cancel_requested_at": LONG_AGO}])
async def test_a_run_that_must_not_be_executed_twice_is_crashed_by_a_crash(file, fields):
    @task(retry=Retry(max_attempts=3, on_crash=False))
    async def work() -> None: ...

    id = await left_executing(file, max_attempts=3, **fields)
    async with working(store_at(file)):
        assert (await runs.retrieve(id)).status == "crashed"
        handle = await work.options(delay_s=60).trigger()
        run = await runs.retrieve(handle.id)
        assert (run.max_attempts, run.retry_on_crash) == (3, False)


async def test_interrupted_run_of_unknown_task_is_crashed(file):
    id = await left_executing(file, task="gone", max_attempts=3)
    async with working(store_at(file)):
        run = await runs.retrieve(id)
        assert (run.status, run.attempt) == ("crashed", 1)
        assert "this one knows no task 'gone'" in run.error.message


@pytest.mark.parametrize(
    ("retry", "owner", "then"),
    [
        (Retry(max_attempts=2), "embedded", "attempt 2 of 2 follows"),
        (Retry(max_attempts=2), "worker_1", "it is marked crashed"),
        (Retry(max_attempts=2, on_crash=False), "embedded", "it is marked crashed"),
        (Retry(max_attempts=1), "embedded", "it is marked crashed"),
    ],
)
async def test_run_interrupted_by_stop_or_reload_continues_if_retryable(
    file, caplog, retry, owner, then
):
    @task(retry=retry)
    async def work() -> int:
        if current_run().attempt == 1:
            await asyncio.Event().wait()
        return current_run().attempt

    async with working(store_at(file), owner=owner):
        handle = await work.trigger()
        await until_status(handle.id, "executing")
    (record,) = [each for each in caplog.records if "was cut off" in each.getMessage()]
    assert record.levelname == "WARNING" and record.run == handle.id and record.task == "work"
    assert record.getMessage() == (
        f"run {handle.id} (work) was cut off: the process that executed it was stopped; {then}"
    )
    async with working(store_at(file)):
        result = await work.wait(handle.id)
        if "follows" in then:
            assert (result.status, result.output) == ("completed", 2)
            assert (await runs.retrieve(handle.id)).last_error.type == "ProcessStopped"
        else:
            assert (result.status, result.error.type) == ("crashed", "ProcessStopped")


async def test_a_worker_that_stops_leaves_nothing_queued():
    store = MemoryStore()

    @task
    async def work() -> None: ...

    async with working(store, owner="worker_1"):
        handle = await work.options(delay_s=3600).trigger()
    await store.open()
    run = (await store.get_run(handle.id)).run
    assert (run.status, run.error.type) == ("crashed", "ProcessStopped")


class Slow(MemoryStore):
    """Takes its time to keep one status."""

    def __init__(self, status) -> None:
        super().__init__()
        self.status = status
        self.asked, self.release = asyncio.Event(), asyncio.Event()

    async def patch_run(self, run_id, patch, **more):
        if patch.get("status") == self.status:
            self.asked.set()
            await self.release.wait()
        return await super().patch_run(run_id, patch, **more)


@pytest.mark.parametrize(
    ("status", "owner", "expected"),
    [
        ("completed", "worker_1", "completed"),
        ("completed", "embedded", "completed"),
        ("delayed", "worker_1", "crashed"),
        ("delayed", "embedded", "delayed"),
    ],
)
async def test_outcome_being_stored_at_stop_is_stored(status, owner, expected):
    store = Slow(status)

    @task(retry=Retry(max_attempts=2, min_s=60, max_s=60))
    async def work() -> int:
        if status == "delayed":
            raise ValueError("no")
        return 1

    async with working(store, owner=owner) as active:
        handle = await work.trigger()
        await store.asked.wait()
        stopping = asyncio.create_task(active.runner.stop())
        await asyncio.sleep(0)
        store.release.set()
        await stopping
    await store.open()
    run = (await store.get_run(handle.id)).run
    assert (run.status, run.output) == (expected, 1 if status == "completed" else None)
    assert run.attempt == (2 if status == "delayed" else 1)


SCRIPT = """
import asyncio, os, sys
import gateway
from gateway import Retry, task

@task(retry=Retry(max_attempts=int(sys.argv[2])))
async def work(n: int) -> int:
    if n == 0:
        print("executing", flush=True)
        await asyncio.Event().wait()
    return n

async def main():
    async with gateway.connect(store=sys.argv[1]):
        for n in range(2):
            print((await work.trigger(n)).id, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_after_a_kill_queued_runs_start_and_executing_ones_are_crashed(tmp_path, max_attempts):
    store = f"sqlite:{tmp_path}/test.db"
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, store, str(max_attempts)],
        env=environment(REALTIME_CONCURRENCY="1", PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        text=True,
    )
    ids, seen = [], set()
    for line in script.stdout:
        (seen.add if line.startswith("executing") else ids.append)(line.strip())
        if seen and len(ids) == 2:
            break
    script.kill()
    script.wait()
    script.stdout.close()

    @task
    async def work(n: int) -> int:
        return n

    async def look():
        async with gateway.connect(store=store, secret_key=SECRET):
            return [await work.wait(id) for id in ids]

    executing, queued = asyncio.run(look())
    if max_attempts == 1:
        assert (executing.status, executing.error.type) == ("crashed", "ProcessDied")
    else:
        assert (executing.status, executing.output) == ("completed", 0)
    assert (queued.status, queued.output) == ("completed", 1)


async def fill(store, *, full):
    """Let the file grow no more, as on a full disk; or again."""

    def set_limit(tx):
        (pages,) = tx._db.execute("PRAGMA page_count").fetchone()
        tx._db.execute(f"PRAGMA max_page_count = {pages if full else 1_000_000}")

    await store._write(set_limit)


LARGE = "x" * 100_000


async def executing_on_a_full_disk(it, work, release):
    handle = await work.trigger()
    await until_status(handle.id, "executing")
    await fill(it.store, full=True)
    release.set()
    return handle


async def test_the_end_of_a_run_that_could_not_be_kept_is_kept_when_there_is_room(file):
    time, release = Time(), asyncio.Event()

    @task
    async def work() -> str:
        await release.wait()
        return LARGE

    async with working(store_at(file), time=time, random=lambda: 1.0) as it:
        handle = await executing_on_a_full_disk(it, work, release)
        for delay_s in (0.5, 1, 2, 4, 8, 10, 10):
            await until(lambda delay_s=delay_s: time.sleeping == [delay_s])
            assert (await runs.retrieve(handle.id)).status == "executing"
            time.let_pass(delay_s)
        await until(lambda: time.sleeping == [10])
        await fill(it.store, full=False)
        time.let_pass(10)
        result = await work.wait(handle.id)
        assert (result.status, result.output) == ("completed", LARGE)


async def test_a_process_that_stops_does_not_wait_for_room(file, caplog):
    time, release = Time(), asyncio.Event()

    @task
    async def work() -> str:
        await release.wait()
        return LARGE

    async with working(store_at(file), time=time, random=lambda: 1.0) as it:
        handle = await executing_on_a_full_disk(it, work, release)
        await until(lambda: time.sleeping == [0.5])
    assert "its end could not be kept" in caplog.text
    async with working(store_at(file), time=time):
        assert (await runs.retrieve(handle.id)).status == "crashed"


async def test_a_run_that_is_deleted_while_it_executes_is_stopped(file, caplog):
    stopped = asyncio.Event()

    @task
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with working(store_at(file)) as it:
        handle = await work.trigger()
        await until_status(handle.id, "executing")
        assert await it.store.delete_run(handle.id)
        await asyncio.wait_for(stopped.wait(), DEADLINE_S)
        await until(lambda: not it.runner._executions)
    assert "ERROR" not in {record.levelname for record in caplog.records}


async def until_status(run_id, status):
    async for run in runs.subscribe(run_id):
        if run.status == status:
            return
