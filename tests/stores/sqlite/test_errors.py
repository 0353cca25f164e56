"""What goes wrong with the file of a SQLite store: said clearly, survived, and nothing lost by it.

Every fault is a real one: a full file system, a limit of file size, a lock held by another process,
a read-only mount, bytes that were overwritten.
"""

import asyncio
import json
import os
import resource
import sqlite3
import subprocess
import sys
from contextlib import asynccontextmanager, closing, contextmanager

import httpx
import pytest

from gateway.errors import StoreUnavailable
from gateway.model.log import RunQuery
from gateway.model.records import StreamKey, Writer
from gateway.sdk.execution.ownership import EMBEDDED_OWNER
from gateway.sdk.session import opened
from gateway.stores.remote.store import RemoteStore
from gateway.stores.sqlite import errors
from gateway.stores.sqlite import store as sqlite_store
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import DEADLINE_S, gateway_process, new_run, until, worker_token
from tests.support.records import records_of

RECORD = b'"%s"' % (b"x" * 20_000)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="it mounts a file system: run it as root")


def store_at(path, **options):
    return SqliteStore(path, durability="normal", lock_wait_s=0, **options)


@contextmanager
def mounted(folder, size):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


@asynccontextmanager
async def process_at(folder, logs):
    with gateway_process(f"sqlite:{folder}/test.db", logs) as process:
        store = RemoteStore(process.url, worker_token)
        async with opened(store):
            yield process, store


async def append_until_refused(store, key):
    """Append as an idempotent writer does; return how many were acknowledged, and the refusal."""
    for count in range(1000):
        try:
            await store.append(key, [b"[%d,%b]" % (count, RECORD)], writer=Writer("w", 0, count))
        except StoreUnavailable as error:
            return count, error
    raise AssertionError("nothing was refused")


async def readiness(process):
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{process.port}/readyz")
        return answer.status_code, answer.json()["status"]


async def check_survival(folder, logs, make_full, make_room, message):
    async with process_at(folder, logs) as (process, store):
        key = StreamKey((await store.create_run(new_run())).id, "s")
        await make_full(process)
        count, error = await append_until_refused(store, key)
        assert count > 5
        assert f"the store {folder}/test.db cannot be written" in error.message
        assert message in error.message
        assert await readiness(process) == (503, "store unavailable")
        assert len(await records_of(store, key)) == count  # reading goes on
        await make_room(process)
        async with asyncio.timeout(DEADLINE_S):
            while await readiness(process) != (200, "ready"):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.05)
        # The writer tries again what was refused, and goes on.
        for sequence in range(count, count + 3):
            record = b"[%d,%b]" % (sequence, RECORD)
            done = await store.append(key, [record], writer=Writer("w", 0, sequence))
            assert (done.offset, done.duplicate) == (sequence, False)
        process.kill()
        await asyncio.to_thread(process.start)
        values = [json.loads(record.data)[0] for record in await records_of(store, key)]
        assert values == list(range(count + 3))


@as_root
async def test_store_rejects_appends_on_full_disk_and_recovers(tmp_path):
    with mounted(tmp_path / "disk", "3m") as folder:

        async def make_full(_):
            (folder / "filler").write_bytes(b"x" * (1 << 20))

        async def make_room(_):
            (folder / "filler").unlink()

        await check_survival(folder, tmp_path, make_full, make_room, "the disk is full. Make room")


async def test_store_rejects_appends_at_file_size_limit_and_recovers(tmp_path):
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def make_full(process):
        resource.prlimit(process._process.pid, resource.RLIMIT_FSIZE, (1 << 20, most))

    async def make_room(process):
        resource.prlimit(process._process.pid, resource.RLIMIT_FSIZE, (most, most))

    folder = tmp_path / "disk"
    await check_survival(folder, tmp_path, make_full, make_room, "the disk does not do what it is")


HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def held_by_another(path):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert await process.stdout.readline() == b"held\n"
        yield
    finally:
        process.stdin.close()
        await process.wait()


async def test_locked_file_is_reported_and_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(errors, "BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "test.db"
    async with opened(store_at(path)) as store:
        key = StreamKey((await store.create_run(new_run())).id, "s")
        await store.append(key, [b"1"])
        async with held_by_another(path):
            tries = [store.append(key, [b"2"]) for _ in range(500)]
            async with asyncio.timeout(20):  # one wait for all of a group, not one each
                refused = await asyncio.gather(*tries, return_exceptions=True)
            assert {str(error) for error in refused} == {
                f"the store {path} cannot be written: database is locked: "
                "another program holds it locked. Close what has it open"
            }
            assert not store.is_ready
            assert len(await records_of(store, key)) == 1
        await until(lambda: store.is_ready)
        assert (await store.append(key, [b"2"])).offset == 1


async def test_a_file_that_another_program_holds_cannot_be_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(errors, "BUSY_TIMEOUT_S", 0.1)
    path = tmp_path / "test.db"
    async with opened(store_at(path)):
        pass
    async with held_by_another(path):
        with pytest.raises(StoreUnavailable, match="another program holds it locked"):
            await store_at(path).open()
    async with opened(store_at(path)):
        pass


@as_root
async def test_read_only_file_system_is_reported(tmp_path):
    with mounted(tmp_path / "disk", "3m") as folder:
        async with opened(store_at(folder / "test.db")) as store:
            key = StreamKey((await store.create_run(new_run())).id, "s")
            await store.append(key, [b"1"])
        remount(folder, "ro")
        with pytest.raises(StoreUnavailable, match=r"test\.db cannot be opened.* process write to"):
            await store_at(folder / "test.db").open()
        with pytest.raises(StoreUnavailable, match=r"new\.db cannot be opened.* process write to"):
            await store_at(folder / "new.db").open()
        remount(folder, "rw")
        async with opened(store_at(folder / "test.db")) as store:
            assert len(await records_of(store, key)) == 1


def overwrite(path, what, replacement):
    """Change bytes in the middle of the file."""
    content = path.read_bytes()
    at = content.index(what)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(replacement)


async def two_streams(path):
    async with opened(store_at(path)) as store:
        keys = [StreamKey((await store.create_run(new_run())).id, "s") for _ in range(2)]
        await store.append(keys[0], [b'"good%d"' % i for i in range(500)])
        await store.append(keys[1], [b'"here%d"' % i for i in range(500)])
    return keys


async def test_damaged_record_is_reported_and_others_stay_usable(tmp_path):
    path = tmp_path / "test.db"
    good, bad = await two_streams(path)
    overwrite(path, b'"here0"', b"\xc1" * 40)
    async with opened(store_at(path)) as store:
        with pytest.raises(StoreUnavailable, match=r"is damaged.*realtime restore FILE"):
            await records_of(store, bad)
        assert len(await records_of(store, good)) == 500
        await store.append(good, [b"1"])
        assert store.is_ready
        assert len(await records_of(store, good)) == 501


async def test_damaged_page_is_reported_and_process_survives(tmp_path):
    path = tmp_path / "test.db"
    good, bad = await two_streams(path)
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'blocks'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    async with opened(store_at(path)) as store:
        with pytest.raises(StoreUnavailable, match=r"test\.db cannot be read.*is damaged"):
            await records_of(store, bad)
        with pytest.raises(StoreUnavailable, match=r"test\.db cannot be written.*is damaged"):
            await store.append(good, [b"1"])
        assert not store.is_ready
        assert (await store.get_run(good.run_id)).run.id == good.run_id


async def test_overwritten_header_is_reported(tmp_path):
    path = tmp_path / "test.db"
    await two_streams(path)
    content = path.read_bytes()
    path.write_bytes(b"\0" * 100 + content[100:])
    with pytest.raises(StoreUnavailable, match=r"not a database: it holds something else"):
        await store_at(path).open()
    assert path.read_bytes()[100:] == content[100:]


async def test_failed_write_leaves_no_state(tmp_path):
    """The offsets and writers that the store remembers are those in the file."""
    async with opened(store_at(tmp_path / "test.db")) as store:
        key = StreamKey((await store.create_run(new_run())).id, "s")
        await store.append(key, [b"0"], writer=Writer("w", 0, 0))
        (pages,) = await store._write(lambda tx: tx._db.execute("PRAGMA page_count").fetchone())
        await store._write(lambda tx: tx._db.execute(f"PRAGMA max_page_count = {pages + 2}"))
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await store.append(key, [b'"%s"' % (b"x" * 200_000)], writer=Writer("w", 0, 1))
        # Of a group, what fits is kept.
        large, small = await asyncio.gather(
            store.append(key, [b'"%s"' % (b"x" * 200_000)], writer=Writer("v", 0, 0)),
            store.append(key, [b"1"], writer=Writer("w", 0, 1)),
            return_exceptions=True,
        )
        assert isinstance(large, StoreUnavailable)
        assert (small.offset, small.duplicate) == (1, False)
        await store._write(lambda tx: tx._db.execute("PRAGMA max_page_count = 1000000"))
        assert (await store.append(key, [b"2"], writer=Writer("w", 0, 2))).offset == 2
        assert [json.loads(record.data) for record in await records_of(store, key)] == [0, 1, 2]


def fill(folder):
    """Leave no byte of a file system free."""
    with (folder / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(b"x" * 4096)


def make_older(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(
            "DROP INDEX streams_by_age; ALTER TABLE streams DROP COLUMN oldest_ms;"
            "DROP TABLE empty_sets; DROP INDEX runs_by_owner; DROP INDEX runs_by_status;"
            "CREATE INDEX runs_by_status ON runs (status, owner, id); PRAGMA user_version = 5;"
        )


@as_root
@pytest.mark.parametrize("is_older", [False, True], ids=["", "older"])
async def test_store_opened_on_full_disk_is_readable_and_recovers(tmp_path, is_older, monkeypatch):
    monkeypatch.setattr(sqlite_store, "PROBE_S", 0.05)
    with mounted(tmp_path / "disk", "3m") as folder:
        path = folder / "test.db"
        async with opened(store_at(path)) as store:
            key = StreamKey((await store.create_run(new_run())).id, "s")
            for number in range(20):
                done = await store.append(key, [b"[%d,%b]" % (number, RECORD)])
        if is_older:
            make_older(path)
        fill(folder)
        async with opened(store_at(path)) as store:
            assert not store.is_ready
            assert len(await records_of(store, key)) == 20
            assert len(await store.list_runs(RunQuery(status=("queued",)))) == 1
            for refused in (store.append(key, [b"1"]), store.sweep()):
                with pytest.raises(StoreUnavailable, match=r"test\.db cannot be written"):
                    await refused
            (folder / "filler").unlink()
            reads = [await records_of(store, key) for _ in range(20)]
            assert {len(records) for records in reads} == {20}
            await until(lambda: store.is_ready)
            assert (await store.append(key, [b"1"])).offset == 20
            assert (await store.read(key, done.position)).reset is None
        async with opened(store_at(path)) as store:
            assert len(await records_of(store, key)) == 21


@as_root
async def test_gateway_started_on_full_disk_serves_stored_records(tmp_path):
    with mounted(tmp_path / "disk", "3m") as folder:
        async with process_at(folder, tmp_path) as (process, store):
            run = await store.create_run(new_run(status="executing", owner=EMBEDDED_OWNER))
            key = StreamKey(run.id, "s")
            await store.append(key, [b"1"])
            process.kill()
            fill(folder)
            await asyncio.to_thread(process.start)
            assert await readiness(process) == (503, "store unavailable")
            assert len(await records_of(store, key)) == 1
            (folder / "filler").unlink()
            async with asyncio.timeout(20):  # what the last process left is judged then
                while (await store.get_run(run.id)).run.status != "crashed":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


@as_root
async def test_a_store_is_closed_on_a_full_disk_and_loses_nothing(tmp_path):
    with mounted(tmp_path / "disk", "3m") as folder:
        async with opened(store_at(folder / "test.db")) as store:
            key = StreamKey((await store.create_run(new_run())).id, "s")
            for number in range(20):
                await store.append(key, [b"[%d,%b]" % (number, RECORD)])
            fill(folder)
        (folder / "filler").unlink()
        async with opened(store_at(folder / "test.db")) as store:
            assert len(await records_of(store, key)) == 20
            assert (await store.append(key, [b"1"])).offset == 20
