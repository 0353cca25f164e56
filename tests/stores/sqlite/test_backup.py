"""Copies of a SQLite store, and that a store that was put back never passes for the lost one."""

import asyncio
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import aclosing, closing

import pytest

from gateway import connect, runs
from gateway.errors import ConfigurationError, StoreLocked, StoreUnavailable, WriterGap
from gateway.model.log import RunQuery
from gateway.model.patches import Operation
from gateway.model.records import Position, RunSet, StreamKey, Writer
from gateway.sdk.session import opened
from gateway.sdk.writers.metadata_writer import MetadataWriter
from gateway.sdk.writers.stream_writer import StreamWriter
from gateway.stores.remote.store import RemoteStore
from gateway.stores.sqlite.backup import backup, restore
from gateway.stores.sqlite.schema import SCHEMA_VERSION
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import SECRET, environment, gateway_process, new_run, worker_token


@pytest.fixture
def path(tmp_path):
    return tmp_path / "test.db"


def store_at(path, **options):
    return SqliteStore(path, durability="normal", lock_wait_s=0, **options)


async def append(store, key, *values, **more):
    return await store.append(key, [b"%d" % value for value in values], **more)


async def values_of(store, key, after=None):
    page = await store.read(key, after)
    return [json.loads(record.data) for record in page.records], page.reset


async def begun(path, *values):
    """A store with a run and its stream, and what its only reader holds."""
    async with opened(store_at(path)) as store:
        key = StreamKey((await store.create_run(new_run(tags=["x"]))).id, "s")
        return key, (await append(store, key, *values)).position


def put_back_by_hand(copy, path):
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    shutil.copy(copy, path)


def put_back(copy, path):
    restore(copy, path, force=True)


@pytest.mark.parametrize("way", [put_back, put_back_by_hand])
async def test_restore_changes_epoch_so_lost_offsets_are_not_reused(path, tmp_path, way):
    key, early = await begun(path, 0, 1)
    backup(path, tmp_path / "copy.db")
    async with opened(store_at(path)) as store:
        position = (await append(store, key, 2, 3, 4)).position
    way(tmp_path / "copy.db", path)
    async with opened(store_at(path)) as store:
        assert await values_of(store, key, position) == ([0, 1], "epoch_changed")
        await append(store, key, *range(100, 110))  # past the offset that the reader holds
        for held in (position, early):
            values, reset = await values_of(store, key, held)
            assert (values[:3], reset) == ([0, 1, 100], "epoch_changed")
        async with aclosing(store.follow(key, position)) as pages:
            assert (await anext(pages)).reset == "epoch_changed"
        log = RunSet("tag", "x").log
        assert (await store.read(log, Position(position.epoch, 1))).reset == "epoch_changed"


@pytest.mark.parametrize("how", ["killed", "closed"])
async def test_a_copy_made_by_other_means_is_noticed_after_a_minute_or_a_restart(path, how):
    key, _ = await begun(path, 0)
    async with opened(store_at(path)) as store:
        await append(store, key, 1)
        with closing(sqlite3.connect(path)) as source:
            source.execute("VACUUM INTO ?", (str(path.with_name("copy.db")),))
        position = (await append(store, key, 2, 3)).position
        if how == "killed":
            await store.sweep()
            shutil.copy(f"{path}.incarnation", path.with_name("kept"))
    if how == "killed":  # what lies beside is as old as the last sweep
        shutil.copy(path.with_name("kept"), f"{path}.incarnation")
    put_back_by_hand(path.with_name("copy.db"), path)
    async with opened(store_at(path)) as store:
        await append(store, key, 100, 101, 102)
        assert (await values_of(store, key, position))[1] == "epoch_changed"


async def test_positions_hold_over_restarts_and_deaths(path):
    key, position = await begun(path, 0, 1)
    for i in range(3):
        async with opened(store_at(path)) as store:
            assert await values_of(store, key, position) == ([], None)
            position = (await append(store, key, i)).position
            await store.sweep()


async def test_a_death_between_the_two_names_is_no_difference(path):
    key, position = await begun(path, 0, 1)
    before = path.with_name("test.db.incarnation").read_text()
    async with opened(store_at(path)):
        pass
    path.with_name("test.db.incarnation").write_text(before)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE incarnation SET current = 'newer', beside = ?", (before.strip(),))
    async with opened(store_at(path)) as store:
        assert await values_of(store, key, position) == ([], None)


async def test_unwritable_sibling_file_does_not_void_positions(path, monkeypatch, caplog):
    from gateway.stores.sqlite.incarnation import Incarnation

    key, position = await begun(path, 0)

    def full(self):
        raise OSError(28, "No space left on device")

    async with opened(store_at(path)) as store:
        monkeypatch.setattr(Incarnation, "follow", full)
        for i in range(3):
            position = (await append(store, key, i)).position
            await store.sweep()
        assert "No space left" in caplog.text
    monkeypatch.undo()
    async with opened(store_at(path)) as store:
        assert await values_of(store, key, position) == ([], None)


async def test_a_file_of_an_older_release_keeps_its_positions(path):
    key, position = await begun(path, 0)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM incarnation")
    path.with_name("test.db.incarnation").unlink()
    async with opened(store_at(path)) as store:
        assert await values_of(store, key, position) == ([], None)


async def test_first_open_after_restore_logs_a_warning(path, tmp_path, caplog):
    await begun(path, 0)
    backup(path, tmp_path / "copy.db")
    restore(tmp_path / "copy.db", tmp_path / "elsewhere.db")
    with caplog.at_level(logging.WARNING):
        async with opened(store_at(tmp_path / "elsewhere.db")):
            pass
    assert "elsewhere.db was put back from a backup" in caplog.text
    caplog.clear()
    async with opened(store_at(tmp_path / "elsewhere.db")):
        pass
    assert caplog.text == ""


async def test_writer_ahead_of_restored_backup_gets_writer_gap(path, tmp_path):
    key, _ = await begun(path, 0)
    async with opened(store_at(path)) as store:
        await append(store, key, 1, 2, writer=Writer("w", 0, 0))
        backup(path, tmp_path / "copy.db")
        await append(store, key, 3, 4, writer=Writer("w", 0, 2))
    restore(tmp_path / "copy.db", path, force=True)
    async with opened(store_at(path)) as store:
        with pytest.raises(WriterGap, match="sent sequence 4; 2 is expected next"):
            await append(store, key, 5, writer=Writer("w", 0, 4))
        assert (await append(store, key, 2, writer=Writer("w", 0, 1))).duplicate


async def test_worker_continues_after_restore_without_duplicates(path, tmp_path, caplog):
    url, loop = f"sqlite:{path}?durability=normal", asyncio.get_running_loop()
    with gateway_process(url, tmp_path) as process:
        async with opened(RemoteStore(process.url, worker_token)) as store:
            run = await store.create_run(new_run())
            key = StreamKey(run.id, "s")
            appending = StreamWriter(store, key, None, "w", loop)
            changing = MetadataWriter(store, run.id, "m", loop, {}, flush_s=0)

            async def write(value):
                receipt = appending.put(b"%d" % value)
                changing.put(Operation("append", "seen", value), 1)
                await changing.flush()
                return await receipt

            for value in range(3):
                await write(value)
            await asyncio.to_thread(backup, path, tmp_path / "copy.db")
            for value in (3, 4):
                await write(value)
            await asyncio.to_thread(process.stop)
            restore(tmp_path / "copy.db", path, force=True)
            await asyncio.to_thread(process.start)
            with pytest.raises(WriterGap):  # records were lost that had been acknowledged
                await write(5)
            assert await write(6) == 3
            await appending.flush()
            assert (await values_of(store, key))[0] == [0, 1, 2, 6]
            metadata = (await store.get_run(run.id)).run.metadata
            assert metadata == {"seen": [0, 1, 2, 5, 6]}
    assert f"metadata of run {run.id}: the store has lost changes" in caplog.text


async def test_a_backup_holds_all_of_one_moment(path, tmp_path):
    """Appends go on while it is made; what it holds of each stream has no hole."""
    async with opened(store_at(path)) as store:
        keys = [StreamKey((await store.create_run(new_run())).id, "s") for _ in range(5)]
        for key in keys:  # enough that the copy takes many steps
            await store.append(key, [b'"%s"' % (b"x" * 500_000)] * 4)
        over = asyncio.Event()

        async def work(key):
            count = 0
            while not over.is_set():
                await append(store, key, count)
                count += 1
            return count

        working = [asyncio.create_task(work(key)) for key in keys]
        steps = []
        copied = await asyncio.to_thread(
            backup, path, tmp_path / "copy.db", progress=lambda done, of: steps.append((done, of))
        )
        over.set()
        counts = await asyncio.gather(*working)
    assert copied.runs == 5
    assert copied.bytes == (tmp_path / "copy.db").stat().st_size > 10_000_000
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)  # began once only
    restore(tmp_path / "copy.db", tmp_path / "restored.db")
    async with opened(store_at(tmp_path / "restored.db")) as store:
        for key, count in zip(keys, counts, strict=True):
            head = await store.head(key)
            page = await store.read(key, head.position._replace(offset=4))
            assert [int(record.data) for record in page.records] == list(range(len(page.records)))
            assert len(page.records) <= count


def realtime(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "gateway", *map(str, arguments)],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_backup_and_restore_from_the_command_line(tmp_path):
    store, copy = f"sqlite:{tmp_path}/test.db?durability=normal", tmp_path / "copies" / "one.db"
    copy.parent.mkdir()
    with gateway_process(store, tmp_path) as process:
        remote = RemoteStore(process.url, worker_token)
        async with opened(remote):
            key = StreamKey((await remote.create_run(new_run())).id, "s")
            await append(remote, key, 0, 1)
            done = await asyncio.to_thread(realtime, "backup", copy, "--store", store)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout.startswith(f"{copy}: 1 runs, ")
            lost = (await append(remote, key, 2, 3)).position
            again = await asyncio.to_thread(realtime, "backup", copy, REALTIME_STORE=store)
            assert again.returncode == 1
            assert again.stderr == f"realtime: {copy} is there already; --force replaces it\n"
            forced = await asyncio.to_thread(
                realtime, "backup", copy.with_name("two.db"), "--force", "--store", store
            )
            assert forced.returncode == 0
            refused = await asyncio.to_thread(
                realtime, "restore", copy, "--force", "--store", store
            )
            assert "is in use by a gateway or worker; stop it first" in refused.stderr
            process.kill()
            put = await asyncio.to_thread(realtime, "restore", copy, "--store", store)
            assert "is there already; --force replaces it" in put.stderr
            put = await asyncio.to_thread(realtime, "restore", copy, "--force", "--store", store)
            assert (put.returncode, put.stderr) == (0, "")
            await asyncio.to_thread(process.start)
            # The worker that lived on is told, and its next appends are kept.
            values, reset = await values_of(remote, key, lost)
            assert (values, reset) == ([0, 1], "epoch_changed")
            assert (await append(remote, key, 4)).offset == 2
    assert sorted(each.name for each in copy.parent.iterdir()) == ["one.db", "two.db"]


async def test_backup_of_a_closed_store(path, tmp_path):
    key, _ = await begun(path, 0, 1)
    assert backup(path, tmp_path / "copy.db").runs == 1
    async with opened(store_at(tmp_path / "copy.db")) as store:
        assert (await values_of(store, key))[0] == [0, 1]
        assert len(await store.list_runs(RunQuery())) == 1


def test_backup_reports_uncopyable_source(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no SQLite file"):
        backup(tmp_path / "none.db", tmp_path / "copy.db")
    (tmp_path / "text.db").write_text("this is no database" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        backup(tmp_path / "text.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(ConfigurationError, match="no store that this release knows"):
        backup(tmp_path / "other.db", tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(ConfigurationError, match=f"it knows 1 to {SCHEMA_VERSION}"):
        restore(tmp_path / "other.db", tmp_path / "copy.db")
    with pytest.raises(ConfigurationError, match="there is no folder"):
        backup(tmp_path / "other.db", tmp_path / "no" / "copy.db")
    with pytest.raises(ConfigurationError, match="is the file that is to be copied"):
        backup(tmp_path / "other.db", tmp_path / "other.db", force=True)
    done = realtime("backup", tmp_path / "copy.db", "--store", "memory:")
    assert (done.returncode, done.stderr) == (
        1,
        "realtime: the store 'memory:' has no file to copy; sqlite: has one\n",
    )
    left = {each.name for each in tmp_path.glob("copy.db*")}
    assert left <= {"copy.db.lock"}


async def test_a_damaged_copy_is_refused_and_the_store_stays(path, tmp_path):
    key, _ = await begun(path, *range(2000))
    copy = tmp_path / "copy.db"
    backup(path, copy)
    with copy.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096 * 4))
    with pytest.raises(StoreUnavailable, match=r"copy\.db|malformed|damaged"):
        restore(copy, path, force=True)
    async with opened(store_at(path)) as store:
        assert (await values_of(store, key))[0] == list(range(2000))


async def test_a_store_that_is_in_use_is_not_replaced(path, tmp_path):
    await begun(path, 0)
    backup(path, tmp_path / "copy.db")
    async with opened(store_at(path)):
        with pytest.raises(StoreLocked, match="stop it first"):
            restore(tmp_path / "copy.db", path, force=True)


async def test_run_subscriber_gets_current_state_after_restore(path, tmp_path):
    with gateway_process(f"sqlite:{path}", tmp_path) as gateway:
        async with connect(gateway.url, secret_key=SECRET) as active:
            run = await active.store.create_run(new_run(status="executing"))
            async with aclosing(aiter(runs.subscribe(run.id))) as changes:
                assert (await anext(changes)).metadata == {}
                backup(path, tmp_path / "copy.db")
                for done in (1, 2):
                    await active.store.patch_run(run.id, {"metadata": {"done": done}})
                    assert (await anext(changes)).metadata == {"done": done}
                gateway.kill()
                restore(tmp_path / "copy.db", path, force=True)
                gateway.start()
                assert (await anext(changes)).metadata == {}
                await active.store.patch_run(run.id, {"metadata": {"done": 9}})
                assert (await anext(changes)).metadata == {"done": 9}
