"""Delays, times to live, maximum durations and idempotency keys."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest

from gateway import current_run, runs, streams, task, wait
from gateway.errors import InvalidId, InvalidValue, StreamIncomplete
from gateway.model.records import StreamKey
from gateway.model.runs import time_ms
from gateway.stores.memory import MemoryStore
from gateway.stores.remote.store import RemoteStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import Time, gateway_process, until, worker_token, working
from tests.support.stores import working_on

progress = streams.define("progress", int)


# Delay.


@pytest.mark.parametrize("kind", ["delay_s", "delay_until"])
async def test_a_delayed_run_starts_when_it_is_due_and_not_before(kind):
    @task
    async def work() -> int:
        return 1

    time = Time()
    async with working(time=time):
        due = datetime.fromtimestamp(time.now_ms / 1000, UTC) + timedelta(hours=1)
        when = 3600 if kind == "delay_s" else due
        handle = await work.options(**{kind: when}).trigger()
        time.let_pass(3599.999)
        run = await runs.retrieve(handle.id)
        assert (run.status, run.queued_at, run.is_queued) == ("delayed", None, True)
        statuses = []
        async for run in runs.subscribe(handle.id):
            statuses.append(run.status)
            if run.status == "delayed":
                time.let_pass(0.001)
        assert statuses == ["delayed", "queued", "executing", "completed"]
        run = await runs.retrieve(handle.id)
        assert run.delay_until == run.queued_at == run.started_at


async def test_a_moment_that_has_passed_is_no_delay():
    @task
    async def work() -> int:
        return 1

    async with working():
        past = datetime.now(UTC) - timedelta(days=1)
        result = await work.options(delay_until=past).trigger_and_wait()
        run = await runs.retrieve(result.run_id)
        assert (run.delay_until, run.queued_at) == (None, run.created_at)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "remote"])
async def test_a_moment_at_the_end_of_time_is_a_delay_without_an_end(kind, tmp_path):
    zones = [UTC, timezone(timedelta(hours=14)), timezone(timedelta(hours=-14))]

    @task
    async def work() -> None: ...

    @task
    async def waits() -> None:
        await wait.until(datetime.max.replace(tzinfo=UTC))

    async with working_on(kind, tmp_path):
        for zone in zones:
            moment = datetime.max.replace(tzinfo=zone)
            handle = await work.options(delay_until=moment, ttl_s=10**8).trigger()
            run = await runs.retrieve(handle.id)
            assert run.status == "delayed"
            assert run.delay_until.startswith("9999-12-31T")
            assert run.expires_at == "9999-12-31T23:59:59.000Z"
            await runs.cancel(handle.id)
            assert (await handle.wait()).status == "canceled"
            moment = datetime.min.replace(tzinfo=zone)
            assert (await work.options(delay_until=moment).trigger_and_wait()).ok
        handle = await waits.trigger()
        async for run in runs.subscribe(handle.id):
            if run.status == "waiting":
                break
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"


async def test_delayed_run_is_canceled_immediately():
    @task
    async def work() -> int:
        return 1

    async with working() as active:
        handle = await work.options(delay_s=3600).trigger()
        run = await runs.cancel(handle.id)
        assert (run.status, run.duration_ms) == ("canceled", None)
        assert run.finished_at is not None
        await until(lambda: not active.runner._executions)


# Time to live.


async def test_a_run_that_has_not_started_in_its_time_expires():
    release = asyncio.Event()

    @task
    async def blocking() -> None:
        await release.wait()

    @task
    async def work() -> int:
        return 1

    time = Time()
    async with working(time=time, concurrency=1) as active:
        first = await blocking.trigger()
        handle = await work.options(ttl_s=30).trigger()
        assert (await runs.retrieve(handle.id)).status == "queued"
        time.let_pass(30)
        result = await handle.wait()
        assert (result.status, result.error.type) == ("expired", "Expired")
        run = await runs.retrieve(handle.id)
        assert run.is_failed
        assert run.started_at is None
        assert (await active.store.head(StreamKey(run.id, "progress"))).end == "expired"
        release.set()
        assert (await first.wait()).ok


async def test_a_run_that_starts_in_its_time_does_not_expire():
    now_ms = 1_795_352_174_000

    @task
    async def work() -> int:
        nonlocal now_ms
        now_ms += 120_000
        return 1

    async with working(clock_ms=lambda: now_ms):
        result = await work.options(ttl_s=60).trigger_and_wait()
        assert result.output == 1
        assert (await runs.retrieve(result.run_id)).duration_ms == 120_000


async def test_the_time_to_live_counts_from_when_the_run_is_due():
    @task
    async def work() -> int:
        return 1

    async with working():
        handle = await work.options(delay_s=60, ttl_s=30).trigger()
        run = await runs.retrieve(handle.id)
        assert time_ms(run.expires_at) - time_ms(run.delay_until) == 30_000


# Maximum duration.


async def test_a_run_that_executes_for_too_long_times_out_and_cleans_up():
    time = Time()

    @task(max_duration_s=30)
    async def work() -> None:
        progress.append(1)
        await until(lambda: time.sleeping == [30])
        time.let_pass(30)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            progress.append(2)

    async with working(time=time):
        result = await work.trigger_and_wait()
        assert (result.status, result.error.type) == ("timed_out", "TimedOut")
        assert result.error.message == "it executed for more than 30 s"
        run = await runs.retrieve(result.run_id)
        assert run.is_failed
        assert run.duration_ms == 30_000
        records = []
        with pytest.raises(StreamIncomplete, match="timed_out"):
            async for value in progress.read(run.id):
                records.append(value)
        assert records == [1, 2]


async def test_a_plain_function_that_executes_for_too_long_stops_at_its_next_append():
    time, appended = Time(), []

    @task
    def work() -> None:
        while len(appended) < 10_000:
            progress.append(1)
            appended.append(1)
            pause.wait(0.002)

    pause = threading.Event()  # that nobody sets: it gives the event loop its turn
    async with working(time=time):
        handle = await work.options(max_duration_s=30).trigger()
        await until(lambda: appended and time.sleeping == [30])
        time.let_pass(30)
        assert (await handle.wait()).status == "timed_out"
        assert len(appended) < 10_000


@pytest.mark.parametrize(("then_s", "status"), [(0.09, "completed"), (0.1, "timed_out")])
async def test_the_time_that_a_run_waits_does_not_count(then_s, status):
    time = Time()

    @task(max_duration_s=1)
    async def work() -> None:
        await until(lambda: time.sleeping == [1])
        time.let_pass(0.9)
        await wait.for_seconds(3600)
        await until(lambda: time.sleeping == [0.1])
        time.let_pass(then_s)
        if status == "timed_out":
            await asyncio.Event().wait()

    async with working(time=time):
        handle = await work.trigger()
        await until(lambda: 3600 in time.sleeping)
        time.let_pass(3600)
        assert (await handle.wait()).status == status


async def test_a_run_that_timed_out_during_a_child_is_not_left_waiting():
    @task
    async def child() -> None:
        await asyncio.sleep(0.02)

    @task(max_duration_s=0.1)
    async def parent() -> None:
        await child.trigger_and_wait()
        await asyncio.Event().wait()

    async with working():
        assert (await parent.trigger_and_wait()).status == "timed_out"


# Idempotency keys.


async def test_a_second_trigger_with_the_same_key_gives_the_first_run():
    executed = []

    @task
    async def work(n: int) -> int:
        executed.append(n)
        return n

    async with working():
        keyed = work.options(idempotency_key="order 7")
        first, second = await keyed.trigger(1), await keyed.trigger(2)
        assert first.id == second.id
        assert (await second.wait()).output == 1
        third = await keyed.trigger_and_wait(3)
        assert (third.run_id, third.output) == (first.id, 1)
        assert (await work.options(idempotency_key="order 8").trigger_and_wait(4)).output == 4
        assert executed == [1, 4]


async def test_concurrent_triggers_with_one_key_make_one_run(tmp_path):
    executed = []

    @task
    async def work() -> None:
        executed.append(current_run().id)

    for store in (MemoryStore(), SqliteStore(tmp_path / "test.db", durability="normal")):
        executed.clear()
        async with working(store):
            keyed = work.options(idempotency_key="k")
            handles = await asyncio.gather(*(keyed.trigger() for _ in range(30)))
            assert len({handle.id for handle in handles}) == 1
            assert (await handles[0].wait()).ok
            assert executed == [handles[0].id]


async def test_a_key_counts_across_processes_and_restarts(tmp_path):
    executed = []

    @task
    async def work() -> None:
        executed.append(current_run().id)

    keyed = work.options(idempotency_key="k")
    with gateway_process(f"sqlite:{tmp_path}/test.db?durability=normal", tmp_path) as process:
        ids = []
        for owner in ("worker_1", "worker_2"):
            async with working(RemoteStore(process.url, worker_token, owner=owner), owner=owner):
                handle = await keyed.trigger()
                assert (await handle.wait()).ok
                ids.append(handle.id)
    async with working(SqliteStore(tmp_path / "test.db")):
        ids.append((await keyed.trigger()).id)
    assert len(set(ids)) == 1
    assert executed == ids[:1]


async def test_after_its_time_a_key_makes_a_new_run():
    now_ms = 1_795_352_174_000

    def clock_ms():
        return now_ms

    @task
    async def work() -> None: ...

    async with working(MemoryStore(clock_ms=clock_ms), clock_ms=clock_ms):
        keyed = work.options(idempotency_key="k", idempotency_key_ttl_s=60)
        first = await keyed.trigger()
        now_ms += 59_999
        assert (await keyed.trigger()).id == first.id
        now_ms += 1
        second = await keyed.trigger()
        assert second.id != first.id
        assert (await keyed.trigger()).id == second.id


async def test_a_batch_cannot_have_one_key():
    @task
    async def work() -> None: ...

    async with working():
        with pytest.raises(InvalidValue, match="2 payloads; an idempotency key is of one"):
            await work.options(idempotency_key="k").batch_trigger([{}, {}])


# What is refused, and how options come together.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay_s": -1}, "delay_s is -1; it goes from 0"),
        ({"delay_s": float("nan")}, "delay_s is nan"),
        ({"ttl_s": "1"}, "ttl_s is '1'"),
        ({"max_duration_s": True}, "max_duration_s is True"),
        ({"delay_until": datetime(2030, 1, 1)}, "a datetime with a time zone"),
        ({"delay_until": 5}, "a datetime with a time zone"),
        ({"delay_s": 1, "delay_until": datetime.now(UTC)}, "delay_s or delay_until, not both"),
        ({"idempotency_key": ""}, "1 to 256 characters"),
        ({"idempotency_key": "k" * 257}, "1 to 256 characters"),
        ({"idempotency_key": "order \ud83d"}, r"'order \\ud83d' .* half of a surrogate pair"),
    ],
)
def test_options_outside_their_rule_are_refused(options, message):
    @task
    async def work() -> None: ...

    with pytest.raises(InvalidValue, match=message):
        work.options(**options)


def test_tags_outside_their_rule_are_refused():
    @task
    async def work() -> None: ...

    with pytest.raises(InvalidValue, match="up to 10"):
        work.options(tags=["x"] * 11)
    with pytest.raises(InvalidId, match=r"no \* at the end"):
        work.options(tags=["x*"])
    with pytest.raises(InvalidId, match=r"tag 'a \\ud83d' is not allowed: .*surrogate"):
        work.options(tags=["a \ud83d"])


async def test_options_add_up_and_leave_the_task_as_it_was():
    @task(max_duration_s=5)
    async def work() -> None: ...

    async with working():
        tagged = work.options(tags=["a"])
        both = tagged.options(metadata={"m": 1})
        for of, expected in (
            (work, ([], {}, 5)),
            (tagged, (["a"], {}, 5)),
            (both, (["a"], {"m": 1}, 5)),
            (both.options(max_duration_s=1), (["a"], {"m": 1}, 1)),
        ):
            run = await runs.retrieve((await of.trigger()).id)
            assert (run.tags, run.metadata, run.max_duration_s) == expected
