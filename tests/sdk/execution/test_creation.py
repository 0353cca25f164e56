"""A trigger that is called off, or whose result is lost: its run is begun, or it is not there."""

import asyncio

import pytest

from gateway import current_run, runs, task
from gateway.errors import StoreUnavailable
from gateway.stores.redis.store import RedisStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.cancellation import CutOff
from tests.support.gateways import new_run, working
from tests.support.stores import new_store

KINDS = ["memory", "sqlite", "redis"]


async def all_ended(active):
    """Wait until what was triggered has ended, and return it."""
    await active.wait_for_all_shielded()
    async with asyncio.timeout(20):
        while any(not run.is_finished for run in await runs.list(limit=1000)):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    return await runs.list(limit=1000)


def losing_answers(kind, folder, times):
    """Make a store that creates a run, loses the answer, and cannot be reached for a while."""

    class Losing(SqliteStore if kind == "sqlite" else RedisStore):
        async def create_run(self, run):
            if times == left[0]:
                await super().create_run(run)
            self._lose()
            return await super().create_run(run)

        async def get_run(self, run_id):
            self._lose()
            return await super().get_run(run_id)

        def _lose(self):
            if left[0] > 0:
                left[0] -= 1
                raise StoreUnavailable("the connection broke")

    left = [times]
    store = new_store(kind, folder)
    store.__class__ = Losing
    return store


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_canceled_trigger_leaves_no_unexecuted_run(kind, is_late, tmp_path):
    executed = []

    @task
    async def child() -> None:
        executed.append(current_run().id)

    async def trigger(how, at):
        cut_off = CutOff(how(), at, is_late=is_late)
        try:
            await cut_off
        except asyncio.CancelledError:
            pass
        return cut_off.was_cut

    keyed = child.options(idempotency_key="k")
    async with working(new_store(kind, tmp_path)) as active:
        for how in (child.trigger, child.trigger_and_wait, lambda: child.batch_trigger([{}, {}])):
            at = 0
            while await asyncio.create_task(trigger(how, at)):
                at += 1
            assert at > 0
        await asyncio.create_task(trigger(keyed.trigger, 0))
        assert (await asyncio.wait_for(keyed.trigger_and_wait(), 20)).ok
        ended = await all_ended(active)
        assert {run.status for run in ended} == {"completed"}
        assert sorted(run.id for run in ended) == sorted(executed)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_run_whose_creation_is_not_answered_is_begun_once(kind, tmp_path):
    executed = []

    @task
    async def child() -> None:
        executed.append(current_run().id)

    async with working(losing_answers(kind, tmp_path, 3)) as active:
        keyed = child.options(idempotency_key="k")
        results = await asyncio.gather(*(keyed.trigger_and_wait() for _ in range(3)))
        (run,) = await all_ended(active)
        assert {result.run_id for result in results} == {run.id}
        assert executed == [run.id]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_run_whose_trigger_failed_is_removed(kind, tmp_path):
    executed = []

    @task
    async def child() -> None:
        executed.append(current_run().id)

    async with working(losing_answers(kind, tmp_path, 5)):
        keyed = child.options(idempotency_key="k")
        with pytest.raises(StoreUnavailable):
            await keyed.trigger()
        assert await runs.list() == []
        assert (await keyed.trigger_and_wait()).ok  # the key is free again
        assert len(executed) == 1


async def test_trigger_with_key_of_unexecuted_run_starts_it():
    """A process of an earlier version may have left one."""

    @task
    async def child() -> str:
        return "done"

    async with working() as active:
        left = new_run(task="child", owner="embedded", payload={}, idempotency_key="k")
        await active.store.create_run(left)
        result = await asyncio.wait_for(child.options(idempotency_key="k").trigger_and_wait(), 20)
        assert (result.run_id, result.output) == (left.id, "done")


async def test_trigger_works_on_another_event_loop(tmp_path):
    @task
    async def child() -> str | None:
        return current_run().parent_id

    @task
    def parent() -> str:
        return asyncio.run(child.trigger()).id

    async with working(new_store("sqlite", tmp_path)):
        result = await parent.trigger_and_wait()
        assert (await child.wait(result.output)).output == result.run_id


async def test_run_that_is_triggered_as_its_parent_is_canceled_is_canceled_too(tmp_path):
    reached = asyncio.Event()

    @task
    async def child() -> None:
        await asyncio.Event().wait()

    @task
    async def parent() -> None:
        reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            asyncio.create_task(child.trigger())  # noqa: RUF006 - the run is over before it is
            await asyncio.sleep(0)

    async with working(new_store("sqlite", tmp_path)) as active:
        handle = await parent.trigger()
        await reached.wait()
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        assert [run.status for run in await all_ended(active)] == ["canceled"] * 2


async def test_process_exit_waits_for_pending_triggers(tmp_path):
    @task
    async def child() -> None: ...

    async with working(new_store("sqlite", tmp_path)) as active:
        triggering = asyncio.create_task(child.trigger())
        while not active._shielded:  # noqa: ASYNC110 - nothing sets an event
            await asyncio.sleep(0)
        triggering.cancel()
    assert not active._shielded
    assert not active.runner._executions
    async with working(new_store("sqlite", tmp_path)) as active:
        assert len(await all_ended(active)) == 1
