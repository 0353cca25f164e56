"""Runs of workers that are gone are marked crashed; those of workers that come back are not."""

import asyncio

import pytest

from gateway.model.log import run_log
from gateway.sdk.execution.ownership import EMBEDDED_OWNER
from gateway.server.ops.local_leases import LocalLeases
from gateway.stores.memory import MemoryStore
from tests.support.gateways import DEADLINE_S, new_run, serving, token_for, until

AT_ONCE_S = 0.0
NEVER_S = 3600.0


@pytest.fixture
async def store():
    store = MemoryStore()
    await store.open()
    yield store
    await store.close()


async def executing_run(store, owner):
    run = await store.create_run(new_run(owner=owner))
    return await store.patch_run(run.id, {"status": "executing"})


async def until_status(store, run, status):
    async with asyncio.timeout(DEADLINE_S):
        async for page in store.follow(run_log(run.id)):
            if page.end is not None:
                break
    assert (await store.get_run(run.id)).run.status == status


async def test_a_worker_that_is_gone_leaves_its_unfinished_runs_crashed(store):
    leases = LocalLeases(store, lease_s=AT_ONCE_S)
    lost = await executing_run(store, "worker_a")
    other = await executing_run(store, "worker_b")
    leases.acquire("worker_a")
    leases.acquire("worker_b")
    leases.release("worker_a")
    await until_status(store, lost, "crashed")
    error = (await store.get_run(lost.id)).run.error
    assert error is not None and "lost" in error.message
    assert (await store.get_run(other.id)).run.status == "executing"
    await leases.stop()


async def test_lost_worker_error_explains_unused_attempts(store):
    leases = LocalLeases(store, lease_s=AT_ONCE_S)
    run = await store.create_run(new_run(owner="worker_a", max_attempts=3))
    await store.patch_run(run.id, {"status": "executing"})
    leases.acquire("worker_a")
    leases.release("worker_a")
    await until_status(store, run, "crashed")
    assert (await store.get_run(run.id)).run.error.message == (
        "the worker was lost; attempts that are left: 2 of 3, but only a worker makes them"
    )
    await leases.stop()


async def test_a_worker_with_another_connection_open_is_not_gone(store):
    leases = LocalLeases(store, lease_s=AT_ONCE_S)
    run = await executing_run(store, "worker_a")
    leases.acquire("worker_a")
    leases.acquire("worker_a")
    leases.release("worker_a")
    assert not leases._timers
    assert (await store.get_run(run.id)).run.status == "executing"
    await leases.stop()


async def test_worker_that_reconnects_in_time_retains_its_runs(store):
    leases = LocalLeases(store, lease_s=NEVER_S)
    leases.acquire("worker_a")
    leases.release("worker_a")
    (timer,) = leases._timers.values()
    leases.acquire("worker_a")
    assert timer.cancelled() and not leases._timers
    await leases.stop()


async def test_after_a_restart_workers_with_unfinished_runs_have_the_leases_time(store):
    lost = await executing_run(store, "worker_a")
    own = await executing_run(store, EMBEDDED_OWNER)
    ended = await executing_run(store, "worker_c")
    await store.patch_run(ended.id, {"status": "completed"})
    leases = LocalLeases(store, lease_s=NEVER_S)
    await leases.start()
    assert set(leases._timers) == {"worker_a"}
    await leases.stop()
    leases = LocalLeases(store, lease_s=AT_ONCE_S)
    await leases.start()
    await until_status(store, lost, "crashed")
    assert (await store.get_run(own.id)).run.status == "executing"
    assert (await store.get_run(ended.id)).run.status == "completed"
    await leases.stop()


async def test_a_connection_that_names_a_worker_holds_its_lease_until_it_closes():
    async with serving() as gateway:
        leases = gateway.gateway._leases
        worker = token_for("read:runs:*", "write:runs:*")
        async with gateway.client(token=worker, owner="worker_a"):
            assert leases._connections == {"worker_a": 1}
        await until(lambda: not leases._connections)
        assert set(leases._timers) == {"worker_a"}


async def test_only_a_token_that_may_change_every_run_may_name_a_worker():
    async with serving() as gateway, gateway.client(greet=False) as client:
        token = token_for("write:runs:run_1")
        refused = await client.ask(type="hello", protocol=1, token=token, owner="worker_a")
        assert refused["code"] == "forbidden"
        assert await client.close_code() == 4401
        assert not gateway.gateway._leases._connections
