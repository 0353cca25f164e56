"""One owner of a SQLite file, whatever name it is opened by.

Two locks are taken. `PATH.lock` is a file beside the database, under the name that was given and
under the one that symbolic links lead to; releases before this one take it alone, and so do other
systems than Linux. On Linux the database file itself is locked too, by `flock`: a hard link, a
bind mount and a lock file that was removed make no difference, for the lock is the inode's.

SQLite's own locks on the file are POSIX locks. On Linux they do not meet those of `flock`, but all
that a process has are gone once it closes any descriptor of the file. So the descriptor is opened
before SQLite opens the file and closed after SQLite has closed it, and a process that owns a file
finds that out by its inode, without opening it again. On BSD and macOS the two kinds of lock do
meet: the owner would lock itself out.

A forked child shares the locks of its parent, and would hold them after the parent's death. So it
closes its descriptors of them at once. It never calls `LOCK_UN`, which unlocks for the parent too.
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
NETWORK = ("nfs", "nfs4", "cifs", "smb3")  # where `flock` is made of POSIX locks, and meets them

_owners: set[SqliteLock] = set()  # those of this process
_guard = threading.Lock()  # held over a fork, so that no descriptor is opened but not yet recorded


class SqliteLock:
    """The ownership of a database file.

    Args:
        path: The database file.
        is_made: Whether a file that is not there is made, empty, to be locked.
    """

    def __init__(self, path: Path, *, is_made: bool = True) -> None:
        self._path = path
        self._is_made = is_made
        self._locked: dict[tuple[int, int], int] = {}  # descriptors, by device and inode
        self._held = ExitStack()  # on Windows

    def acquire(self, wait_s: float) -> None:
        """Become the owner.

        Args:
            wait_s: How long to wait for another owner to release it.

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
        """Be its owner no more; nothing of the file may be open. Safe to call twice."""
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
            """Lock a file, unless it has another owner."""
            with _guard:
                if path.exists():
                    inode = _inode(path.stat())
                    if inode in self._locked:  # by another name, through a link to its folder
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
                if not is_current:  # or it was replaced before it was locked
                    os.close(descriptor)
                    return False
                self._locked[_inode(status)] = descriptor
                _owners.add(self)
                return True


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text()
    except OSError:
        return ""  # no /proc here: what the file lies on is not known


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _disown() -> None:
    """Close what a forked child has inherited; the parent stays the owner."""
    for owner in _owners:
        owner._close()
    _owners.clear()
    _guard.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_disown
    )


def check_file_system(path: Path, device: int, mounts: str) -> None:
    """Refuse a file on a network file system.

    Args:
        path: The file.
        device: Its `st_dev`.
        mounts: The content of `/proc/self/mountinfo`.

    Raises:
        ConfigurationError: it is on one.
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
