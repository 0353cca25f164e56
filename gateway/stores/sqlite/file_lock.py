"""Exclusive ownership of a SQLite file, independent of the path by which it is opened.

There are two locks. `PATH.lock` is a file next to the database. It is locked under the given path
and under the path that symbolic links resolve to. Older releases and systems other than Linux use
only this lock. On Linux, `flock` locks the database file too. That lock belongs to the inode, so
hard links, bind mounts and deleted lock files do not defeat it.

SQLite's own locks on the file are POSIX locks. On Linux they do not conflict with `flock`. When a
process closes any descriptor of a file, it loses all its POSIX locks on that file. So the
descriptor is opened before SQLite opens the file, and closed after SQLite has closed it. A process
recognizes a file that it owns by its inode, without opening the file again. On BSD and macOS the
two kinds of lock do conflict: the owner would lock itself out.

A forked child shares the locks of its parent, and would hold them after the parent's death. So the
child immediately closes the descriptors. It never calls `LOCK_UN`, which would also unlock the
parent's lock.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from gateway.errors import ConfigurationError

if sys.platform == "win32":
    from filelock import FileLock
else:
    import fcntl

POLL_S = 0.05
NETWORK = ("nfs", "nfs4", "cifs", "smb3")  # here `flock` conflicts with POSIX locks

_owners: set[SqliteLock] = set()  # in this process
_guard = threading.Lock()  # held over a fork, so that no descriptor is opened but not yet recorded


class SqliteLock:
    """The ownership of a database file.

    Args:
        path: The database file.
        is_made: Create a missing file, empty, so that it can be locked.
    """

    def __init__(self, path: Path, *, is_made: bool = True) -> None:
        self._path = path
        self._is_made = is_made
        self._locked: dict[tuple[int, int], int] = {}  # descriptors, by device and inode
        self._held = ExitStack()  # the locks on Windows

    def acquire(self, wait_s: float) -> None:
        """Become the owner of the file.

        Args:
            wait_s: How long to wait for another owner to release the file.

        Raises:
            TimeoutError: another process, or another store of this one, owns the file.
            ConfigurationError: the file is on a network file system.
            OSError: the file or a lock file cannot be opened.
        """
        give_up_s = time.monotonic() + wait_s
        file = self._path.resolve()
        names = dict.fromkeys(Path(f"{path}.lock") for path in (self._path.absolute(), file))
        try:
            for name in names:
                if sys.platform == "win32":
                    lock = FileLock(name, thread_local=False)
                    lock.acquire(timeout=max(0.0, give_up_s - time.monotonic()))
                    self._held.callback(lock.release)
                else:
                    self._wait_for(name, give_up_s)
            if sys.platform == "linux" and (file.exists() or self._is_made):
                self._wait_for(file, give_up_s, is_database=True)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Release the file, after SQLite has closed it. Safe to call twice."""
        self._held.close()
        with _guard:
            self._close()
            _owners.discard(self)

    def _close(self) -> None:
        while self._locked:
            _, descriptor = self._locked.popitem()
            os.close(descriptor)

    if sys.platform != "win32":

        def _wait_for(self, path: Path, give_up_s: float, *, is_database: bool = False) -> None:
            while not self._lock(path, is_database):
                if time.monotonic() >= give_up_s:
                    raise TimeoutError(f"{path} has another owner")
                time.sleep(POLL_S)

        def _lock(self, path: Path, is_database: bool) -> bool:
            """Try to lock a file; False if it has another owner."""
            with _guard:
                if path.exists():
                    inode = _inode(path.stat())
                    if inode in self._locked:  # same file, by a link to its folder
                        return True
                    if any(inode in owner._locked for owner in _owners):
                        return False
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                try:
                    status = os.fstat(descriptor)
                    if is_database:
                        check_file_system(path, status.st_dev, _mounts())
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_current = path.exists() and _inode(path.stat()) == _inode(status)
                except BlockingIOError:
                    is_current = False
                except BaseException:
                    os.close(descriptor)
                    raise
                if not is_current:  # it has an owner, or was replaced before it was locked
                    os.close(descriptor)
                    return False
                self._locked[_inode(status)] = descriptor
                _owners.add(self)
                return True


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text()
    except OSError:
        return ""  # without /proc the file system is unknown


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _disown() -> None:
    """Close the descriptors that a forked child inherited; the parent stays the owner."""
    for owner in _owners:
        owner._close()
    _owners.clear()
    _guard.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_disown
    )


def check_file_system(path: Path, device: int, mounts: str) -> None:
    """Reject a file on a network file system.

    Args:
        path: The file.
        device: `st_dev` of the file.
        mounts: Content of `/proc/self/mountinfo`.

    Raises:
        ConfigurationError: the file is on a network file system.
    """
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        kind = source.split(" ")[0]
        if mount.split(" ")[2] == number and kind in NETWORK:
            raise ConfigurationError(
                f"the store {path} is on a network file system ({kind}), where SQLite cannot keep "
                "other processes out of it. Put it on a local disk, or use redis://HOST:PORT/0"
            )
