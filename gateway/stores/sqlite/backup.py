"""A copy of a SQLite store while it is in use, and how it is put back.

The copy is of one moment: the source is read in one transaction, beside the process that owns it.
Appends go on; only the write-ahead log cannot be folded back meanwhile, so it grows by what is
appended. The copy is checked, synced and only then gets its name. The secret key that may lie
beside a store is not part of it.
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

STEP_PAGES = 1000  # 4 MB between two reports
BUSY_TIMEOUT_S = 5.0

Progress = Callable[[int, int], None]


class BackupSummary(NamedTuple):
    """What a copy holds.

    Attributes:
        runs: How many.
        bytes: Of the file.
    """

    runs: int
    bytes: int


def backup(
    store: Path, target: Path, *, force: bool = False, progress: Progress = lambda done, of: None
) -> BackupSummary:
    """Copy a store, also while a gateway uses it.

    Args:
        store: Its database file.
        target: The copy.
        force: Replace a file that is there.
        progress: Called with the pages copied and how many there are.

    Raises:
        ConfigurationError: there is no such store, or the target is there already.
        StoreUnavailable: it could not be read or written, or the copy is damaged.
    """
    _check_source(store)
    _check_target(target, force, same_as=store)
    with _part_of(target, store) as part:
        with closing(_read_only(store)) as source:
            source.execute("BEGIN")  # held: else every append would make the copy begin anew
            _check_schema(store, source)
            _copy(source, part, progress)
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            create_tables(copy)  # one of an older release, which knows no name to mark
            mark_as_backup(copy)
            copied = _check_copy(copy, target)
        _put(part, target, force)
    return copied._replace(bytes=target.stat().st_size)


def restore(
    source: Path, store: Path, *, force: bool = False, progress: Progress = lambda done, of: None
) -> BackupSummary:
    """Put a copy back in the place of a store that nobody has open.

    Args:
        source: Made by `backup`.
        store: The database file; what is there is lost.
        force: Replace a store that is there.
        progress: Called with the pages copied and how many there are.

    Raises:
        ConfigurationError: there is no such copy, or the store is there already.
        StoreLocked: a gateway uses the store.
        StoreUnavailable: it could not be read or written, or the copy is damaged.
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
            mark_as_backup(db)  # whatever made the copy
            db.execute("PRAGMA journal_mode = DELETE")
        for ending in ("-wal", "-shm"):  # of what was there: it must not be read into the new one
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
        yield store.resolve()  # a symbolic link stays one
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
        # One file, with nothing beside it that could be left behind.
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
        os.link(part, target)  # never over a file that has come meanwhile
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
