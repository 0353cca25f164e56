"""What the SQLite store may forget: found by a reader, step by step, and removed by the writer."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from gateway.records import RUNS_STREAM, RunSet, StreamKey
from gateway.stores.retention import EMPTY_SET_S, Retention, Swept
from gateway.stores.sqlite_reads import MEMBERS
from gateway.stores.sqlite_transactions import Transactions

STEP_STREAMS = 1000  # looked at in one step
STEP_RUNS = 100  # deleted in one step
STEP_ROWS = 200  # of at most 256 KiB, removed in one step: how long appends wait behind it


@dataclass(slots=True)
class Found:
    """What one step found to be forgotten.

    Attributes:
        run_ids: Runs that finished long enough ago.
        keys: Streams with records beyond what is kept.
        sets: Logs of sets that have been empty for long.
        last_no: The last stream that was looked at; 0 after the last of all.
        has_garbage: Rows of deleted streams are there.
        has_more: There are more runs than one step takes.
    """

    run_ids: list[str] = field(default_factory=list)
    keys: list[StreamKey] = field(default_factory=list)
    sets: list[StreamKey] = field(default_factory=list)
    last_no: int = 0
    has_garbage: bool = False
    has_more: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to remove."""
        return not (self.run_ids or self.keys or self.sets or self.has_garbage)


def find(db: sqlite3.Connection, after_no: int, retention: Retention, now_ms: int) -> Found:
    """Look for what may be forgotten, on from the stream that the last step came to."""
    found = Found()
    (found.has_garbage,) = db.execute("SELECT EXISTS (SELECT 1 FROM garbage)").fetchone()
    rows = db.execute(
        "SELECT id FROM runs WHERE finished_at <= ? ORDER BY finished_at LIMIT ?",
        (retention.runs_until(now_ms), STEP_RUNS),
    )
    found.run_ids = [id for (id,) in rows]
    found.has_more = len(found.run_ids) == STEP_RUNS
    _look_at_streams(db, found, after_no, retention, now_ms)
    return found


def _look_at_streams(
    db: sqlite3.Connection, found: Found, after_no: int, retention: Retention, now_ms: int
) -> None:
    since_ms = retention.records_since_ms(now_ms)
    rows = db.execute(
        "SELECT no, run_id, stream_id, next - earliest, bytes,"
        " (SELECT last_ms FROM blocks WHERE stream = no ORDER BY first LIMIT 1),"
        " (SELECT last_ms FROM blocks WHERE stream = no ORDER BY first DESC LIMIT 1)"
        " FROM streams WHERE no > ? ORDER BY no LIMIT ?",
        (after_no, STEP_STREAMS),
    ).fetchall()
    for _, run_id, stream_id, records, size, oldest_ms, newest_ms in rows:
        key = StreamKey(run_id, stream_id)
        if stream_id == RUNS_STREAM and _is_empty_set(db, key, now_ms, newest_ms or 0):
            found.sets.append(key)
        if stream_id.startswith("$") or oldest_ms is None:
            continue
        is_over = records > (retention.records or records) or size > (retention.bytes or size)
        if is_over or oldest_ms < since_ms:
            found.keys.append(key)
    found.last_no = rows[-1][0] if len(rows) == STEP_STREAMS else 0


def _is_empty_set(db: sqlite3.Connection, key: StreamKey, now_ms: int, changed_ms: int) -> bool:
    if changed_ms + EMPTY_SET_S * 1000 > now_ms:
        return False
    kind, id = RunSet.parse(key.run_id)
    return db.execute(f"{MEMBERS[kind]} LIMIT 1", (id,)).fetchone() is None


def remove(tx: Transactions, found: Found, retention: Retention, now_ms: int) -> Swept:
    """Forget what was found, as far as one step goes."""
    has_more = found.has_more or found.last_no > 0
    runs = sum(tx.delete_run(run_id, now_ms) for run_id in found.run_ids)
    for key in found.sets:
        tx.forget_set(key)
    records = 0
    for key in found.keys:
        removed, is_cut_short = tx.trim(key, retention, now_ms, STEP_ROWS)
        records += removed
        has_more = has_more or is_cut_short
    if found.has_garbage or runs:
        has_more = tx.drop_garbage(STEP_ROWS) or has_more
    return Swept(records, runs, has_more)
