"""Runs that fail and are tried again."""

import asyncio
import contextvars
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import AbortTask, Retry, current_run, runs, streams, task
from gateway.errors import InvalidValue, RunCanceled
from gateway.model.log import run_log
from gateway.model.records import StreamKey
from tests.support.gateways import Time, new_run, until, working

progress = streams.define("progress", str)
AT_ONCE = Retry(max_attempts=3, min_s=0, max_s=0)
SOON = Retry(max_attempts=3, min_s=0.01, max_s=0.05)


async def changes_of(active, run_id):
    page = await active.store.read(run_log(run_id))
    return [json.loads(record.data) for record in page.records]


@pytest.mark.parametrize("retry", [AT_ONCE, SOON])
async def test_run_is_retried_until_completion_and_logs_each_attempt(retry):
    @task(retry=retry)
    async def work(fail: int) -> int:
        attempt = current_run().attempt
        progress.append(f"attempt {attempt}")
        if attempt <= fail:
            raise ValueError(f"attempt {attempt} went wrong")
        return attempt

    async with working() as active:
        result = await work.trigger_and_wait(2)
        assert result.output == 3
        run = await runs.retrieve(result.run_id)
        assert (run.status, run.attempt, run.max_attempts) == ("completed", 3, 3)
        assert run.error is None
        assert run.last_error.message == "attempt 2 went wrong"
        assert [value async for value in progress.read(run.id)] == [
            "attempt 1",
            "attempt 2",
            "attempt 3",
        ]
        between = "queued" if retry is AT_ONCE else "delayed"
        changes = await changes_of(active, run.id)
        failed = [change for change in changes if "last_error" in change][1:]
        assert [(c["status"], c["attempt"], c["last_error"]) for c in failed] == [
            (between, n + 1, {"type": "ValueError", "message": f"attempt {n} went wrong"})
            for n in (1, 2)
        ]
        if retry is SOON:
            assert all(change["delay_until"] > run.created_at for change in failed)
        started = [change["started_at"] for change in changes if change["status"] == "executing"]
        assert started == [run.started_at] * 3


async def test_a_run_that_never_succeeds_fails_with_its_last_error():
    @task(retry=AT_ONCE)
    def work() -> None:
        raise ValueError(f"attempt {current_run().attempt}")

    async with working():
        result = await work.trigger_and_wait()
        assert (result.status, result.error.message) == ("failed", "attempt 3")
        run = await runs.retrieve(result.run_id)
        assert (run.attempt, run.last_error.message) == (3, "attempt 2")
        assert run.duration_ms is not None


@pytest.mark.parametrize("error", [AbortTask("no use"), RunCanceled("stopped here")])
async def test_some_errors_are_not_tried_again(error):
    attempts = []

    @task(retry=AT_ONCE)
    async def work() -> None:
        attempts.append(current_run().attempt)
        raise error

    async with working():
        result = await work.trigger_and_wait()
        assert attempts == [1]
        if isinstance(error, AbortTask):
            assert (result.status, result.error.type) == ("failed", "AbortTask")
            assert result.error.message == "no use"
        else:
            assert result.status == "canceled"


async def test_timed_out_run_is_not_retried():
    attempts, time = [], Time()

    @task(retry=AT_ONCE, max_duration_s=30)
    async def work() -> None:
        attempts.append(current_run().attempt)
        await until(lambda: time.sleeping == [30])
        time.let_pass(30)
        await asyncio.Event().wait()

    async with working(time=time):
        assert (await work.trigger_and_wait()).status == "timed_out"
        assert attempts == [1]


async def test_invalid_payload_is_not_retried():
    @task(retry=AT_ONCE)
    async def work(n: int) -> None: ...

    async with working() as active:
        run = await active.store.create_run(
            new_run(task="work", payload={"n": "many"}, max_attempts=3, owner="embedded")
        )
        work.start(run)
        result = await work.wait(run.id)
        assert (result.status, result.error.type) == ("failed", "InvalidPayload")
        assert "n: Input should be a valid integer" in result.error.message
        assert (await runs.retrieve(run.id)).attempt == 1


async def test_a_run_that_rests_gives_its_slot_away():
    @task(retry=Retry(max_attempts=2, min_s=60, max_s=60))
    async def failing() -> None:
        raise ValueError("no")

    @task
    async def other() -> int:
        return 1

    async with working(concurrency=1):
        resting = await failing.trigger()
        assert (await other.trigger_and_wait()).output == 1
        assert (await runs.retrieve(resting.id)).status == "delayed"


async def test_delayed_retry_is_canceled_immediately():
    attempts = []

    @task(retry=Retry(max_attempts=2, min_s=60, max_s=60))
    async def work() -> None:
        attempts.append(1)
        raise ValueError("no")

    async with working() as active:
        handle = await work.trigger()
        async for run in runs.subscribe(handle.id):
            if run.attempt == 2:
                break
        canceled = await runs.cancel(handle.id)
        assert (canceled.status, canceled.last_error.message) == ("canceled", "no")
        assert (await handle.wait()).status == "canceled"
        await until(lambda: not active.runner._executions)
        assert attempts == [1]


async def test_the_rest_between_attempts_follows_the_clock_that_is_given():
    now_ms = 1_795_352_174_000

    @task(retry=Retry(max_attempts=2, min_s=10, max_s=60))
    async def work() -> int:
        if current_run().attempt == 1:
            raise ValueError("no")
        return 2

    async with working(clock_ms=lambda: now_ms, random=lambda: 0.5):
        handle = await work.trigger()
        async for run in runs.subscribe(handle.id):
            if run.status == "delayed":
                break
        assert run.delay_until == "2026-11-22T12:56:29.000Z"  # 10 s, and half as much again


@given(
    st.integers(1, 50),
    st.floats(0, 10),
    st.floats(10, 100),
    st.floats(1, 5),
    st.floats(0, 1, exclude_max=True),
)
def test_rests_grow_and_stay_within_their_limits(attempt, min_s, max_s, factor, chance):
    steady = Retry(5, min_s, max_s, factor, jitter=False)
    jittered = Retry(5, min_s, max_s, factor)
    assert min_s <= steady.delay_s(attempt, lambda: chance) <= max_s
    assert steady.delay_s(attempt, lambda: chance) <= steady.delay_s(attempt + 1, lambda: chance)
    assert min_s <= jittered.delay_s(attempt, lambda: chance) <= max_s
    assert jittered.delay_s(attempt, lambda: 0) == steady.delay_s(attempt, lambda: 0)


def test_the_first_rests_are_as_documented():
    retry = Retry(max_attempts=9, min_s=1, max_s=30, factor=2, jitter=False)
    assert [retry.delay_s(n, lambda: 0) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_attempts": 0}, "max_attempts is 0; it is a whole number from 1 to 1000"),
        ({"max_attempts": 1.5}, "max_attempts is 1.5; it is a whole number"),
        ({"jitter": 0.5}, "jitter is 0.5; it is True or False"),
        ({"min_s": "1"}, "min_s is '1'; it goes from 0"),
        ({"min_s": 5, "max_s": 1}, "min_s is 5 and max_s 1"),
        ({"min_s": -1}, "min_s is -1"),
        ({"factor": 0.5}, "factor is 0.5; it goes from 1"),
    ],
)
def test_a_retry_that_cannot_work_is_refused(fields, message):
    with pytest.raises(InvalidValue, match=message):
        Retry(**fields)


def test_retry_of_a_task_that_is_a_number_is_refused():
    with pytest.raises(InvalidValue, match=r"retry is 3; it is a Retry\(max_attempts"):
        task(retry=3)


# What attempts write.


def by_attempt(records):
    return [(record.value, record.source, record.attempt) for record in records]


async def test_records_carry_their_attempt_and_are_read_by_it():
    written = asyncio.Event()
    followed: list[str] = []

    @task
    async def child() -> None:
        await progress.append("child", target="parent")

    @task(retry=AT_ONCE)
    async def work() -> None:
        attempt = current_run().attempt
        progress.append(f"of {attempt}")
        if attempt == 1:
            await child.trigger_and_wait()
            await written.wait()
        if attempt < 3:
            raise ValueError("no")

    async def follow(run_id):
        async for value in progress.read(run_id, attempt="latest"):
            followed.append(value)

    async with working() as active:
        handle = await work.trigger()
        following = asyncio.create_task(follow(handle.id))
        await until(lambda: "child" in followed)
        written.set()
        await handle.wait()
        await following
        assert followed == ["of 1", "child", "of 2", "of 3"]
        (made,) = await runs.list(parent_id=handle.id)
        every = [each async for each in progress.read_records(handle.id)]
        assert by_attempt(every) == [
            ("of 1", handle.id, 1),
            ("child", made.id, 1),
            ("of 2", handle.id, 2),
            ("of 3", handle.id, 3),
        ]
        for attempt, expected in (
            (1, ["of 1", "child"]),
            (2, ["child", "of 2"]),
            (4, ["child"]),
            ("latest", ["child", "of 3"]),
            (None, ["of 1", "child", "of 2", "of 3"]),
        ):
            read = progress.read(handle.id, attempt=attempt)
            assert [value async for value in read] == expected
        page = await active.store.read(StreamKey(handle.id, "progress"))
        assert page.records[0].source == handle.id  # the first attempt costs no byte


@pytest.mark.parametrize("attempt", [0, -1, True, 1.5, "newest", "1"])
async def test_read_rejects_invalid_attempt(attempt):
    async with working() as active:
        run = await active.store.create_run(new_run())
        with pytest.raises(InvalidValue, match="it is a number from 1"):
            await anext(progress.read(run.id, attempt=attempt))


async def test_a_thread_that_outlives_its_attempt_writes_as_that_attempt():
    ready, late = threading.Event(), threading.Event()

    def write_later():
        ready.wait(20)
        progress.append("late").wait(20)
        late.set()

    @task(retry=AT_ONCE)
    def work() -> None:
        if current_run().attempt == 1:
            thread = contextvars.copy_context()
            threading.Thread(target=thread.run, args=(write_later,), daemon=True).start()
            raise ValueError("no")
        progress.append("of 2").wait(20)
        ready.set()
        assert late.wait(20)

    async with working():
        result = await work.trigger_and_wait()
        assert result.ok
        records = [each async for each in progress.read_records(result.run_id)]
        assert [(each.value, each.attempt) for each in records] == [("of 2", 2), ("late", 1)]
