"""Several waits of one run at once: its slot, its clock and its status follow all of them."""

import asyncio

import pytest

from gateway import Retry, current_run, runs, task, wait
from tests.support.gateways import DEADLINE_S, Time, until, working
from tests.support.stores import new_store


async def reaches(run_id, status):
    async for run in runs.subscribe(run_id):
        if run.status == status:
            return


async def sleeps(time, *seconds):
    await until(lambda: time.sleeping == [*seconds])


def free_slots(active):
    return active.runner._context.slots._value


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
async def test_gathered_waits_leave_every_slot_free(kind, tmp_path):
    @task
    async def child(n: int) -> int:
        return n

    @task
    async def parent() -> list[int]:
        handles = [await child.trigger(n) for n in range(6)]
        first = await asyncio.gather(*(handle.wait() for handle in handles))
        second = await asyncio.gather(*(child.trigger_and_wait(n) for n in range(6, 12)))
        return [result.output for result in (*first, *second)]

    async with working(new_store(kind, tmp_path), concurrency=2) as active:
        async with asyncio.timeout(DEADLINE_S):
            results = await asyncio.gather(*(parent.trigger_and_wait() for _ in range(2)))
        assert [result.output for result in results] == [[*range(12)]] * 2
        await until(lambda: free_slots(active) == 2)
        await until(lambda: not active.runner._executions)


async def test_slot_is_taken_back_when_the_last_wait_ends():
    time = Time()
    waited = []

    @task
    async def work() -> None:
        async def sleep(seconds: float) -> None:
            await wait.for_seconds(seconds)
            waited.append((seconds, (await runs.retrieve(current_run().id)).status))

        await asyncio.gather(sleep(10), sleep(20), sleep(30))

    async with working(time=time, concurrency=1) as active:
        handle = await work.trigger()
        for sleeping in ([10, 20, 30], [10, 20], [10]):
            await sleeps(time, *sleeping)
            await until(lambda: free_slots(active) == 1)
            time.let_pass(10)
        assert (await handle.wait()).ok
        assert waited == [(10, "waiting"), (20, "waiting"), (30, "executing")]
        await until(lambda: free_slots(active) == 1)


async def test_overlapping_waits_do_not_count_as_executing_time():
    time = Time()

    @task(max_duration_s=5)
    async def work() -> None:
        await asyncio.gather(wait.for_seconds(60), wait.for_seconds(60))
        await asyncio.gather(wait.for_seconds(60), wait.for_seconds(90))

    async with working(time=time):
        handle = await work.trigger()
        for seconds, sleeping in ((60, [60, 60]), (60, [60, 90]), (30, [30])):
            await sleeps(time, *sleeping)  # no alarm of 5 s among them
            time.let_pass(seconds)
        assert (await handle.wait()).status == "completed"


async def test_executing_time_ends_a_run_whose_waits_overlapped():
    time = Time()

    @task(max_duration_s=5)
    async def work() -> None:
        await asyncio.gather(wait.for_seconds(60), wait.for_seconds(60))
        await asyncio.Event().wait()

    async with working(time=time):
        handle = await work.trigger()
        await sleeps(time, 60, 60)
        time.let_pass(60)
        await sleeps(time, 5)
        time.let_pass(5)
        assert (await handle.wait()).status == "timed_out"


async def test_function_resumes_after_timeout_only_with_its_slot():
    """The time-out strikes while the slot, which another run has, is to be taken back."""
    time = Time()
    occupied, release, seen = asyncio.Event(), asyncio.Event(), []

    @task
    async def occupant() -> None:
        occupied.set()
        await release.wait()

    @task
    async def work() -> str:
        waiting = asyncio.create_task(wait.for_seconds(10))
        await occupied.wait()
        time.let_pass(10)
        await until(lambda: not time.sleeping)
        waiting.cancel()
        await asyncio.sleep(0)  # until the cancellation is there
        seen.append(waiting.done())
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        seen.append(free_slots(active))
        return (await runs.retrieve(current_run().id)).status

    async with working(time=time, concurrency=1) as active:
        handle = await work.trigger()
        await reaches(handle.id, "waiting")
        other = await occupant.trigger()
        assert (await handle.wait()).output == "executing"
        assert seen == [False, 0]
        assert (await other.wait()).ok
        await until(lambda: free_slots(active) == 1)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
async def test_run_is_tried_again_when_a_time_out_strikes_as_a_wait_begins(kind, tmp_path):
    @task(retry=Retry(max_attempts=3, min_s=0, jitter=False))
    async def work(steps: int) -> int:
        attempt = current_run().attempt
        if attempt < 3:
            waiting = asyncio.create_task(wait.for_seconds(3600))
            for _ in range(steps):
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            raise TimeoutError
        return attempt

    async with working(new_store(kind, tmp_path), concurrency=1) as active:
        for steps in (0, 1, 2, 3, 5, 8):
            handle = await work.trigger(steps)
            assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).output == 3
        await until(lambda: free_slots(active) == 1)


async def test_run_that_fails_while_it_waits_is_tried_again(tmp_path):
    """A wait that nobody awaited is open when the function fails."""
    left = []

    @task(retry=Retry(max_attempts=3, min_s=0, jitter=False))
    async def work() -> int:
        left.append(asyncio.create_task(wait.for_seconds(3600)))
        await reaches(current_run().id, "waiting")
        if current_run().attempt < 3:
            raise ValueError
        return current_run().attempt

    async with working(new_store("sqlite", tmp_path), concurrency=1) as active:
        assert (await asyncio.wait_for(work.trigger_and_wait(), DEADLINE_S)).output == 3
        for waiting in left:
            waiting.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await until(lambda: free_slots(active) == 1)


async def test_canceled_run_may_wait_while_it_cleans_up():
    time = Time()
    cleaned = []

    @task
    async def work() -> None:
        try:
            await asyncio.gather(wait.for_seconds(3600), wait.for_seconds(3600))
        finally:
            await wait.for_seconds(1)
            cleaned.append("up")

    async with working(time=time, concurrency=1) as active:
        handle = await work.trigger()
        await until(lambda: len(time.sleeping) == 2)
        await runs.cancel(handle.id)
        await sleeps(time, 1)
        time.let_pass(1)
        assert (await handle.wait()).status == "canceled"
        assert cleaned == ["up"]
        await until(lambda: free_slots(active) == 1)
