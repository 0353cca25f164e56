"""The tables of the SQLite store, and upgrades of files from older versions."""

from __future__ import annotations

import logging
import sqlite3
import time

SCHEMA_VERSION = 7
PROGRESS_S = 5.0  # between two log messages of a long upgrade
PROGRESS_STEPS = 1_000_000  # of SQLite's virtual machine, between two checks of the clock

_log = logging.getLogger("realtime.sqlite")

_SCHEMA = """
CREATE TABLE streams (
    no INTEGER PRIMARY KEY, run_id TEXT NOT NULL, stream_id TEXT NOT NULL, epoch TEXT NOT NULL,
    earliest INTEGER NOT NULL, next INTEGER NOT NULL, ended TEXT, UNIQUE (run_id, stream_id));
CREATE TABLE blocks (
    no INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX blocks_by_offset ON blocks (stream, first);
CREATE TABLE writers (
    stream INTEGER NOT NULL, id TEXT NOT NULL, epoch INTEGER NOT NULL,
    next_sequence INTEGER NOT NULL, last_offset INTEGER NOT NULL,
    PRIMARY KEY (stream, id)) WITHOUT ROWID;
CREATE TABLE runs (
    id TEXT PRIMARY KEY, status TEXT NOT NULL, parent_id TEXT, batch_id TEXT, owner TEXT NOT NULL,
    snapshot BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX runs_by_parent ON runs (parent_id, id) WHERE parent_id IS NOT NULL;
CREATE INDEX runs_by_batch ON runs (batch_id, id) WHERE batch_id IS NOT NULL;
CREATE INDEX runs_by_status ON runs (status, owner, id);
CREATE TABLE tags (tag TEXT NOT NULL, run_id TEXT NOT NULL, PRIMARY KEY (tag, run_id)) WITHOUT
ROWID; CREATE INDEX tags_by_run ON tags (run_id);
"""
_SPENT_AND_KEYS = """
CREATE TABLE IF NOT EXISTS spent (
    id TEXT PRIMARY KEY, uses INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS spent_by_expiry ON spent (expires_at_ms);
CREATE TABLE keys (
    task TEXT NOT NULL, key TEXT NOT NULL, run_id TEXT NOT NULL, expires_at TEXT,
    PRIMARY KEY (task, key)) WITHOUT ROWID;
"""
_RETENTION = """
ALTER TABLE streams ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE streams SET bytes =
    (SELECT coalesce(sum(length(data)), 0) FROM blocks WHERE stream = streams.no);
ALTER TABLE blocks ADD COLUMN last_ms INTEGER NOT NULL DEFAULT 0;
UPDATE blocks SET last_ms = CAST(strftime('%s', 'now') AS INTEGER) * 1000;
ALTER TABLE runs ADD COLUMN finished_at TEXT;
UPDATE runs SET finished_at = json_extract(CAST(snapshot AS TEXT), '$.finished_at');
CREATE INDEX runs_by_end ON runs (finished_at) WHERE finished_at IS NOT NULL;
CREATE TABLE garbage (stream INTEGER PRIMARY KEY);
"""
_INCARNATION = "CREATE TABLE incarnation (current TEXT NOT NULL, beside TEXT NOT NULL);"
_ORDERS = "CREATE TABLE orders (stream INTEGER PRIMARY KEY, last TEXT NOT NULL);"
_DUE = """
ALTER TABLE streams ADD COLUMN oldest_ms INTEGER;
UPDATE streams SET oldest_ms = 0 WHERE substr(stream_id, 1, 1) <> '$';
CREATE INDEX streams_by_age ON streams (oldest_ms) WHERE oldest_ms IS NOT NULL;
CREATE TABLE empty_sets (stream INTEGER PRIMARY KEY, since_ms INTEGER NOT NULL);
INSERT INTO empty_sets SELECT no, 0 FROM streams WHERE stream_id = '$runs';
CREATE INDEX empty_sets_by_time ON empty_sets (since_ms);
DROP INDEX runs_by_status;
CREATE INDEX runs_by_status ON runs (status, id);
CREATE INDEX runs_by_owner ON runs (owner, id);
"""
_LISTED = """
CREATE TABLE IF NOT EXISTS listed (run_id TEXT PRIMARY KEY, snapshot BLOB NOT NULL) WITHOUT ROWID;
"""
# streams.oldest_ms: no retained record is older. NULL: no records, or the stream is never trimmed.
# empty_sets: logs for sweeps to check. Their sets were empty at since_ms and may have runs again.
# listed: shortened copies of runs with large fields, for lists. Other runs are listed whole.
_STEPS = (
    _SCHEMA,
    _SPENT_AND_KEYS,
    _RETENTION,
    _INCARNATION,
    _ORDERS,
    _DUE,
    _LISTED,
)  # the step at index N upgrades version N to N + 1


def is_readable(connection: sqlite3.Connection) -> bool:
    """Whether the file can be read without an upgrade; a file of the previous release can."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return bool(5 <= version <= SCHEMA_VERSION)


def stand_in(connection: sqlite3.Connection) -> None:
    """Add missing tables as empty temporary tables, to read an older file without an upgrade."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < SCHEMA_VERSION:
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(_LISTED.replace("CREATE TABLE", "CREATE TEMP TABLE"))


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables in a new file, or upgrade the tables of an older file.

    Raises:
        sqlite3.DatabaseError: the file was written by a newer version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(
            f"it has schema version {version}; this release knows up to {SCHEMA_VERSION}"
        )
    if version < SCHEMA_VERSION:
        steps = "".join(_STEPS[version:])
        connection.set_progress_handler(_Report(connection, version), PROGRESS_STEPS)
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        finally:
            connection.set_progress_handler(None, 0)


class _Report:
    """Progress handler that logs a running upgrade every `PROGRESS_S` seconds."""

    def __init__(self, connection: sqlite3.Connection, version: int) -> None:
        (_, _, self._path) = connection.execute("PRAGMA database_list").fetchone()
        self._version = version
        self._began_s = self._said_s = time.monotonic()

    def __call__(self) -> int:
        now_s = time.monotonic()
        if now_s - self._said_s >= PROGRESS_S:
            self._said_s = now_s
            _log.warning(
                "the store %s is upgraded from schema version %d to %d: %.0f s so far; it opens"
                " when this is done",
                self._path,
                self._version,
                SCHEMA_VERSION,
                now_s - self._began_s,
            )
        return 0  # any other value would abort the upgrade
