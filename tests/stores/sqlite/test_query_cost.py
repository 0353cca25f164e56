"""No work of the SQLite store grows with the size of its file: held by plans and by counted steps.

A step is what SQLite's virtual machine does, about 50 ns; unlike time it is the same in each run.
"""

import re
from contextlib import asynccontextmanager, closing
from itertools import pairwise
from sqlite3 import connect

import pytest

from gateway.model.log import RunQuery
from gateway.model.records import RunSet, StreamKey, Writer, path_data
from gateway.model.retention import EMPTY_SET_S, KEEP_ALL, Retention
from gateway.model.runs import end_patch
from gateway.sdk.session import opened
from gateway.stores.sqlite import reader_pool, schema
from gateway.stores.sqlite import retention as sqlite_retention
from gateway.stores.sqlite.migration import MovableSqliteStore
from tests.support.gateways import new_run
from tests.support.large_sqlite import make_large_store

NOW_MS = 1_795_352_174_000
ALL_LIMITS = Retention(age_s=3600, records=10, bytes=10_000, run_ttl_s=3600)

RUNS = 20_000
GRAIN = 100  # steps between two counts
STEPS_OF_AN_IDLE_SWEEP = 1_000  # a walk over all runs is 60,000
STEPS_OF_A_CALL = 5_000
STEPS_OF_A_SWEEP = 300_000  # about 15 ms


@pytest.fixture(autouse=True)
def one_reader(monkeypatch):
    """A thread that begins reads the schema, whenever that is: those steps are not the call's."""
    monkeypatch.setattr(reader_pool, "READ_THREADS", 1)


class Watched(MovableSqliteStore):
    """Keeps what it executes, and counts the steps."""

    def __init__(self, path, *, keeps_statements=False, **options):
        self.now_ms = NOW_MS
        super().__init__(path, durability="normal", clock_ms=lambda: self.now_ms, **options)
        self.statements = {} if keeps_statements else None  # by their shape
        self.steps = 0

    def _connect(self):
        connection = super()._connect()
        connection.set_progress_handler(self._count, GRAIN)
        if self.statements is not None:
            connection.set_trace_callback(self._keep)
        return connection

    def _keep(self, sql):
        self.statements[re.sub(r"'(?:[^']|'')*'|\b\d+\b", "?", sql)] = sql

    def _count(self):
        self.steps += GRAIN
        return 0

    async def steps_of(self, call):
        before = self.steps
        await call
        return self.steps - before


async def sweep_all(store):
    records = runs = 0
    while True:
        swept = await store.sweep()
        records, runs = records + swept.records, runs + swept.runs
        if not swept.has_more:
            return records, runs


async def use_everything(store):
    """Have a store execute each of its statements."""
    parent = await store.create_run(new_run())
    run = await store.create_run(
        new_run(tags=["x"], batch_id="b", parent_id=parent.id, idempotency_key="k", owner="o")
    )
    await store.create_run(new_run(idempotency_key="k"))
    key = StreamKey(run.id, "s")
    for number in range(30):
        await store.append(
            key, [b"1"] * 50, writer=Writer("w", 0, 50 * number), order=f"{number:3}"
        )
    for stream in ("a", "b"):
        await store.append(key._replace(stream_id=stream), [b"1"])
    position = (await store.read(key)).position
    await store.read(key, position._replace(offset=3))
    await store.consume_token_use("token", 1, NOW_MS + 1)
    await store.patch_run(run.id, {"tags": ["y"], "status": "executing"})
    await store.patch_run(run.id, {"metadata": {"a": 1}})
    for fields in ({}, {"status": ("queued",)}, {"tag": "y"}, {"owner": "o"}, {"before": "run_z"}):
        await store.list_runs(RunQuery(**fields))
    await store.list_runs(RunQuery(("queued", "executing"), "y", parent.id, "b", "o"))
    for sets in ([RunSet("tag", "x"), RunSet("tag", "y")], [RunSet("batch", "b")]):
        await store.list_set_runs(sets, 10)
    await store.list_set_runs([RunSet("parent", parent.id)], 10)
    path = path_data("a", "g")
    for _ in range(2):
        done = await store.append(path, [b"1"])
        await store.list_path_logs(None, 10)
        await store.list_path_logs(path, 10)
        await store.drop(path, done.position)
    await store.stream_ids(run.id)
    await store.stream_extras(key)
    [each async for each in store.iter_token_uses()]
    other = await store.create_run(new_run())
    await store.import_records(StreamKey(other.id, "s"), position, [], None)
    await store.delete(key._replace(stream_id="a"))
    await sweep_all(store)
    store.now_ms += 2 * 3600 * 1000
    await sweep_all(store)
    await store.append(key, [b"1"])
    await store.patch_run(run.id, end_patch(run, "failed", store.now_ms))
    store.now_ms += 2 * 3600 * 1000
    await sweep_all(store)
    store.now_ms += EMPTY_SET_S * 1000
    await sweep_all(store)


MAY_BE_SCANNED = {
    "incarnation",  # of one row
    "garbage",  # by EXISTS
    "g",  # the garbage, in order and up to a LIMIT
}


async def test_no_statement_scans_or_sorts_a_table(tmp_path):
    path = tmp_path / "test.db"
    async with opened(Watched(path, keeps_statements=True, retention=ALL_LIMITS)) as store:
        store.statements.clear()  # those that make the tables
        await use_everything(store)
        await store.close()
        statements = list(store.statements.values())
    assert len(statements) > 60
    with closing(connect(path)) as db:
        for sql in statements:
            plan = [line for *_, line in db.execute(f"EXPLAIN QUERY PLAN {sql}")]
            scanned = {line.split()[1] for line in plan if re.match(r"SCAN [a-z]", line)}
            assert scanned <= MAY_BE_SCANNED, (plan, sql)
            sorts = any("TEMP B-TREE" in line for line in plan)
            assert not sorts or "UNION" in sql, (plan, sql)  # of LIMITs


@asynccontextmanager
async def large_store(folder, retention=KEEP_ALL):
    make_large_store(folder / "test.db", RUNS)
    async with opened(Watched(folder / "test.db", retention=retention)) as store:
        yield store


async def test_run_list_cost_is_proportional_to_its_result(tmp_path):
    async with large_store(tmp_path) as store:
        unfinished = ("queued", "delayed", "executing", "waiting")
        await store.create_run(new_run(id="run_000000000", status="failed", owner="w", tags=["z"]))
        for query, count in (
            (RunQuery(limit=50), 50),
            (RunQuery(before="run_000010000", limit=50), 50),
            (RunQuery(status=("completed",), limit=50), 50),
            (RunQuery(status=("failed",), limit=50), 1),
            (RunQuery(status=("failed", "executing"), limit=50), 50),
            (RunQuery(status=unfinished, owner="embedded", limit=50), 50),
            (RunQuery(status=unfinished, owner="w", limit=50), 0),
            (RunQuery(owner="w", limit=50), 1),
            (RunQuery(tag="all", limit=50), 50),
            (RunQuery(tag="all", status=("failed",), limit=50), 0),
            (RunQuery(tag="z", status=("failed",), limit=50), 1),
            (RunQuery(tag="t07", status=("completed",), limit=50), 50),
            (RunQuery(tag="t07", status=("executing",), limit=50), 0),
            (RunQuery(tag="t00", status=("executing",), owner="embedded", limit=50), 50),
            (RunQuery(status=("no such status",)), 0),
        ):
            before = store.steps
            runs = await store.list_runs(query)
            assert len(runs) == count, query
            assert [run.id for run in runs] == sorted({run.id for run in runs}, reverse=True)
            assert store.steps - before < STEPS_OF_A_CALL * 4, query


async def test_an_idle_store_of_many_runs_is_swept_for_nothing(tmp_path):
    keeps_long = Retention(age_s=1e9, records=10**6, bytes=10**9, run_ttl_s=1e9)
    async with large_store(tmp_path, keeps_long) as store:
        assert await sweep_all(store) == (0, 0)  # looks at all streams once
        for _ in range(3):
            store.now_ms += 60_000
            assert await store.steps_of(store.sweep()) <= STEPS_OF_AN_IDLE_SWEEP
        assert not store._writer.has_written


@pytest.mark.slow
async def test_each_step_of_a_sweep_of_many_runs_is_short(tmp_path):
    async with large_store(tmp_path, Retention(age_s=60, run_ttl_s=60)) as store:
        store.now_ms = 1_795_352_174_000 + 365 * 86_400_000
        for _ in range(25):
            before = store.steps
            swept = await store.sweep()
            assert swept.runs == sqlite_retention.STEP_RUNS
            assert swept.has_more
            assert store.steps - before < STEPS_OF_A_SWEEP


async def test_a_delete_of_a_large_stream_is_a_short_call_and_its_records_go_in_pieces(tmp_path):
    async with large_store(tmp_path) as store:
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        for _ in range(24):
            await store.append(key, [b'"%s"' % (b"x" * 100_000)] * 20, writer=None)
        assert await store.steps_of(store.delete(key)) < STEPS_OF_A_CALL
        head = await store.head(key)
        assert (head.end, head.position.offset, head.earliest.offset) == ("deleted", 480, 480)
        assert (await store.read(key)).records == []
        freed = [await free_pages(store)]
        while (await store.sweep()).has_more:
            freed.append(await free_pages(store))
        gone = [later - sooner for sooner, later in pairwise(freed)]
        assert sum(gone) * 4096 > 40e6
        assert max(gone) * 4096 < sqlite_retention.STEP_BYTES + (2 << 20)
        assert await store.steps_of(store.sweep()) <= STEPS_OF_AN_IDLE_SWEEP


async def free_pages(store):
    (count,) = await store._read(lambda db: db.execute("PRAGMA freelist_count").fetchone())
    return count


async def test_a_deleted_run_among_many_is_a_short_call(tmp_path):
    async with large_store(tmp_path) as store:
        assert await store.steps_of(store.delete_run("run_000010000")) < STEPS_OF_A_CALL
        assert await store.steps_of(sweep_all(store)) < STEPS_OF_A_CALL


# A file of the release before.


def older(path):
    """Give a file the schema of the release before, as it was after its own upgrade."""
    with closing(connect(path)) as db, db:
        db.executescript(
            "DROP INDEX streams_by_age; ALTER TABLE streams DROP COLUMN oldest_ms;"
            "DROP TABLE empty_sets; DROP INDEX runs_by_owner; DROP INDEX runs_by_status;"
            "CREATE INDEX runs_by_status ON runs (status, owner, id); PRAGMA user_version = 5;"
        )


async def test_a_file_of_the_release_before_is_swept_of_what_it_held(tmp_path):
    path = tmp_path / "test.db"
    async with opened(Watched(path)) as store:
        run = await store.create_run(new_run(tags=["x"]))
        await store.append(StreamKey(run.id, "s"), [b"1"])
        await store.patch_run(run.id, {"tags": []})
        position = (await store.read(StreamKey(run.id, "s"))).position
    older(path)
    async with opened(Watched(path, retention=Retention(age_s=7200))) as store:
        assert await sweep_all(store) == (0, 0)
        assert (await store.head(RunSet("tag", "x").log)).position.offset == 2
        store.now_ms += EMPTY_SET_S * 1000
        assert await sweep_all(store) == (0, 0)
        assert (await store.head(RunSet("tag", "x").log)).position.offset == 0
        store.now_ms += EMPTY_SET_S * 1000 + 1
        assert await sweep_all(store) == (1, 0)
        assert (await store.head(StreamKey(run.id, "s"))).position == position


async def test_the_upgrade_of_a_large_file_says_how_long_it_has_taken(
    tmp_path, monkeypatch, caplog
):
    path = tmp_path / "test.db"
    make_large_store(path, 2000)
    older(path)
    monkeypatch.setattr(schema, "PROGRESS_S", 0.0)
    monkeypatch.setattr(schema, "PROGRESS_STEPS", 1000)
    async with opened(Watched(path)) as store:
        assert len(await store.list_runs(RunQuery(status=("executing",)))) == 20
    assert (
        f"{path} is upgraded from schema version 5 to {schema.SCHEMA_VERSION}: 0 s so far"
        in caplog.text
    )
