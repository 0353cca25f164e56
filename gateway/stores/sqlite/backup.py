"""Back up a SQLite store while it is in use, and restore the copy.

The copy is one snapshot: the source is read in one transaction, while another process owns it.
Appends continue. SQLite cannot checkpoint the write-ahead log during the copy, so the log grows by
every append. The copy is checked and synced before it gets its final name. It does not include the
secret key file next to a store.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from gateway.errors import ConfigurationError, StoreLocked, StoreUnavailable
from gateway.stores.sqlite.file_lock import SqliteLock
from gateway.stores.sqlite.incarnation import mark_as_backup
from gateway.stores.sqlite.schema import SCHEMA_VERSION, create_tables

STEP_PAGES = 1000  # 4 MB between two progress calls
BUSY_TIMEOUT_S = 5.0

Progress = Callable[[int, int], None]


class BackupSummary(NamedTuple):
    """Size of a finished copy.

    Attributes:
        runs: Number of runs.
        bytes: Size of the file.
    """

    runs: int
    bytes: int


def backup(
    store: Path, target: Path, *, force: bool = False, progress: Progress = lambda done, of: None
) -> BackupSummary:
    """Copy a store to a file. A gateway may use the store during the copy.

    Args:
        store: Database file of the store.
        target: File to create.
        force: Replace an existing target.
        progress: Called with the number of copied pages and of all pages.

    Raises:
        ConfigurationError: the store does not exist, or the target exists already.
        StoreUnavailable: a file could not be read or written, or the copy is damaged.
    """
    _check_source(store)
    _check_target(target, force, same_as=store)
    with _part_of(target, store) as part:
        with closing(_read_only(store)) as source:
            source.execute("BEGIN")  # without it, every append would restart the copy
            _check_schema(store, source)
            _copy(source, part, progress)
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            create_tables(copy)  # an older release's file has no table for the mark
            mark_as_backup(copy)
            copied = _check_copy(copy, target)
        _put(part, target, force)
    return copied._replace(bytes=target.stat().st_size)


def restore(
    source: Path, store: Path, *, force: bool = False, progress: Progress = lambda done, of: None
) -> BackupSummary:
    """Restore a store from a copy. No process may have the store open.

    Args:
        source: File that `backup` created.
        store: Database file of the store; its present content is lost.
        force: Replace an existing store.
        progress: Called with the number of copied pages and of all pages.

    Raises:
        ConfigurationError: the copy does not exist, or the store exists already.
        StoreLocked: a gateway uses the store.
        StoreUnavailable: a file could not be read or written, or the copy is damaged.
    """
    _check_source(source)
    _check_target(store, force, same_as=source)
    with _owned(store) as store, _part_of(store, source) as part:
        with closing(_read_only(source)) as copy:
            _check_schema(source, copy)
            copied = _check_copy(copy, source)
            _copy(copy, part, progress)
        with closing(sqlite3.connect(part, isolation_level=None)) as db:
            create_tables(db)
            mark_as_backup(db)  # again: another tool may have made the copy
            db.execute("PRAGMA journal_mode = DELETE")
        for ending in ("-wal", "-shm"):  # of the old file: SQLite would apply its log
            store.with_name(f"{store.name}{ending}").unlink(missing_ok=True)
        _put(part, store, force)
    return copied._replace(bytes=store.stat().st_size)


def _check_source(path: Path) -> None:
    if not path.is_file():
        raise ConfigurationError(f"there is no SQLite file {path}")


def _check_target(path: Path, force: bool, *, same_as: Path) -> None:
    if path.exists() and path.samefile(same_as):
        raise ConfigurationError(f"{path} is the file that is to be copied")
    if path.exists() and not force:
        raise ConfigurationError(f"{path} is there already; --force replaces it")
    if not path.parent.is_dir():
        raise ConfigurationError(f"there is no folder {path.parent}")


@contextmanager
def _owned(store: Path) -> Iterator[Path]:
    lock = SqliteLock(store, is_made=False)
    try:
        lock.acquire(0)
    except TimeoutError:
        raise StoreLocked(
            f"the store {store} is in use by a gateway or worker; stop it first"
        ) from None
    try:
        yield store.resolve()  # replaces the link's target, not the link
    finally:
        lock.release()


@contextmanager
def _part_of(target: Path, source: Path) -> Iterator[Path]:
    part = target.with_name(f"{target.name}.part")
    try:
        part.unlink(missing_ok=True)
        yield part
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"{source} could not be copied to {target}: {error}") from error
    finally:
        for ending in ("", "-journal", "-wal", "-shm"):
            part.with_name(f"{part.name}{ending}").unlink(missing_ok=True)


def _read_only(path: Path) -> sqlite3.Connection:
    url = f"file:{quote(str(path.absolute()))}?mode=ro"
    return sqlite3.connect(url, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _check_schema(path: Path, db: sqlite3.Connection) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if not 0 < version <= SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path} is no store that this release knows (schema version {version}; "
            f"it knows 1 to {SCHEMA_VERSION})"
        )


def _copy(source: sqlite3.Connection, part: Path, progress: Progress) -> None:
    with closing(sqlite3.connect(part, isolation_level=None)) as copy:
        source.backup(
            copy, pages=STEP_PAGES, progress=lambda _, left, of: progress(of - left, of), sleep=0
        )
        # Without WAL, the copy is a single file: there is no `-wal` file to forget.
        copy.execute("PRAGMA journal_mode = DELETE")


def _check_copy(db: sqlite3.Connection, path: Path) -> BackupSummary:
    (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise StoreUnavailable(f"{path} is damaged: {verdict}")
    (runs,) = db.execute("SELECT count(*) FROM runs").fetchone()
    return BackupSummary(runs, 0)


def _put(part: Path, target: Path, force: bool) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    if force:
        part.replace(target)
    else:
        os.link(part, target)  # fails if the target was created since the check
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
