"""What the SQLite store adds to the contract: one owner, and nothing lost with the process."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from gateway.errors import ConfigurationError, IllegalTransition, StoreLocked, StoreUnavailable
from gateway.model.log import RunQuery, run_log
from gateway.model.records import StreamKey, Writer, path_data
from gateway.stores.sqlite import schema
from gateway.stores.sqlite import writer_thread as module
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import DEADLINE_S, new_run, until
from tests.support.records import records_of


async def test_everything_is_there_after_a_restart(tmp_path):
    path = tmp_path / "sub" / "folder" / "test.db"
    store = SqliteStore(path)
    await store.open()
    run = await store.create_run(new_run(tags=["x"], metadata={"a": 1}))
    key = StreamKey(run.id, "progress")
    await store.append(key, [b"1", b"2"], writer=Writer("w", 3, 0), source=run.id)
    await store.append(StreamKey(run.id, "over"), [b"1"], end="failed")
    await store.delete(StreamKey(run.id, "gone"))
    await store.patch_run(run.id, {"status": "executing"})
    head, log = await store.head(key), await store.read(run_log(run.id))
    await store.close()

    store = SqliteStore(path)
    await store.open()
    assert await store.head(key) == head
    assert [(r.offset, r.data, r.source) for r in await records_of(store, key)] == [
        (0, b"1", run.id),
        (1, b"2", run.id),
    ]
    assert await store.read(run_log(run.id)) == log
    assert (await store.get_run(run.id)).run.status == "executing"
    assert [found.id for found in await store.list_runs(RunQuery(tag="x"))] == [run.id]
    assert (await store.head(StreamKey(run.id, "over"))).end == "failed"
    assert (await store.head(StreamKey(run.id, "gone"))).end == "deleted"
    again = await store.append(key, [b"1", b"2"], writer=Writer("w", 3, 0))
    assert (again.offset, again.duplicate) == (0, True)
    appended = await store.append(key, [b"3"], writer=Writer("w", 3, 2))
    assert (appended.offset, appended.position.epoch) == (2, head.position.epoch)
    await store.close()


async def test_second_owner_error_suggests_gateway_url(tmp_path):
    first, second = (SqliteStore(tmp_path / "test.db", lock_wait_s=0) for _ in range(2))
    await first.open()
    with pytest.raises(
        StoreLocked, match=r"another process.*REALTIME_URL.*REALTIME_STORE=redis://"
    ):
        await second.open()
    await first.close()
    await second.open()
    await second.close()


async def test_a_process_that_restarts_waits_for_its_predecessor(tmp_path):
    first, second = (SqliteStore(tmp_path / "test.db", lock_wait_s=20) for _ in range(2))
    await first.open()
    opening = asyncio.create_task(second.open())
    await asyncio.sleep(0)
    assert not opening.done()
    await first.close()
    await asyncio.wait_for(opening, DEADLINE_S)
    await second.close()


async def test_a_file_that_is_no_database_is_not_touched(tmp_path):
    path = tmp_path / "test.db"
    path.write_bytes(b"precious " * 1000)
    store = SqliteStore(path)
    with pytest.raises(StoreUnavailable, match=r"test\.db cannot be opened.*not a database"):
        await store.open()
    await store.close()
    assert path.read_bytes() == b"precious " * 1000
    path.unlink()
    await store.open()  # the lock was let go
    await store.close()


async def test_a_file_of_a_newer_release_is_not_touched(tmp_path):
    path = tmp_path / "test.db"
    connection = sqlite3.connect(path)
    known = schema.SCHEMA_VERSION
    connection.execute(f"PRAGMA user_version = {known + 1}")
    connection.close()
    what = f"version {known + 1}; this release knows up to {known}"
    with pytest.raises(StoreUnavailable, match=what):
        await SqliteStore(path).open()


async def test_a_file_of_an_older_release_gets_what_it_lacks_and_keeps_its_runs(tmp_path):
    path = tmp_path / "test.db"
    connection = sqlite3.connect(path)
    connection.executescript(f"{schema._SCHEMA} PRAGMA user_version = 1;")
    connection.close()
    store = SqliteStore(path)
    await store.open()
    run = await store.create_run(new_run(idempotency_key="k"))
    assert (await store.create_run(new_run(idempotency_key="k"))).id == run.id
    assert await store.consume_token_use("token", 1, 2**60)
    await store.close()
    await store.open()
    assert (await store.get_run(run.id)).run == run
    await store.close()


async def test_uncreatable_folder_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await SqliteStore(tmp_path / "file" / "test.db").open()


async def test_unopened_store_reports_it(tmp_path):
    store = SqliteStore(tmp_path / "test.db")
    for call in (store.list_runs(RunQuery()), store.create_run(new_run())):
        with pytest.raises(StoreUnavailable, match="not open"):
            await call


def test_the_durability_is_full_or_normal(tmp_path):
    with pytest.raises(ConfigurationError, match="'none'; it is full or normal"):
        SqliteStore(tmp_path / "test.db", durability="none")


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
async def test_the_durability_is_what_the_writing_connection_has(tmp_path, durability, level):
    store = SqliteStore(tmp_path / "test.db", durability=durability)
    await store.open()
    assert await store._write(_pragma("synchronous")) == level
    assert await store._write(_pragma("journal_mode")) == "wal"
    await store.close()


def _pragma(name):
    return lambda transactions: transactions._db.execute(f"PRAGMA {name}").fetchone()[0]


async def test_pending_writes_are_committed_together(tmp_path):
    store = SqliteStore(tmp_path / "test.db")
    await store.open()
    run = await store.create_run(new_run())
    key = StreamKey(run.id, "progress")
    before = await blocks(store)
    gate = threading.Event()
    held = asyncio.create_task(store._write(lambda _: gate.wait(20)))
    await asyncio.sleep(0)
    appends = [asyncio.create_task(store.append(key, [b"%d" % i])) for i in range(500)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(held, *appends)
    assert [task.result().offset for task in appends] == list(range(500))
    # All that one commit adds to a stream is one row; the first append may have joined the gate's.
    assert await blocks(store) - before <= 2
    assert [r.data for r in await records_of(store, key)] == [b"%d" % i for i in range(500)]
    await store.close()


async def blocks(store):
    return await store._read(lambda db: db.execute("SELECT count(*) FROM blocks").fetchone()[0])


async def test_appends_of_one_loop_tick_share_one_commit(tmp_path):
    store = SqliteStore(tmp_path / "test.db", durability="normal")
    await store.open()
    sizes, commit = [], store._writer._commit
    store._writer._commit = lambda group: sizes.append(len(group)) or commit(group)
    key = path_data("a", "g")
    for count in (1, 32, 5):
        await asyncio.gather(*(store.append(key, [b"%d" % n]) for n in range(count)))
    await store.close()
    assert sizes[:3] == [1, 32, 5]


async def test_append_begun_in_closing_tick_completes(tmp_path):
    store = SqliteStore(tmp_path / "test.db", durability="normal")
    await store.open()
    outcomes = []
    store.begin_append(path_data("a", "g"), [b"1"], outcomes.append)
    writer, store._writer = store._writer, None
    await writer.stop()  # before the loop has had its turn
    await until(lambda: outcomes)
    assert outcomes[0].offset == 0
    await store.close()


async def test_a_group_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_GROUP", 10)
    store = SqliteStore(tmp_path / "test.db", durability="normal")
    await store.open()
    run = await store.create_run(new_run())
    key = StreamKey(run.id, "progress")
    await asyncio.gather(*(store.append(key, [b"%d" % i]) for i in range(100)))
    assert await blocks(store) >= 10
    assert len(await records_of(store, key)) == 100
    await store.close()


async def test_rejected_operation_does_not_affect_its_commit_group(tmp_path):
    store = SqliteStore(tmp_path / "test.db")
    await store.open()
    run = await store.create_run(new_run())
    done = await store.create_run(new_run())
    await store.patch_run(done.id, {"status": "canceled"})
    key = StreamKey(run.id, "progress")

    def break_the_database(transactions):
        transactions._db.execute("INSERT INTO runs (id) VALUES (NULL)")

    def break_something_else(transactions):
        transactions.append(key, [b'"half"'], None, None, None, 0)
        raise ZeroDivisionError

    gate = threading.Event()
    held = asyncio.create_task(store._write(lambda _: gate.wait(20)))
    await asyncio.sleep(0)
    calls = [
        store.append(key, [b"0"]),
        store.patch_run(done.id, {"status": "executing"}),
        store.append(key, [b"1"]),
        store._write(break_the_database),
        store.append(key, [b"2"], writer=Writer("w", 0, 0)),
        store._write(break_something_else),
        store.append(key, [b"3"], writer=Writer("w", 0, 1)),
        store.append(StreamKey("run_nowhere", "x"), [b"1"]),
        store.patch_run(run.id, {"status": "executing"}),
    ]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    await held
    assert [outcomes[i].offset for i in (0, 2, 4, 6)] == [0, 1, 2, 3]
    assert isinstance(outcomes[1], IllegalTransition)
    assert isinstance(outcomes[3], StoreUnavailable)
    assert isinstance(outcomes[5], StoreUnavailable)
    assert outcomes[7].code == "run_not_found"
    assert outcomes[8].status == "executing"
    assert [r.data for r in await records_of(store, key)] == [b"0", b"1", b"2", b"3"]
    await store.close()


async def test_a_large_append_is_read_back_in_pages(tmp_path):
    store = SqliteStore(tmp_path / "test.db", durability="normal")
    await store.open()
    run = await store.create_run(new_run())
    key = StreamKey(run.id, "progress")
    values = [b'"' + b"%04d" % i + b"x" * 3000 + b'"' for i in range(1000)]  # 3 MB: many blocks
    await store.append(key, values)
    assert await blocks(store) > 5
    assert [r.data for r in await records_of(store, key)] == values
    await store.close()


# The process dies.

APPENDER = """
import asyncio, itertools, sys
from gateway.model.records import StreamKey, Writer
from gateway.stores.sqlite.store import SqliteStore

async def main(path, run_id):
    store = SqliteStore(path, durability=sys.argv[3])
    await store.open()
    key = StreamKey(run_id, "progress")
    start = (await store.head(key)).position.offset

    async def append(lane):
        for i in itertools.count():
            done = await store.append(key, [b'[%d,%d,%d]' % (start, lane, i)] * (1 + i % 3))
            print(done.offset, start, lane, i, flush=True)

    await asyncio.gather(*(append(lane) for lane in range(8)))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.parametrize("durability", ["full", "normal"])
async def test_acknowledged_records_survive_process_kill(tmp_path, durability):
    path = tmp_path / "test.db"
    store = SqliteStore(path)
    await store.open()
    run = await store.create_run(new_run())
    key = StreamKey(run.id, "progress")
    await store.close()
    acknowledged = {}
    for kill_after in (1, 40, 400):
        await asyncio.to_thread(
            _append_and_kill, path, run.id, durability, kill_after, acknowledged
        )
        store = SqliteStore(path)
        await store.open()
        records = await records_of(store, key)
        assert [record.offset for record in records] == list(range(len(records)))
        values = [json.loads(record.data) for record in records]
        for offset, value in acknowledged.items():
            assert values[offset] == value
        _check_lanes(values)
        assert (await store.append(key, [b'"on"'])).offset == len(records)
        acknowledged[len(records)] = "on"
        await store.close()
    assert len(acknowledged) > 400


def _append_and_kill(path, run_id, durability, kill_after, acknowledged):
    command = [sys.executable, "-c", APPENDER, str(path), run_id, durability]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for count, line in enumerate(process.stdout, 1):
            if not line.endswith("\n"):
                break  # the kill came in the middle of the line
            offset, *value = map(int, line.split())
            acknowledged[offset] = value
            if count == kill_after:
                os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def _check_lanes(values):
    """Each lane's appends are there from its first on, whole and in order."""
    lanes = {}
    for value in values:
        if value != "on":
            start, lane, i = value
            lanes.setdefault((start, lane), []).append(i)
    for numbers in lanes.values():
        expected = [i for i in range(numbers[-1] + 1) for _ in range(1 + i % 3)]
        assert numbers == expected
