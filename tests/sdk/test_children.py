"""Batches and children of runs, and the targets of what they append."""

import asyncio

import pytest

from gateway import current_run, run_in_loop, runs, task
from gateway.errors import (
    InvalidValue,
    NoParent,
)
from tests.support.gateways import DEADLINE_S, new_run
from tests.support.sdk.tasks import notes, notes_of, room_for, statuses

# Batches.


async def test_batch_results_are_in_order_and_include_failures(runtime):
    @task
    async def work(n: int) -> int:
        await asyncio.sleep((10 - n) / 1000)
        if n % 3 == 0:
            raise ValueError(f"no {n}")
        return n * 10

    results = await work.batch_trigger_and_wait([{"n": n} for n in range(10)])
    assert [result.ok for result in results] == [n % 3 != 0 for n in range(10)]
    assert [result.output for result in results if result.ok] == [10, 20, 40, 50, 70, 80]
    assert [result.error.message for result in results if not result.ok] == [
        "no 0",
        "no 3",
        "no 6",
        "no 9",
    ]
    batch = {(await runs.retrieve(result.run_id)).batch_id for result in results}
    assert len(batch) == 1
    assert len(await runs.list(batch_id=batch.pop())) == 10


async def test_a_batch_with_one_bad_payload_starts_nothing(runtime):
    @task
    async def work(n: int): ...

    for payloads in ([{"n": 1}, {"n": "x"}], [{"n": 1}, {}], [{"n": 1}, 7]):
        with pytest.raises(InvalidValue):
            await work.batch_trigger(payloads)
    with pytest.raises(InvalidValue, match="has 1001 payloads; the limit is 1000"):
        await work.batch_trigger([{"n": 1}] * 1001)
    assert await runs.list() == []


async def test_a_batch_of_nothing_is_nothing(runtime):
    @task
    async def work(n: int): ...

    assert await work.batch_trigger([]) == []
    assert await work.batch_trigger_and_wait([]) == []


# Children.


async def test_children_know_their_parent_and_their_root(runtime):
    @task
    async def leaf() -> list:
        run = current_run()
        return [run.parent_id, run.root_id]

    @task
    async def middle() -> list:
        return [current_run().id, (await leaf.trigger_and_wait()).output]

    @task
    async def top() -> list:
        return [current_run().id, (await middle.trigger_and_wait()).output]

    root, (mid, (leaf_parent, leaf_root)) = (await top.trigger_and_wait()).output
    assert (leaf_parent, leaf_root) == (mid, root)
    children = await runs.list(parent_id=root)
    assert [child.id for child in children] == [mid]


async def test_children_do_not_deadlock_when_there_is_room_for_one():
    @task
    async def count_down(n: int) -> int:
        if n == 0:
            return 0
        results = await count_down.batch_trigger_and_wait([{"n": n - 1}] * 2)
        return 1 + sum(result.output for result in results)

    async with room_for(1) as runtime:
        result = await asyncio.wait_for(count_down.trigger_and_wait(3), DEADLINE_S)
        assert result.output == 7
        seen = await statuses(runtime, result.run_id)
        assert seen == ["queued", "executing", "waiting", "executing", "completed"]


async def test_plain_tasks_wait_for_children_without_a_deadlock():
    @task
    def child(n: int) -> int:
        return n

    @task
    def parent() -> int:
        return run_in_loop(child.trigger_and_wait(5)).output

    async with room_for(1):
        result = await asyncio.wait_for(parent.trigger_and_wait(), DEADLINE_S)
        assert result.output == 5


async def test_concurrent_waits_for_children_overlap(runtime):
    @task
    async def child(n: int) -> int:
        await asyncio.sleep(0.005 * n)
        return n

    @task
    async def parent() -> list:
        results = await asyncio.gather(*(child.trigger_and_wait(n) for n in range(3)))
        return [result.output for result in results]

    result = await parent.trigger_and_wait()
    assert result.output == [0, 1, 2]


async def test_unawaited_child_outlives_its_parent(runtime):
    go_on = asyncio.Event()

    @task
    async def child():
        await go_on.wait()

    @task
    async def parent() -> str:
        return (await child.trigger()).id

    result = await parent.trigger_and_wait()
    assert (await runs.retrieve(result.output)).status == "executing"
    go_on.set()
    assert (await child.wait(result.output)).ok


# Where appended values go.


async def test_values_reach_the_target_run_with_their_source(runtime):
    @task
    async def leaf():
        notes.append("leaf to self")
        notes.append("leaf to parent", target="parent")
        notes.append("leaf to root", target="root")
        await notes.pipe(["leaf pipes to root"], target="root")

    @task
    async def middle():
        await leaf.trigger_and_wait()

    @task
    async def top():
        notes.append("top to root", target="root")
        await middle.trigger_and_wait()

    root = (await top.trigger_and_wait()).run_id
    (mid,) = await runs.list(parent_id=root)
    (low,) = await runs.list(parent_id=mid.id)
    assert await notes_of(runtime, root) == [
        ("top to root", root),
        ("leaf to root", low.id),
        ("leaf pipes to root", low.id),
    ]
    assert await notes_of(runtime, mid.id) == [("leaf to parent", low.id)]
    assert await notes_of(runtime, low.id) == [("leaf to self", low.id)]


async def test_a_run_without_a_parent_cannot_write_to_one(runtime):
    @task
    async def work():
        notes.append("lost", target="parent")

    result = await work.trigger_and_wait()
    assert (result.status, result.error.type) == ("failed", "NoParent")
    assert "has no parent" in result.error.message
    assert await notes_of(runtime, result.run_id) == []
    with pytest.raises(NoParent):
        notes.append("x", target="parent")


async def test_a_run_may_write_to_any_run_by_its_id(runtime):
    other = await runtime.store.create_run(new_run())

    @task
    async def work(target: str):
        notes.append("hello", target=target)

    result = await work.trigger_and_wait(other.id)
    assert await notes_of(runtime, other.id) == [("hello", result.run_id)]
