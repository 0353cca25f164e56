"""What a store forgets and what its readers are told, held against every store."""

import asyncio
import json
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace

import pytest

from gateway.errors import ConfigurationError, RunNotFound, StoreUnavailable
from gateway.model.log import RunQuery, run_log
from gateway.model.records import ORIGIN, REVOCATIONS, Position, RunSet, StreamKey, Writer
from gateway.model.retention import EMPTY_SET_S, Retention, SweepResult
from gateway.model.runs import end_patch, iso_time
from gateway.sdk.session import opened
from gateway.server.ops import retention_job
from gateway.stores.memory import MemoryStore
from gateway.stores.redis.store import RedisStore
from gateway.stores.sqlite import retention as sqlite_retention
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import DEADLINE_S, new_run, serving, token_for, until, worker_token
from tests.support.redis.servers import fresh_url

START_MS = 1_795_352_174_000


class Clock:
    def __init__(self):
        self.now_ms = START_MS

    def __call__(self):
        return self.now_ms

    def pass_s(self, seconds):
        self.now_ms += round(seconds * 1000)


@asynccontextmanager
async def world_of(kind, folder, retention):
    """A store as its users have it, the one that is swept, and its clock."""
    clock = Clock()
    if kind == "memory":
        store = MemoryStore(clock_ms=clock, retention=retention)
    elif kind == "redis":
        store = RedisStore(fresh_url(), clock_ms=clock, retention=retention)
    else:
        store = SqliteStore(
            folder / "test.db", durability="normal", clock_ms=clock, retention=retention
        )
    if kind != "remote":
        async with opened(store):
            yield SimpleNamespace(store=store, swept=store, clock=clock)
        return
    async with serving(f"sqlite:{folder}/test.db?durability=normal", retention=retention) as it:
        it.store._clock_ms = clock
        async with it.remote() as store:
            yield SimpleNamespace(store=store, swept=it.store, clock=clock)


@pytest.fixture(params=["memory", "sqlite", "redis", "remote"])
def make(request, tmp_path):
    return lambda **retention: world_of(request.param, tmp_path, Retention(**retention))


async def sweep(world):
    """Sweep until there is nothing more to do at once."""
    records = runs = 0
    while True:
        swept = await world.swept.sweep()
        records, runs = records + swept.records, runs + swept.runs
        if not swept.has_more:
            return records, runs


async def new_key(world, **fields):
    run = await world.store.create_run(new_run(**fields))
    return StreamKey(run.id, "progress")


async def finish(world, run_id):
    run = (await world.store.get_run(run_id)).run
    await world.store.patch_run(run_id, end_patch(run, "failed", world.clock()))


async def values_from(world, key, after=None):
    page = await world.store.read(key, after)
    return [json.loads(record.data) for record in page.records], page


async def test_everything_is_kept_unless_a_limit_says_otherwise(make):
    async with make() as world:
        key = await new_key(world)
        await world.store.append(key, [b"1"] * 500)
        await finish(world, key.run_id)
        world.clock.pass_s(10 * 365 * 86400)
        assert await sweep(world) == (0, 0)
        assert len((await world.store.read(key)).records) == 500


async def test_record_limit_retains_newest_and_reader_behind_gets_gap(make):
    async with make(records=10) as world:
        key = await new_key(world)
        for i in range(30):
            await world.store.append(key, [b"%d" % i])
        assert await sweep(world) == (20, 0)
        values, page = await values_from(world, key)
        assert values == list(range(20, 30))
        epoch = page.position.epoch
        assert page.gap == (Position(epoch, 0), Position(epoch, 20), "trimmed")
        assert (await world.store.head(key)).earliest == Position(epoch, 20)
        values, page = await values_from(world, key, Position(epoch, 7))
        assert (values[0], page.gap.start.offset, page.gap.stop.offset) == (20, 7, 20)
        values, page = await values_from(world, key, Position(epoch, 25))
        assert (values, page.gap, page.reset) == ([25, 26, 27, 28, 29], None, None)
        assert await sweep(world) == (0, 0)


async def test_offsets_go_on_and_writers_are_remembered_after_everything_was_trimmed(make):
    async with make(age_s=60) as world:
        key = await new_key(world)
        writer = Writer("w", 0, 0)
        await world.store.append(key, [b"0", b"1"], writer=writer)
        world.clock.pass_s(61)
        assert await sweep(world) == (2, 0)
        values, page = await values_from(world, key)
        assert (values, page.gap.stop.offset, page.position.offset) == ([], 2, 2)
        assert (await world.store.append(key, [b"0", b"1"], writer=writer)).duplicate
        done = await world.store.append(key, [b"2"], writer=Writer("w", 0, 2), end="completed")
        assert done.offset == 2
        world.clock.pass_s(61)
        await sweep(world)
        page = await world.store.read(key, Position(done.position.epoch, 1))
        assert (page.records, page.gap.stop.offset, page.end) == ([], 3, "completed")


async def test_sweep_retains_records_within_age_limit(make):
    async with make(age_s=60) as world:
        key = await new_key(world)
        for i in range(4):
            await world.store.append(key, [b"%d" % i])
            world.clock.pass_s(25)
        assert await sweep(world) == (2, 0)
        assert (await values_from(world, key))[0] == [2, 3]


async def test_byte_limit_retains_newest_and_at_least_the_limit(make):
    async with make(bytes=5000) as world:
        key = await new_key(world)
        for i in range(30):
            await world.store.append(key, [b'"%d%s"' % (i, b"x" * 997)])
        removed, _ = await sweep(world)
        kept = (await world.store.read(key)).records
        assert removed == 30 - len(kept)
        assert 4000 < sum(len(record.data) for record in kept) < 7000
        assert await sweep(world) == (0, 0)


async def test_sweep_never_removes_records_within_limits(make):
    """A store lays records down in pieces; a piece stays while any of it is to be kept."""
    async with make(records=10) as world:
        key = await new_key(world)
        await world.store.append(key, [b"%d" % i for i in range(25)])
        await sweep(world)
        values, page = await values_from(world, key)
        assert values[-10:] == list(range(15, 25))
        assert page.position.offset == 25


async def test_the_reserved_streams_of_a_run_are_never_trimmed(make):
    async with make(records=1, age_s=1, bytes=1) as world:
        key = await new_key(world)
        await world.store.append(key, [b"1"])
        for i in range(5):
            await world.store.patch_run(key.run_id, {"metadata": {"i": i}})
        await world.store.append(key._replace(stream_id="other"), [b"1"])
        world.clock.pass_s(100)
        assert (await sweep(world))[0] == 2
        log = await world.store.read(run_log(key.run_id))
        assert (len(log.records), log.gap) == (6, None)
        named = await world.store.read(key._replace(stream_id="$streams"))
        assert (len(named.records), named.gap) == (2, None)


async def test_a_follower_at_the_tail_is_not_disturbed_and_one_behind_gets_a_gap(make):
    async with make(records=3) as world:
        key = await new_key(world)
        for i in range(10):
            done = await world.store.append(key, [b"%d" % i])
        async with aclosing(world.store.follow(key, done.position)) as pages:
            nothing_yet = asyncio.ensure_future(anext(pages))
            assert await sweep(world) == (7, 0)
            await world.store.append(key, [b"10"])
            page = await asyncio.wait_for(nothing_yet, DEADLINE_S)
            assert ([r.offset for r in page.records], page.gap) == ([10], None)
        async with aclosing(world.store.follow(key, done.position._replace(offset=2))) as pages:
            page = await asyncio.wait_for(anext(pages), DEADLINE_S)
            assert (page.gap.start.offset, page.gap.stop.offset) == (2, 7)
            records = page.records or (await asyncio.wait_for(anext(pages), DEADLINE_S)).records
            assert records[0].offset == 7


async def test_a_deleted_run_is_gone_with_all_that_it_owns(make):
    async with make() as world:
        store = world.store
        child = await new_key(world)
        run = new_run(tags=["x"], batch_id="b", idempotency_key="k")
        await store.create_run(run)
        await store.append(StreamKey(run.id, "progress"), [b"1"], writer=Writer("w", 0, 0))
        assert await store.delete_run(run.id)
        assert not await store.delete_run(run.id)
        key = StreamKey(run.id, "progress")
        for call in (
            store.get_run(run.id),
            store.read(key),
            store.head(key),
            store.append(key, [b"2"]),
            store.patch_run(run.id, {"metadata": {}}),
            store.read(run_log(run.id)),
        ):
            with pytest.raises(RunNotFound):
                await call
        assert await store.list_runs(RunQuery(tag="x")) == []
        assert await store.list_runs(RunQuery(batch_id="b")) == []
        assert [each.id for each in await store.list_runs(RunQuery())] == [child.run_id]
        assert (await store.list_set_runs([RunSet("tag", "x")], 10)).runs == []
        again = new_run(idempotency_key="k")
        assert (await store.create_run(again)).id == again.id


async def test_recreated_run_gets_no_records_of_the_deleted_run(make):
    async with make() as world:
        key = await new_key(world)
        before = await world.store.append(key, [b"1", b"2"], writer=Writer("w", 0, 0))
        await world.store.delete_run(key.run_id)
        await new_key(world, id=key.run_id)
        assert (await world.store.head(key)).position == ORIGIN
        done = await world.store.append(key, [b"3"], writer=Writer("w", 0, 0))
        assert not done.duplicate
        values, page = await values_from(world, key, before.position)
        assert (values, page.reset) == ([3], "epoch_changed")
        await sweep(world)
        assert (await values_from(world, key))[0] == [3]


async def test_sets_hear_of_the_deletion_once_each(make):
    async with make() as world:
        run = await world.store.create_run(new_run(tags=["x", "y"], batch_id="b"))
        await world.store.patch_run(run.id, {"metadata": {"a": 1}})
        sets = [RunSet("tag", "x"), RunSet("tag", "y"), RunSet("batch", "b")]
        found = [(await world.store.list_set_runs([each], 10)).positions[0] for each in sets]
        await world.store.delete_run(run.id)
        for each, position in zip(sets, found, strict=True):
            (record,) = (await world.store.read(each.log, position)).records
            assert json.loads(record.data) == {"id": run.id, "version": 2, "deleted": True}


def is_waiting(store, key):
    """Whether a follower has read what there is and waits for more."""
    if not hasattr(store, "_growth"):
        return True  # its followers look for themselves
    watches = store._growth._watches.get(key.run_id, {}).get(key, ())
    return any(watch._woken.has_waiter for watch in watches)


@pytest.mark.parametrize("stream", ["progress", "$run", "$streams", "never-appended-to"])
async def test_followers_of_deleted_run_get_deleted_end(make, stream):
    async with make() as world:
        key = await new_key(world)
        await world.store.append(key, [b"1"])
        key = key._replace(stream_id=stream)
        head = await world.store.head(key)
        async with aclosing(world.store.follow(key, head.position)) as pages:
            ending = asyncio.ensure_future(anext(pages))
            if world.store is not world.swept:
                # The gateway must have taken the subscription before the run goes.
                await until(lambda: any(f.is_known for f in world.store._main._follows.values()))
            await until(lambda: is_waiting(world.swept, key))
            await world.store.delete_run(key.run_id)
            page = await asyncio.wait_for(ending, DEADLINE_S)
            assert (page.records, page.end, page.position) == ([], "deleted", head.position)
            assert await anext(pages, None) is None
        with pytest.raises(RunNotFound):
            async with aclosing(world.store.follow(key)) as pages:
                await anext(pages)


async def test_finished_runs_are_deleted_after_their_time_and_others_stay(make):
    async with make(run_ttl_s=100) as world:
        old, younger, going = [await new_key(world) for _ in range(3)]
        await finish(world, old.run_id)
        world.clock.pass_s(60)
        await finish(world, younger.run_id)
        assert await sweep(world) == (0, 0)
        world.clock.pass_s(60)
        assert await sweep(world) == (0, 1)
        left = {run.id for run in await world.store.list_runs(RunQuery())}
        assert left == {younger.run_id, going.run_id}
        world.clock.pass_s(1_000_000)
        assert await sweep(world) == (0, 1)
        assert [run.id for run in await world.store.list_runs(RunQuery())] == [going.run_id]


async def test_run_without_end_time_expires_by_its_last_change(make):
    async with make(run_ttl_s=100) as world:
        key = await new_key(world)
        await world.store.patch_run(key.run_id, {"status": "canceled"})
        world.clock.pass_s(99)
        assert await sweep(world) == (0, 0)
        world.clock.pass_s(2)
        assert await sweep(world) == (0, 1)


async def test_log_of_empty_set_is_removed_and_returns_with_new_epoch(make):
    async with make(run_ttl_s=1) as world:
        key = await new_key(world, tags=["x", "kept"])
        await new_key(world, tags=["kept"])
        await finish(world, key.run_id)
        world.clock.pass_s(10)
        assert await sweep(world) == (0, 1)
        log = RunSet("tag", "x").log
        before = (await world.store.head(log)).position
        assert before.offset == 3
        world.clock.pass_s(EMPTY_SET_S)
        await sweep(world)
        assert (await world.store.head(log)).position == ORIGIN
        assert (await world.store.head(RunSet("tag", "kept").log)).position.offset > 0
        async with aclosing(world.store.follow(log, before)) as pages:
            page = await asyncio.wait_for(anext(pages), DEADLINE_S)
            assert page.reset == "epoch_changed"
        await new_key(world, tags=["x"])
        page = await world.store.read(log, before)
        assert (page.reset, len(page.records)) == ("epoch_changed", 1)


async def test_concurrent_sweeps_give_the_same_result(make):
    async with make(records=5, run_ttl_s=1) as world:
        keys = [await new_key(world) for _ in range(20)]
        for key in keys:
            for i in range(12):
                await world.store.append(key, [b"%d" % i])
        for key in keys[:10]:
            await finish(world, key.run_id)
        world.clock.pass_s(5)
        await asyncio.gather(*(sweep(world) for _ in range(5)))
        assert len(await world.store.list_runs(RunQuery())) == 10
        for key in keys[10:]:
            assert (await values_from(world, key))[0] == [7, 8, 9, 10, 11]


async def test_appends_and_reads_go_on_while_it_is_swept(make):
    async with make(records=20) as world:
        key = await new_key(world)
        over = asyncio.Event()

        async def run_retention():
            while not over.is_set():
                await world.swept.sweep()
                await asyncio.sleep(0)

        async def reading():
            seen, after = [], None
            async with aclosing(world.store.follow(key)) as pages:
                async for page in pages:
                    if page.gap:
                        assert page.gap.start.offset == (after.offset if after else 0)
                        after = page.gap.stop
                    for record in page.records:
                        assert record.offset == (after.offset if after else 0)
                        after = Position(page.position.epoch, record.offset + 1)
                        seen.append(int(record.data))
            return seen

        sweeper_task = asyncio.create_task(run_retention())
        readers = [asyncio.create_task(reading()) for _ in range(3)]
        for i in range(0, 600, 3):
            await world.store.append(key, [b"%d" % (i + k) for k in range(3)])
        await world.store.append(key, [b"600"], end="completed")
        for seen in await asyncio.gather(*readers):
            assert seen == sorted(set(seen))
            assert seen[-1] == 600
        over.set()
        await sweeper_task


async def test_sqlite_takes_small_steps_and_comes_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_retention, "STEP_STREAMS", 3)
    monkeypatch.setattr(sqlite_retention, "STEP_RUNS", 2)
    monkeypatch.setattr(sqlite_retention, "STEP_ROWS", 4)
    async with world_of("sqlite", tmp_path, Retention(records=2, run_ttl_s=10)) as world:
        keys = [await new_key(world) for _ in range(7)]
        for key in keys:
            for i in range(11):
                await world.store.append(key, [b"%d" % i])
        for key in keys[:5]:
            await finish(world, key.run_id)
        world.clock.pass_s(11)
        first = await world.swept.sweep()
        assert (first.runs, first.has_more) == (2, True)
        assert (await sweep(world))[1] == 3
        for _ in range(3):  # a stream may have lain behind the sweep that came by
            await sweep(world)
        for key in keys[5:]:
            assert (await values_from(world, key))[0] == [9, 10]
        rows = await world.store._read(
            lambda db: db.execute(
                "SELECT (SELECT count(*) FROM garbage), (SELECT count(*) FROM blocks b"
                " WHERE NOT EXISTS (SELECT 1 FROM streams s WHERE s.no = b.stream))"
            ).fetchone()
        )
        assert rows == (0, 0)


async def test_sqlite_does_not_give_a_new_stream_the_rows_of_a_deleted_one(tmp_path):
    async with world_of("sqlite", tmp_path, Retention()) as world:
        key = await new_key(world)
        await world.store.append(key, [b"1"])
        await world.store.delete_run(key.run_id)  # the newest stream, whose number would be next
        other = await new_key(world)
        await world.store.append(other, [b"2"])
        assert (await values_from(world, other))[0] == [2]
        await sweep(world)
        assert (await values_from(world, other))[0] == [2]


async def test_swept_state_survives_restart(tmp_path):
    async with world_of("sqlite", tmp_path, Retention(bytes=100, age_s=60)) as world:
        key = await new_key(world)
        for i in range(20):
            done = await world.store.append(key, [b'"%d%s"' % (i, b"x" * 50)])
        await sweep(world)
        before = await world.store.head(key)
    async with world_of("sqlite", tmp_path, Retention(bytes=100, age_s=60)) as world:
        assert await world.store.head(key) == before
        assert before.position == done.position
        assert await sweep(world) == (0, 0)
        world.clock.pass_s(61)
        assert (await sweep(world))[0] > 0


# Over the socket.


async def test_a_stream_that_is_read_while_it_is_trimmed_gives_a_gap(monkeypatch):
    monkeypatch.setattr("gateway.fanout.tail.RING_BYTES", 200)
    async with serving(retention=Retention(records=5)) as gateway:
        run = await gateway.store.create_run(new_run())
        key = StreamKey(run.id, "s")
        async with gateway.client(token=worker_token()) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s", throttle_ms=300)
            await gateway.store.append(key, [b"0"])
            assert (await client.receive())["records"][0]["data"] == 0
            for i in range(1, 100):
                await gateway.store.append(key, [b"%d" % i])
            await gateway.store.sweep()
            frame = await client.receive()
            assert (frame["type"], frame["reason"]) == ("gap", "trimmed")
            assert frame["from"].endswith("_0000000000000001")
            assert frame["to"].endswith("_0000000000000095")
            frame = await client.receive()
            assert [record["data"] for record in frame["records"]] == list(range(95, 100))


async def test_readers_of_a_deleted_run_get_the_end_and_its_sets_the_deletion():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run(tags=["x"]))
        await gateway.store.append(StreamKey(run.id, "s"), [b"1"])
        async with gateway.client(token=worker_token()) as client:
            await client.ask(type="subscribe", id=1, run=run.id, stream="s")
            assert (await client.receive())["type"] == "records"
            await client.ask(type="subscribe", id=2, run=run.id)
            await client.ask(type="subscribe", id=3, runs={"tag": "x"}, skip=["payload"])
            await client.send(type="run_delete", id=4, run=run.id)
            frames = [await client.receive() for _ in range(4)]
        by_id = {frame["id"]: frame for frame in frames}
        assert (by_id[1]["type"], by_id[1]["reason"]) == ("end", "deleted")
        assert (by_id[2]["type"], by_id[2]["reason"]) == ("end", "deleted")
        (record,) = by_id[3]["records"]
        assert record["data"] == {"id": run.id, "version": 1, "deleted": True}
        assert (by_id[4]["type"], by_id[4]["value"]) == ("result", True)
        assert gateway.hub.live_streams == 0


async def test_a_token_that_may_not_change_a_run_may_not_delete_it():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        scopes = (f"read:runs:{run.id}", f"write:streams:{run.id}/s")
        async with gateway.client(token=token_for(*scopes)) as client:
            answer = await client.ask(type="run_delete", id=1, run=run.id)
            assert answer["code"] == "forbidden"
        assert (await gateway.store.get_run(run.id)).run.id == run.id


# The sweeper and the settings.


class Sweepable:
    """Only what the sweeper sees of a store."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    async def sweep(self):
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_sweeper_repeats_while_more_remains_and_after_failures():
    outcomes = [
        SweepResult(1, 0, True),
        SweepResult(1, 1),
        StoreUnavailable("full"),
        ValueError("?"),
        SweepResult(),
    ]
    rests = []
    over = asyncio.Event()

    async def sleep(seconds):
        rests.append(seconds)
        if len(rests) == len(outcomes):
            over.set()
            await asyncio.Event().wait()

    async with retention_job.run_retention(Sweepable(*outcomes), sleep):
        await asyncio.wait_for(over.wait(), DEADLINE_S)
    assert rests == [retention_job.STEP_S] + [retention_job.SWEEP_S] * 4


async def test_a_gateway_sweeps_by_itself(monkeypatch):
    monkeypatch.setattr(retention_job, "SWEEP_S", 0.01)
    async with serving(retention=Retention(run_ttl_s=1)) as gateway:
        run = await gateway.store.create_run(new_run())
        longer_ago = iso_time(gateway.store._clock_ms() - 10_000)
        await gateway.store.patch_run(run.id, {"status": "canceled", "finished_at": longer_ago})
        await until(lambda: run.id not in gateway.store._runs)


@pytest.mark.parametrize("field", ["age_s", "records", "bytes", "run_ttl_s"])
def test_a_limit_is_above_zero(field):
    with pytest.raises(ConfigurationError, match=f"{field} is 0; it is above 0"):
        Retention(**{field: 0})


async def test_revoked_tokens_are_not_forgotten_with_old_records(make):
    async with make(age_s=1, records=1, bytes=1, run_ttl_s=1) as world:
        for n in range(5):
            await world.store.append(REVOCATIONS, [b'{"token_id":"t_%d"}' % n])
            world.clock.pass_s(20 * 24 * 3600 / 5)
        await sweep(world)
        page = await world.store.read(REVOCATIONS)
        assert (len(page.records), page.gap) == (5, None)
