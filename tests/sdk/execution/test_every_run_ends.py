"""Whatever happens to runs, each reaches a final status, and all slots are free then.

Runs wait, trigger each other and append, and are called off at each suspension point, by time-outs,
by cancellations and by the end of their process.
"""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest

from gateway import Retry, current_run, metadata, runs, streams, task, wait
from gateway.stores.redis.store import RedisStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.cancellation import CutOff
from tests.support.gateways import until, working
from tests.support.redis.servers import fresh_url

SLOTS = 3
POINTS = 24  # more than any of the actions suspends

lines = streams.define("lines", int)


def define():
    """Define a task that does one thing after the other, as its seed says."""

    @task(retry=Retry(max_attempts=2, min_s=0, jitter=False))
    async def work(seed: int, depth: int, at: int) -> int:
        chance = random.Random(f"{seed}/{depth}/{current_run().attempt}")

        async def wait_at_once() -> None:
            handles = [await work.trigger(seed + n, depth - 1, at) for n in range(depth)]
            await asyncio.gather(*(each.wait() for each in handles), wait.for_seconds(0.002))

        async def trigger_at_once() -> None:
            if depth > 0:
                calls = (work.trigger_and_wait(seed + n, depth - 1, at) for n in range(2))
                await asyncio.gather(*calls)

        async def write() -> None:
            lines.append(1)
            metadata.set("seed", seed)
            await lines.append(2)
            await metadata.flush()

        async def time_out() -> None:
            async with asyncio.timeout(chance.random() / 200):
                await asyncio.gather(wait.for_seconds(0.001), wait.for_seconds(60))

        for action in chance.sample((wait_at_once, trigger_at_once, write, time_out), 2):
            me = asyncio.current_task()
            asked = me.cancelling()
            try:
                await CutOff(action(), at, is_late=chance.random() < 0.5)
            except asyncio.CancelledError:
                if me.cancelling() > asked + 1 or current_run().is_canceled:
                    raise  # by more than the cut
                me.uncancel()
            if chance.random() < 0.2:
                raise ValueError("a failure of the function")
        return at

    return work


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_every_run_ends_and_every_slot_is_free(kind, tmp_path):
    work = define()
    chance = random.Random(kind)
    url = fresh_url() if kind == "redis" else None

    @asynccontextmanager
    async def process():
        store = RedisStore(url) if url else SqliteStore(tmp_path / "a.db", durability="normal")
        options = {"concurrency": SLOTS, "cancel_grace_s": 1, "stop_grace_s": 0.05}
        async with working(store, **options) as active:
            yield active

    async def unfinished():
        found = await runs.list(status=("delayed", "queued", "executing", "waiting"), limit=1000)
        return len(found)

    async with process() as active:  # which ends in the midst of it
        for at in range(0, POINTS, 3):
            called = work.options(max_duration_s=0.01) if at % 9 == 0 else work
            handle = await called.trigger(at, 1, at)
            if chance.random() < 0.2:
                await asyncio.sleep(chance.random() / 100)
                await runs.cancel(handle.id)
        await until(lambda: len(active.runner._executions) < POINTS // 6)
    async with process() as active:
        for at in range(POINTS):
            await work.trigger(at, 1, at)
        await until(lambda: not active.runner._executions)
        assert await unfinished() == 0
        assert active.runner._context.slots._value == SLOTS
    found = {}
    async with process():
        for status in ("completed", "failed", "canceled", "crashed", "timed_out"):
            found[status] = len(await runs.list(status=(status,), limit=1000))
    assert found["completed"] > 0
    assert found["failed"] + found["canceled"] + found["timed_out"] > 0
