"""A SQLite file has one owner, whatever name it is opened by and whatever others do to it."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest
from filelock import FileLock, Timeout

from gateway.cli._target import check_store_available
from gateway.errors import ConfigurationError, StoreLocked
from gateway.model.log import RunQuery
from gateway.model.records import StreamKey
from gateway.sdk.session import opened
from gateway.stores.sqlite.backup import backup, restore
from gateway.stores.sqlite.file_lock import SqliteLock, check_file_system
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import new_run

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux locks the inode")

OPEN = """
import asyncio, sys
from gateway.errors import StoreLocked
from gateway.stores.sqlite.store import SqliteStore

async def main():
    for path in sys.argv[1:]:
        try:
            await SqliteStore(path, lock_wait_s=0).open()
        except StoreLocked:
            print("locked")
        else:
            print("opened")

asyncio.run(main())
"""


FORK = """
import asyncio, os, sys
from gateway.stores.sqlite.store import SqliteStore

async def main():
    await SqliteStore(sys.argv[1], lock_wait_s=0).open()
    dies, stays = os.fork(), os.fork()
    if dies == 0:
        os._exit(0)
    if stays == 0:
        sys.stdin.read()  # until the test ends
        os._exit(0)
    os.waitpid(dies, 0)
    print("forked", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


def in_another_process(*paths):
    """Open files as another process does; return what came of each."""
    command = [sys.executable, "-c", OPEN, *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def leave_wal(path):
    """Have another program change the journal, which the lock of an owner keeps it from."""
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute(sys.argv[2])"
    command = [sys.executable, "-c", code, path, "PRAGMA journal_mode = DELETE"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextmanager
def bound_to(path, other):
    """Mount a file as another, if this process may."""
    if os.geteuid() != 0:
        yield []
        return
    other.touch()
    subprocess.run(["mount", "--bind", path, other], check=True)
    try:
        yield [other]
    finally:
        subprocess.run(["umount", "-l", other], check=True)


def store_at(path):
    return SqliteStore(path, durability="normal", lock_wait_s=0)


@on_linux
async def test_another_name_of_an_open_file_is_refused(tmp_path):
    path, link, hard = (tmp_path / name for name in ("test.db", "link.db", "hard.db"))
    (tmp_path / "other").mkdir()
    async with opened(store_at(path)):
        link.symlink_to(path)
        os.link(path, hard)
        (tmp_path / "test.db.lock").unlink()
        with bound_to(path, tmp_path / "other" / "bound.db") as bound:
            names = [path, link, hard, *bound]
            assert in_another_process(*names) == ["locked"] * len(names)
            for name in names:
                with pytest.raises(StoreLocked):
                    await store_at(name).open()
    hard.unlink()
    assert in_another_process(link) == ["opened"]


async def test_an_owner_of_the_release_before_is_refused_and_refuses(tmp_path):
    path, link = tmp_path / "test.db", tmp_path / "link.db"
    link.symlink_to(path)
    for one, other in ((path, path), (path, link), (link, link)):
        with FileLock(f"{one}.lock", timeout=0), pytest.raises(StoreLocked):
            await store_at(other).open()
        async with opened(store_at(other)):
            with pytest.raises(Timeout), FileLock(f"{one}.lock", timeout=0):
                pass


@on_linux
async def test_what_the_owning_process_is_refused_leaves_the_locks_of_sqlite_alone(tmp_path):
    """Else another program takes itself for the last one, and removes the log of appends."""
    path, copy = tmp_path / "test.db", tmp_path / "copy.db"
    async with opened(store_at(path)) as store:
        run = await store.create_run(new_run())
        os.link(path, tmp_path / "hard.db")
        for name in (path, tmp_path / "hard.db"):
            with pytest.raises(StoreLocked):
                await store_at(name).open()
            with pytest.raises(StoreLocked):
                check_store_available(f"sqlite:{name}")
        assert backup(path, copy).runs == 1
        with pytest.raises(StoreLocked):
            restore(copy, path, force=True)
        assert "database is locked" in leave_wal(path).stderr
        await store.append(StreamKey(run.id, "s"), [b"1"])
    async with opened(store_at(path)) as store:
        assert len((await store.read(StreamKey(run.id, "s"))).records) == 1


async def test_a_file_opened_by_a_link_keeps_its_positions_under_each_name(tmp_path, caplog):
    path, link = tmp_path / "test.db", tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    async with opened(store_at(link)) as store:
        key = StreamKey((await store.create_run(new_run())).id, "s")
        position = (await store.append(key, [b"1"])).position
    # The release before kept the name of the file beside the link.
    shutil.move(f"{path}.incarnation", f"{link}.incarnation")
    for name in (link, path, link):
        async with opened(store_at(name)) as store:
            assert (await store.head(key)).position == position
    assert "put back" not in caplog.text


async def test_a_copy_put_back_by_a_link_replaces_the_file_that_it_leads_to(tmp_path):
    path, link, copy = (tmp_path / name for name in ("test.db", "link.db", "copy.db"))
    async with opened(store_at(path)) as store:
        run = await store.create_run(new_run())
    backup(path, copy)
    async with opened(store_at(path)) as store:
        await store.delete_run(run.id)
    link.symlink_to(path)
    restore(copy, link, force=True)
    assert link.is_symlink()
    async with opened(store_at(path)) as store:
        assert [each.id for each in await store.list_runs(RunQuery())] == [run.id]


@on_linux
def test_a_forked_child_that_outlives_the_owner_does_not_hold_the_file(tmp_path):
    path = tmp_path / "test.db"
    command = [sys.executable, "-W", "ignore", "-c", FORK, path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as owner:
        try:
            assert owner.stdout.readline() == "forked\n"
            assert in_another_process(path) == ["locked"]  # though a child has ended
            (tmp_path / "test.db.lock").unlink()
            assert in_another_process(path) == ["locked"]
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            assert in_another_process(path) == ["opened"]
        finally:
            owner.kill()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_release_in_a_forked_child_leaves_the_file_to_its_parent(tmp_path):
    path = tmp_path / "test.db"
    lock = SqliteLock(path)
    lock.acquire(0)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            others = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # the same numbers
            lock.release()
            for other in others:
                os.fstat(other)
            with pytest.raises(TimeoutError):
                SqliteLock(path).acquire(0)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert in_another_process(path) == ["locked"]
    lock.release()
    assert in_another_process(path) == ["opened"]


async def test_a_file_in_a_linked_folder_opens_and_is_refused_by_each_name(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    async with opened(store_at(link / "test.db")):
        names = [link / "test.db", real / "test.db"]
        assert in_another_process(*names) == ["locked", "locked"]


@on_linux
def test_a_network_file_system_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "test.db"
    mounts = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "23 22 0:45 / /srv/data rw,relatime shared:2 - nfs4 files:/srv rw,vers=4.2\n"
    )
    check_file_system(path, os.makedev(8, 1), mounts)
    check_file_system(path, os.makedev(0, 46), mounts)
    with pytest.raises(ConfigurationError, match=r"test\.db is on a network file system \(nfs4\)"):
        check_file_system(path, os.makedev(0, 45), mounts)


async def test_a_file_that_cannot_be_opened_is_locked_no_longer(tmp_path):
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    for _ in range(2):
        with pytest.raises(Exception, match="schema version 99"):
            await store_at(path).open()
    path.unlink()
    async with opened(store_at(path)):
        pass
