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
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock

from gateway.errors import ConfigurationError

if sys.platform == "linux":
    import fcntl

POLL_S = 0.05
NETWORK = ("nfs", "nfs4", "cifs", "smb3")  # where `flock` is made of POSIX locks, and meets them

_owned: set[tuple[int, int]] = set()  # device and inode of the files that this process owns
_owned_lock = threading.Lock()


class SqliteLock:
    """The ownership of a database file.

    Args:
        path: The database file.
        is_made: Whether a file that is not there is made, empty, to be locked.
    """

    def __init__(self, path: Path, *, is_made: bool = True) -> None:
        self._path = path
        self._is_made = is_made
        self._held = ExitStack()

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
        with ExitStack() as held:
            for path in dict.fromkeys((self._path.absolute(), file)):
                lock = FileLock(f"{path}.lock", thread_local=False)
                lock.acquire(timeout=max(0.0, give_up_s - time.monotonic()))
                held.callback(lock.release)
            if sys.platform == "linux":
                while not _lock_file(file, self._is_made, held):
                    if time.monotonic() >= give_up_s:
                        raise TimeoutError(f"{file} has another owner")
                    time.sleep(POLL_S)
            self._held = held.pop_all()

    def release(self) -> None:
        """Be its owner no more; nothing of the file may be open. Safe to call twice."""
        self._held.close()


if sys.platform == "linux":

    def _lock_file(path: Path, is_made: bool, held: ExitStack) -> bool:
        """Lock the database file, unless it has another owner."""
        with _owned_lock:
            if not path.exists() and not is_made:
                return True
            if path.exists() and _inode(path.stat()) in _owned:
                return False
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                status = os.fstat(descriptor)
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
            _owned.add(_inode(status))
            held.callback(_unlock_file, descriptor, _inode(status))
            return True

    def _mounts() -> str:
        try:
            return Path("/proc/self/mountinfo").read_text()
        except OSError:
            return ""  # no /proc here: what the file lies on is not known

    def _unlock_file(descriptor: int, inode: tuple[int, int]) -> None:
        with _owned_lock:
            _owned.discard(inode)
            os.close(descriptor)

    def _inode(status: os.stat_result) -> tuple[int, int]:
        return status.st_dev, status.st_ino


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
