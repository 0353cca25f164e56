"""Leases in a store that several gateways share: who is alive, and what becomes of the others."""

import asyncio
import hashlib
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from gateway import Retry, runs, task
from gateway.errors import StoreUnavailable
from gateway.sdk.execution.heartbeat import HEARTBEATS, LeaseHeartbeat, new_node
from gateway.sdk.execution.recovery import recover_runs
from gateway.sdk.execution.task_queues import queue_owner
from gateway.server.ops.cluster_leases import UNKNOWN_TASK_GRACE_S, ClusterLeases
from gateway.stores.leases import ClusterStore, ExpiredLease
from gateway.stores.memory import MemoryStore
from gateway.stores.redis.leases import BUCKET
from gateway.stores.redis.scripts import SCRIPTS, Script
from gateway.stores.redis.store import RedisStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import DEADLINE_S, Time, new_run, until, working
from tests.support.redis.servers import fresh_url, shared_server

LEASE_S = 60.0
DEAD = "node_dead"


@asynccontextmanager
async def stores(count=1, url=None):
    url = url or fresh_url()
    opened = [RedisStore(url) for _ in range(count)]
    try:
        for store in opened:
            await store.open()
        yield opened[0] if count == 1 else opened
    finally:
        for store in opened:
            await store.close()


@pytest.fixture
async def store():
    async with stores() as store:
        yield store


class Known:
    """Tasks of a process, and the runs that were started there."""

    def __init__(self, *names):
        self.names, self.started = names, []

    def is_known(self, task_id):
        return task_id in self.names

    def resume(self, run):
        self.started.append(run.id)
        return True


async def executing_run(store, owner, status="executing", **fields):
    run = await store.create_run(new_run(owner=owner, **fields))
    for each in dict.fromkeys(("executing", status)):
        await store.patch_run(run.id, {"status": each})
    return run.id


async def status_of(store, id):
    return (await store.get_run(id)).run.status


# The store.


def test_only_a_store_of_several_processes_keeps_leases(tmp_path):
    assert isinstance(RedisStore(fresh_url()), ClusterStore)
    assert not isinstance(MemoryStore(), ClusterStore)
    assert not isinstance(SqliteStore(tmp_path / "test.db"), ClusterStore)


async def test_lease_expires_by_time_or_release_until_renewed(store):
    await store.renew_leases(["a", "b"], LEASE_S)
    await store.renew_leases(["c"], 0)
    assert await store.expired_leases() == [ExpiredLease("c", was_released=False)]
    await store.release_lease("a")
    assert await store.expired_leases() == [
        ExpiredLease("a", was_released=True),
        ExpiredLease("c", was_released=False),
    ]
    await store.renew_leases(["a", "c"], LEASE_S, only_new=True)  # they had one
    assert {lease.owner for lease in await store.expired_leases()} == {"a", "c"}
    await store.renew_leases(["a"], LEASE_S)
    assert [lease.owner for lease in await store.expired_leases()] == ["c"]
    await store.delete_lease("a")  # is alive
    await store.delete_lease("c")
    assert await store.expired_leases() == []
    await store.release_lease("a")
    assert [lease.owner for lease in await store.expired_leases()] == ["a"]


async def test_an_owner_that_is_renewed_after_the_judge_looked_is_not_forgotten(store):
    await store.renew_leases(["a"], 0)
    assert len(await store.expired_leases()) == 1
    await store.renew_leases(["a"], LEASE_S)
    await store.delete_lease("a")
    await store.renew_leases(["a"], 0, only_new=True)  # has one still, so this changes nothing
    assert await store.expired_leases() == []


class ServerClock:
    """The clock of the server as the scripts of leases read it, and the keys of the leases."""

    def __init__(self, url):
        self.client = shared_server().client()
        self.base = f"{url.partition('prefix=')[2]}:{{{BUCKET}}}:"

    def set(self, now_s):
        self.client.set(f"{self.base}now_s", now_s)

    def eval(self, script, *arguments):
        return self.client.eval(script, 1, f"{self.base}leases", *arguments)

    def lengths(self):
        return self.client.hgetall(f"{self.base}lease_ms")


@pytest.fixture
def url():
    return fresh_url()


@pytest.fixture
def server_clock(monkeypatch, url):
    now = b"call('TIME')"
    for name, (source, _) in SCRIPTS.items():
        assert source.count(now) == 1
        given = source.replace(now, b"{ call('GET', base .. 'now_s') or call('TIME')[1], '0' }")
        sha = hashlib.sha1(given).hexdigest().encode()
        monkeypatch.setitem(SCRIPTS, name, Script(given, sha))
    clock = ServerClock(url)
    yield clock
    clock.client.close()


NOW_S = 1_795_352_174


@pytest.mark.parametrize("step_s", [3600, -3600, -LEASE_S / HEARTBEATS, 0])
async def test_a_step_of_the_servers_clock_lapses_no_lease_and_keeps_no_dead_owner(
    server_clock, url, step_s
):
    time = Time()
    of_time = {"monotonic_s": lambda: time.now_ms / 1000}
    judging, living = RedisStore(url, **of_time), RedisStore(url)
    await judging.open()
    await living.open()
    heartbeat = LeaseHeartbeat(
        judging, "node_a", LEASE_S, sleep=time.of_runtime["sleep"], **of_time
    )
    try:
        server_clock.set(NOW_S)
        kept = await executing_run(judging, "node_b")
        lost = await executing_run(judging, "worker_c")
        await heartbeat.start()
        judge = ClusterLeases(heartbeat, Known(), lambda: 0.5).recover_expired
        last, stepped = (
            HEARTBEATS,
            HEARTBEATS + 1,
        )  # the worker's last renewal; judges judge from HEARTBEATS on
        for beats in range(last + 2 * HEARTBEATS):
            await living.renew_leases(
                ["node_b", "worker_c"] if beats <= last else ["node_b"], LEASE_S
            )
            server_clock.set(
                NOW_S + beats * LEASE_S / HEARTBEATS + (step_s if beats >= stepped else 0)
            )
            await judge()
            assert await status_of(judging, kept) == "executing"
            if beats < last + HEARTBEATS:
                assert await status_of(judging, lost) == "executing"
            await beat(SimpleNamespace(time=time))
        assert await status_of(judging, lost) == "crashed"  # within two leases
    finally:
        await heartbeat.stop()
        await judging.close()
        await living.close()


async def test_each_renewal_is_seen_when_server_clock_is_frozen(server_clock, url):
    server_clock.set(NOW_S)
    now_s = 0.0
    async with judging(url, lambda: now_s) as store:
        for beats in range(4):
            now_s = beats * LEASE_S
            await store.renew_leases(["a"], LEASE_S)
            assert await store.expired_leases() == []


@asynccontextmanager
async def judging(url, monotonic_s):
    store = RedisStore(url, monotonic_s=monotonic_s)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_a_lease_is_judged_by_its_own_length(url):
    now_s = 0.0
    async with judging(url, lambda: now_s) as store:
        await store.renew_leases(["a"], LEASE_S)
        await store.renew_leases(["b"], 10 * LEASE_S)
        assert await store.expired_leases() == []
        now_s = LEASE_S
        assert [lease.owner for lease in await store.expired_leases()] == ["a"]
        now_s = 10 * LEASE_S
        assert [lease.owner for lease in await store.expired_leases()] == ["a", "b"]


async def test_time_in_which_a_judge_is_frozen_counts_for_no_lease(url):
    times_s = iter([0, 5 * LEASE_S, 5 * LEASE_S + 1, 50 * LEASE_S, 6 * LEASE_S, 50 * LEASE_S])
    async with judging(url, lambda: next(times_s)) as store:
        await store.renew_leases(["a"], LEASE_S)
        assert await store.expired_leases() == []  # asked at 0, answered late
        assert await store.expired_leases() == []  # asked a second after the answer
        assert [lease.owner for lease in await store.expired_leases()] == ["a"]


# What the release before runs in the server: leases by the server's clock.
HOLD_BEFORE = "return redis.call('ZADD', KEYS[1], redis.call('TIME')[1] * 1000 + ARGV[1], ARGV[2])"
LAPSED_BEFORE = (
    "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', redis.call('TIME')[1] * 1000 + 1000)"
)
FORGET_BEFORE = "return redis.call('ZREM', KEYS[1], ARGV[1])"


async def test_gateways_of_the_release_before_judge_and_are_judged_on_the_same_store(url):
    server, now_s = ServerClock(url), 0.0
    async with judging(url, lambda: now_s) as store:
        await store.renew_leases(["new"], LEASE_S)
        await store.renew_leases(["new_dead"], 0)
        server.eval(HOLD_BEFORE, LEASE_S * 1000, "old")
        server.eval(HOLD_BEFORE, -1000, "old_dead")
        assert server.eval(LAPSED_BEFORE) == ["old_dead", "new_dead"]
        assert [lease.owner for lease in await store.expired_leases()] == ["old_dead", "new_dead"]
        now_s = LEASE_S  # the worker came back through a gateway of the release before
        server.eval(HOLD_BEFORE, LEASE_S * 2000, "new")
        assert [lease.owner for lease in await store.expired_leases()] == ["old_dead", "new_dead"]
        server.eval(FORGET_BEFORE, "new_dead")
        await store.delete_lease("old_dead")
        assert await store.expired_leases() == []
        assert list(server.lengths()) == ["new"]
    server.client.close()


async def test_run_is_patched_only_by_its_owner(store):
    run = await store.create_run(new_run(owner="a"))
    assert await store.patch_run_if_owner(run.id, {"status": "executing"}, "b") is None
    assert await status_of(store, run.id) == "queued"
    taken = await store.patch_run_if_owner(run.id, {"owner": "b"}, "a")
    assert taken.owner == "b"
    assert await store.patch_run_if_owner(run.id, {"owner": "c"}, "a") is None


async def test_concurrent_takeovers_of_a_run_have_one_winner():
    async with stores(2) as both:
        run = await both[0].create_run(new_run(owner="a"))
        takers = [f"b{number}" for number in range(20)]
        taken = await asyncio.gather(
            *(
                both[number % 2].patch_run_if_owner(run.id, {"owner": name}, "a")
                for number, name in enumerate(takers)
            )
        )
        (winner,) = [one for one in taken if one is not None]
        assert (await both[0].get_run(run.id)).run.owner == winner.owner


# What is left of one who is gone.


async def test_recovery_crashes_executing_runs_and_adopts_queued_runs(store):
    lost = [await executing_run(store, DEAD, status) for status in ("executing", "waiting")]
    queued = [(await store.create_run(new_run(owner=DEAD))).id for _ in range(3)]
    delayed = await store.create_run(
        new_run(owner=DEAD, status="delayed", delay_until="2126-11-22T12:56:14.000Z")
    )
    ended = await executing_run(store, DEAD)
    await store.patch_run(ended, {"status": "completed"})
    others = await executing_run(store, "node_alive")
    heartbeat, known = LeaseHeartbeat(store, "node_b", LEASE_S), Known("test")
    settled = await recover_runs(heartbeat, DEAD, known, is_last_try=False)
    assert settled == (2, 4, 0)
    assert known.started == [*queued, delayed.id]  # the oldest first
    for id in lost:
        run = (await store.get_run(id)).run
        assert (run.status, run.error.type) == ("crashed", "ProcessDied")
        assert "gateway" in run.error.message
    assert (await store.get_run(delayed.id)).run.owner == "node_b"
    assert [await status_of(store, id) for id in (ended, others)] == ["completed", "executing"]


async def test_recovery_requeues_executing_run_with_attempts_left(store):
    fields = {"owner": DEAD, "max_attempts": 2}
    lost = [await executing_run(store, status=each, **fields) for each in ("executing", "waiting")]
    others = [
        await executing_run(store, owner=DEAD),
        await executing_run(store, attempt=2, **fields),
        await executing_run(store, retry_on_crash=False, **fields),
    ]
    heartbeat, known = LeaseHeartbeat(store, "node_b", LEASE_S), Known("test")
    assert await recover_runs(heartbeat, DEAD, Known(), is_last_try=False) == (3, 0, 2)
    assert [await status_of(store, id) for id in others] == ["crashed"] * 3
    assert await recover_runs(heartbeat, DEAD, known, is_last_try=False) == (0, 2, 0)
    assert known.started == lost
    for id in lost:
        run = (await store.get_run(id)).run
        assert (run.status, run.attempt, run.owner) == ("queued", 2, "node_b")
        assert run.last_error.message == "the gateway that executed it is gone"


async def test_recovery_crashes_run_of_unknown_task_on_last_try(store):
    id = await executing_run(store, owner=DEAD, max_attempts=2)
    heartbeat = LeaseHeartbeat(store, "node_b", LEASE_S)
    assert await recover_runs(heartbeat, DEAD, Known(), is_last_try=True) == (1, 0, 0)
    run = (await store.get_run(id)).run
    assert (run.attempt, "no gateway knows the task" in run.error.message) == (1, True)


async def test_gateway_presumed_dead_does_not_change_the_next_attempt():
    url = fresh_url()
    async with stores(url=url) as other:
        stopped, go_on = asyncio.Event(), asyncio.Event()

        @task(retry=Retry(max_attempts=2))
        async def work() -> str:
            try:
                await go_on.wait()
            finally:
                stopped.set()

        node, known = new_node(), Known("work")
        async with working(RedisStore(url), owner=node):
            handle = await work.trigger()
            async for run in runs.subscribe(handle.id):
                if run.status == "executing":
                    break
            settled = await recover_runs(
                LeaseHeartbeat(other, "node_b", LEASE_S), node, known, is_last_try=False
            )
            assert (settled.adopted, known.started) == (1, [handle.id])
            await asyncio.wait_for(stopped.wait(), DEADLINE_S)
        run = (await other.get_run(handle.id)).run
        assert (run.status, run.attempt, run.owner) == ("queued", 2, "node_b")


async def test_run_adopted_by_two_gateways_starts_once():
    async with stores(2) as both:
        ids = {(await both[0].create_run(new_run(owner=DEAD))).id for _ in range(20)}
        knowing = [Known("test"), Known("test")]
        await asyncio.gather(
            *(
                recover_runs(
                    LeaseHeartbeat(store, f"node_{n}", LEASE_S), DEAD, known, is_last_try=False
                )
                for n, (store, known) in enumerate(zip(both, knowing, strict=True))
            )
        )
        started = [id for known in knowing for id in known.started]
        assert (len(started), set(started)) == (20, ids)


async def test_all_of_a_worker_is_crashed_and_what_waits_for_a_queue_is_not(store):
    queued = await store.create_run(new_run(owner="worker_a"))
    executing = await executing_run(store, "worker_a")
    waiting = await store.create_run(new_run(owner=queue_owner("celery")))
    settled = await recover_runs(
        LeaseHeartbeat(store, "node_b", LEASE_S), "worker_a", Known("test"), is_last_try=False
    )
    assert settled == (2, 0, 0)
    assert [await status_of(store, id) for id in (queued.id, executing)] == ["crashed"] * 2
    assert await status_of(store, waiting.id) == "queued"


async def test_recovery_skips_run_claimed_by_another_worker(store):
    id = await executing_run(store, "worker_a")

    class Claiming(SimpleNamespace):
        async def list_runs(self, query):
            found = await store.list_runs(query)
            await store.patch_run(id, {"owner": "worker_b"})
            return found

        patch_run_if_owner = staticmethod(store.patch_run_if_owner)

    settled = await recover_runs(
        LeaseHeartbeat(Claiming(), "node_b", LEASE_S), "worker_a", Known(), is_last_try=False
    )
    assert (settled.crashed, await status_of(store, id)) == (0, "executing")


async def test_queued_run_of_unknown_task_waits_until_last_try(store):
    run = await store.create_run(new_run(owner=DEAD))
    heartbeat = LeaseHeartbeat(store, "node_b", LEASE_S)
    assert await recover_runs(heartbeat, DEAD, Known(), is_last_try=False) == (0, 0, 1)
    assert await status_of(store, run.id) == "queued"
    assert await recover_runs(heartbeat, DEAD, Known(), is_last_try=True) == (1, 0, 0)
    assert "no gateway knows the task 'test'" in (await store.get_run(run.id)).run.error.message


async def test_recovery_starts_run_when_takeover_response_was_lost(store, monkeypatch):
    run = await store.create_run(new_run(owner=DEAD))
    monkeypatch.setattr("gateway.sdk.execution.recovery.RETRY_S", 0)
    answers = iter([StoreUnavailable("the answer was lost")])

    class Losing(SimpleNamespace):
        list_runs, get_run = staticmethod(store.list_runs), staticmethod(store.get_run)

        async def patch_run_if_owner(self, *arguments):
            done = await store.patch_run_if_owner(*arguments)
            if (error := next(answers, None)) is not None:
                raise error
            return done

    known = Known("test")
    settled = await recover_runs(
        LeaseHeartbeat(Losing(), "node_b", LEASE_S), DEAD, known, is_last_try=False
    )
    assert (settled.adopted, known.started) == (1, [run.id])


async def test_gateway_presumed_dead_does_not_start_adopted_runs():
    url = fresh_url()
    async with stores(url=url) as other:
        began, release = [], asyncio.Event()

        @task
        async def blocking() -> None:
            await release.wait()

        @task
        async def work(n: int) -> int:
            began.append(n)
            return n

        node = new_node()
        async with working(RedisStore(url), owner=node, concurrency=1):
            first = await blocking.trigger()
            taken, kept = await work.trigger(1), await work.trigger(2)
            async for run in runs.subscribe(first.id):
                if run.status == "executing":
                    break
            known = Known("work")
            store = Only(other, taken.id)
            settled = await recover_runs(
                LeaseHeartbeat(store, "node_b", LEASE_S), node, known, is_last_try=False
            )
            assert (settled.adopted, known.started) == (1, [taken.id])
            release.set()
            assert (await asyncio.wait_for(kept.wait(), DEADLINE_S)).output == 2
            assert began == [2]
            run = await runs.retrieve(taken.id)
            assert (run.status, run.owner) == ("queued", "node_b")


class Only:
    """Lists one run of a store and hands everything else on."""

    def __init__(self, store, id):
        self._store, self._id = store, id

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def list_runs(self, query):
        return [run for run in await self._store.list_runs(query) if run.id == self._id]


# Who says that he is alive, and who may say that others are not.


@pytest.fixture
async def kept(store):
    time = Time()
    heartbeat = LeaseHeartbeat(
        store,
        "node_a",
        LEASE_S,
        monotonic_s=lambda: time.now_ms / 1000,
        sleep=time.of_runtime["sleep"],
    )
    await heartbeat.start()
    yield SimpleNamespace(heartbeat=heartbeat, time=time, store=store)
    await heartbeat.stop()


async def beat(kept, times=1):
    for _ in range(times):
        await until(lambda: kept.time.sleeping)
        kept.time.let_pass(LEASE_S / HEARTBEATS)
        await until(lambda: kept.time.sleeping == [LEASE_S / HEARTBEATS])


async def test_gateway_renews_its_lease_and_its_workers_leases(kept):
    kept.heartbeat.retain("worker_a")
    kept.heartbeat.retain("worker_a")
    kept.heartbeat.release("worker_a")
    await kept.store.release_lease("node_a")
    await kept.store.renew_leases(["worker_a"], 0)
    assert len(await kept.store.expired_leases()) == 2
    await beat(kept)
    assert await kept.store.expired_leases() == []
    kept.heartbeat.release("worker_a")
    await kept.store.renew_leases(["worker_a"], 0)
    await beat(kept)
    assert [lease.owner for lease in await kept.store.expired_leases()] == ["worker_a"]


async def test_stopping_gateway_releases_its_lease_and_worker_does_not(store):
    for owner, gone in (("node_a", [ExpiredLease("node_a", was_released=True)]), ("worker_a", [])):
        heartbeat = LeaseHeartbeat(store, owner, LEASE_S)
        await heartbeat.start()
        await heartbeat.stop()
        assert await store.expired_leases() == gone
        await store.delete_lease("node_a")


async def test_recovery_waits_one_lease_after_store_outage(kept):
    heartbeat, leases = kept.heartbeat, ClusterLeases(kept.heartbeat, Known(), lambda: 0.5)
    lost = await executing_run(kept.store, "worker_b")
    await kept.store.renew_leases(["worker_b"], 0)
    await leases.recover_expired()
    assert await status_of(kept.store, lost) == "executing"  # has only just come itself
    await beat(kept, HEARTBEATS - 1)
    assert heartbeat.healthy_for_s < LEASE_S
    kept.time.let_pass(LEASE_S)  # it stood still, or the store did
    assert heartbeat.healthy_for_s == 0
    await leases.recover_expired()
    assert await status_of(kept.store, lost) == "executing"
    await beat(kept, HEARTBEATS - 1)
    await leases.recover_expired()
    assert await status_of(kept.store, lost) == "executing"
    await beat(kept)
    assert heartbeat.healthy_for_s >= LEASE_S
    await leases.recover_expired()
    assert await status_of(kept.store, lost) == "crashed"
    assert await kept.store.expired_leases() == []


async def test_released_lease_is_recovered_immediately(kept):
    lost = await executing_run(kept.store, "node_b")
    await kept.store.release_lease("node_b")
    await ClusterLeases(kept.heartbeat, Known(), lambda: 0.5).recover_expired()
    assert await status_of(kept.store, lost) == "crashed"


async def test_runs_of_a_task_that_is_not_known_keep_their_gateways_name_in_mind(kept, monkeypatch):
    run = await kept.store.create_run(new_run(owner=DEAD))
    await kept.store.release_lease(DEAD)
    leases = ClusterLeases(kept.heartbeat, Known(), lambda: 0.5)
    await leases.recover_expired()
    assert [lease.owner for lease in await kept.store.expired_leases()] == [DEAD]
    leases._left_since_s[DEAD] -= UNKNOWN_TASK_GRACE_S
    await leases.recover_expired()
    assert await status_of(kept.store, run.id) == "crashed"
    assert await kept.store.expired_leases() == []
    await leases.recover_expired()
    assert not leases._left_since_s


async def test_owners_that_never_had_a_lease_are_given_one_when_a_gateway_starts(kept):
    await executing_run(kept.store, "worker_old")
    await kept.store.create_run(new_run(owner=queue_owner("celery")))
    leases = ClusterLeases(kept.heartbeat, Known(), lambda: 0.5)
    await leases.start()
    await leases.stop()
    await kept.store.renew_leases(
        ["worker_old"], 0, only_new=True
    )  # has one, so this changes nothing
    assert await kept.store.expired_leases() == []
    await kept.store.renew_leases(["worker_old"], 0)
    assert [lease.owner for lease in await kept.store.expired_leases()] == ["worker_old"]
