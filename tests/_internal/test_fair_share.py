"""Few turns in one pass of the loop, in order, and none lost by those who leave."""

import asyncio

from gateway._internal.fair_share import LoopQuota


async def passes(count):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_quota_grants_per_tick_limit_between_live_steps():
    turns, seen = LoopQuota(per_tick=2), []

    async def lag(number):
        await turns.acquire()
        seen.append(number)

    async def live():
        while len(seen) < 9:
            seen.append("live")
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(lag(number))
        group.create_task(live())
    assert [each for each in seen if each != "live"] == list(range(6)), "first come, first served"
    lots = "".join("|" if each == "live" else "x" for each in seen).split("|")
    assert max(len(lot) for lot in lots) == 2


async def test_quota_does_not_delay_when_uncontended():
    turns = LoopQuota(per_tick=1)
    for _ in range(3):
        taking = turns.acquire()
        assert next(taking.__await__(), "done") == "done"
        await passes(2)


async def test_canceled_waiter_consumes_no_quota():
    turns, seen = LoopQuota(per_tick=1), []

    async def lag(number):
        await turns.acquire()
        seen.append(number)

    tasks = [asyncio.create_task(lag(number)) for number in range(5)]
    await passes(1)
    for left in tasks[1:4]:
        left.cancel()
    await passes(3)
    assert seen == [0, 4]


async def test_quota_schedules_no_tick_when_unused():
    turns = LoopQuota()
    await turns.acquire()
    await passes(3)
    assert not turns._is_scheduled
    await turns.acquire()
    assert turns._is_scheduled
    await passes(2)
