"""Canceling: it reaches children, lets functions clean up, and always ends."""

import asyncio
import threading
import time

import pytest

from gateway import current_run, metadata, runs, streams, task
from gateway.errors import FrameTooLarge, RunCanceled, StreamIncomplete
from gateway.model.log import RunQuery
from gateway.sdk.loops.bridge import run_in_loop
from gateway.stores.memory import MemoryStore
from gateway.stores.remote.store import RemoteStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import DEADLINE_S, gateway_process, until, worker_token, working

progress = streams.define("progress", str)


async def executing(run_id):
    async for run in runs.subscribe(run_id):
        if run.status == "executing":
            return


async def until_runs(condition):
    async with asyncio.timeout(DEADLINE_S):
        while not condition(await runs.list()):  # noqa: ASYNC110 - nothing sets an event
            await asyncio.sleep(0.005)


async def values_of(run_id):
    values = []
    with pytest.raises(StreamIncomplete, match="canceled"):
        async for value in progress.read(run_id):
            values.append(value)
    return values


async def test_finally_blocks_run_with_their_awaits_appends_and_metadata():
    @task
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            progress.append("cleaned up")
            metadata.set("cleaned", True)
            await progress.append("and durable")

    async with working():
        handle = await work.trigger()
        await executing(handle.id)
        asked = await runs.cancel(handle.id)
        assert (asked.status, bool(asked.cancel_requested_at)) == ("executing", True)
        assert (await handle.wait()).status == "canceled"
        run = await runs.retrieve(handle.id)
        assert run.metadata == {"cleaned": True}
        assert run.is_canceled
        assert run.is_completed
        assert run.error is None
        assert await values_of(handle.id) == ["cleaned up", "and durable"]


async def test_a_task_that_swallows_the_cancellation_ends_as_canceled():
    @task
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return "a value nobody asked for"

    async with working():
        handle = await work.trigger()
        await executing(handle.id)
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        assert (await runs.retrieve(handle.id)).output is None


async def test_task_that_ignores_cancellation_is_abandoned_after_grace():
    release = asyncio.Event()
    ended = asyncio.Event()

    @task
    async def work() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        ended.set()

    async with working(cancel_grace_s=0.03, concurrency=1) as active:
        handle = await work.trigger()
        await executing(handle.id)
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        assert await values_of(handle.id) == []
        # Its slot is free, although it goes on.
        other = await work.trigger()
        await executing(other.id)
        assert len(active.runner._context.abandoned) == 1
        release.set()
        assert (await other.wait()).ok
        await ended.wait()


async def test_a_plain_function_is_canceled_at_its_next_append():
    started = threading.Event()

    @task
    def work() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                progress.append("x")
            except RunCanceled:
                started.set()
                raise
            time.sleep(0.002)

    async with working():
        handle = await work.trigger()
        await executing(handle.id)
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        assert started.is_set()  # the run ended after its function, not before


async def test_a_plain_function_that_never_looks_is_marked_after_its_grace_time():
    release = threading.Event()

    @task
    def work() -> None:
        release.wait(20)

    async with working(cancel_grace_s=0.03):
        handle = await work.trigger()
        await executing(handle.id)
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        release.set()


async def test_canceling_reaches_children_and_theirs():
    @task
    async def leaf() -> None:
        await asyncio.Event().wait()

    @task
    async def middle() -> None:
        await leaf.batch_trigger_and_wait([{}, {}])

    @task
    async def top() -> None:
        await middle.trigger_and_wait()

    async with working(concurrency=2):  # so that one leaf waits for its turn
        handle = await top.trigger()
        await until_runs(lambda all: len(all) == 4)
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        await until_runs(lambda all: {run.status for run in all} == {"canceled"})


async def test_children_triggered_while_canceling_are_reached_too():
    @task
    async def child() -> None:
        await asyncio.Event().wait()

    @task
    async def parent() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await child.trigger()
            await child.options(delay_s=3600).trigger()

    async with working():
        handle = await parent.trigger()
        await executing(handle.id)
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        children = await runs.list(parent_id=handle.id)
        assert len(children) == 2
        for run in children:
            assert (await child.wait(run.id)).status == "canceled"


async def test_a_plain_function_that_is_being_canceled_triggers_nothing():
    refused = threading.Event()

    @task
    async def child() -> None: ...

    @task
    def parent() -> None:
        run = current_run()
        while not run.is_canceled:
            time.sleep(0.002)
        try:
            run_in_loop(child.trigger())
        except RunCanceled:
            refused.set()
            raise

    async with working():
        handle = await parent.trigger()
        await executing(handle.id)
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        assert refused.is_set()
        assert await runs.list(parent_id=handle.id) == []


async def test_a_run_that_waits_for_its_child_is_canceled_without_a_slot():
    @task
    async def child() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)

    @task
    async def parent() -> None:
        await child.trigger_and_wait()

    async with working(concurrency=1):
        handle = await parent.trigger()
        async for run in runs.subscribe(handle.id):
            if run.status == "waiting":
                break
        (below,) = await runs.list(parent_id=handle.id)
        await executing(below.id)
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        assert (await child.wait(below.id)).status == "canceled"


async def test_canceling_what_has_ended_changes_nothing():
    @task
    async def work() -> int:
        return 1

    async with working():
        result = await work.trigger_and_wait()
        before = await runs.retrieve(result.run_id)
        assert await runs.cancel(result.run_id) == before
        assert await runs.retrieve(result.run_id) == before


async def test_a_time_out_around_a_wait_leaves_the_run_executing():
    release = asyncio.Event()

    @task
    async def child() -> None:
        await release.wait()

    @task
    async def parent() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await child.trigger_and_wait()
        return (await runs.retrieve(current_run().id)).status

    async with working():
        assert (await parent.trigger_and_wait()).output == "executing"
        release.set()


async def test_a_run_is_canceled_from_another_process(tmp_path):
    @task
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await progress.append("cleaned up")

    with gateway_process(f"sqlite:{tmp_path}/test.db?durability=normal", tmp_path) as process:
        elsewhere = RemoteStore(process.url, worker_token)
        store = RemoteStore(process.url, worker_token, owner="worker_1")
        await elsewhere.open()
        async with working(store, owner="worker_1"):
            handle = await work.trigger()
            await executing(handle.id)
            await elsewhere.patch_run(
                handle.id, {"cancel_requested_at": "2026-11-22T12:56:14.123Z"}
            )
            assert (await handle.wait()).status == "canceled"
            assert await values_of(handle.id) == ["cleaned up"]
        await elsewhere.close()


async def test_a_run_that_someone_else_has_ended_is_stopped():
    stopped = asyncio.Event()

    @task
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with working() as active:
        handle = await work.trigger()
        await executing(handle.id)
        await active.store.patch_run(handle.id, {"status": "crashed"})
        await asyncio.wait_for(stopped.wait(), DEADLINE_S)
        await until(lambda: not active.runner._executions)
        assert (await runs.retrieve(handle.id)).status == "crashed"


async def test_a_wait_that_ends_with_the_cancellation_does_not_run_on():
    """The child, still queued, is over at once; the parent would go on before it is stopped."""
    reached = []

    @task
    async def child(): ...

    @task
    async def parent():
        await child.trigger_and_wait()
        reached.append("the end")

    @task
    async def other():
        await asyncio.Event().wait()

    async with working(concurrency=1) as it:
        handle = await parent.trigger()
        async for run in runs.subscribe(handle.id):
            if run.status == "executing":
                break
        occupant = await other.trigger()  # takes the slot that the parent gives away
        async for run in runs.subscribe(handle.id):
            if run.status == "waiting":
                break
        (waiting,) = await it.store.list_runs(RunQuery(parent_id=handle.id))
        await runs.cancel(handle.id)
        assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).status == "canceled"
        assert (reached, (await runs.retrieve(waiting.id)).status) == ([], "canceled")
        await runs.cancel(occupant.id)


@pytest.mark.slow
async def test_deep_chain_is_canceled_in_linear_time():
    """An agent that calls itself: deeper than Python's recursion goes."""
    depth, reached = 500, asyncio.Event()

    class Counting(MemoryStore):
        lists = 0

        async def list_runs(self, query):
            self.lists += 1
            return await super().list_runs(query)

    @task
    async def dig(n: int) -> None:
        if n == 1:
            reached.set()
            await asyncio.Event().wait()
        await dig.trigger_and_wait(n - 1)

    async with working(Counting()) as active:
        top = await dig.trigger(depth)
        await reached.wait()
        before = active.store.lists
        await runs.cancel(top.id)
        assert active.store.lists - before <= 3 * depth
        await until(lambda: not active.runner._executions)
        assert active.store.lists - before <= 3 * depth
        assert len(await runs.list(status=("canceled",), limit=1000)) == depth


async def test_cancellation_of_many_children_limits_concurrent_requests(tmp_path):
    count = 200

    class Counting(SqliteStore):
        under_way = most = 0

        async def get_run(self, run_id):
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            try:
                return await super().get_run(run_id)
            finally:
                self.under_way -= 1

    @task
    async def child() -> None: ...

    @task
    async def parent() -> None:
        await child.options(delay_s=3600).batch_trigger([{}] * count)
        await asyncio.Event().wait()

    async with working(Counting(tmp_path / "test.db", durability="normal")) as active:
        handle = await parent.trigger()
        while len(await runs.list(parent_id=handle.id, limit=1000)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        children = await runs.list(parent_id=handle.id, limit=1000)
        assert [run.status for run in children] == ["canceled"] * count
        assert 1 < active.store.most <= 64  # 32 by the caller, and 32 by the run as it ends


async def test_children_whose_list_is_too_large_for_a_link_are_canceled():
    class Narrow(MemoryStore):
        async def list_runs(self, query):
            if query.limit > 10:
                raise FrameTooLarge("the answer is over the limit")
            return await super().list_runs(query)

    @task
    async def child() -> None: ...

    @task
    async def parent() -> None:
        await child.options(delay_s=3600).batch_trigger([{}] * 25)
        await asyncio.Event().wait()

    store = MemoryStore()
    async with working(store):
        handle = await parent.trigger()
        await until_runs(lambda all: len(all) == 26)
        store.__class__ = Narrow
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        store.__class__ = MemoryStore
        assert {run.status for run in await runs.list()} == {"canceled"}
