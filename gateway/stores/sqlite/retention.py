"""Retention in SQLite: a reader finds expired rows in bounded steps, and the writer deletes them.

Sweeps of an idle store cost almost nothing, whatever its size: each query uses an index of due
rows. A commit detects the streams that exceed their limits. After the store is opened, the sweeps
check every stream one time, because the limits may have changed.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from gateway.model.records import StreamKey
from gateway.model.retention import EMPTY_SET_S, Retention, SweepResult
from gateway.stores.reserved_logs import is_user_stream
from gateway.stores.sqlite.blocks import Budget
from gateway.stores.sqlite.transactions import Transactions

STEP_STREAMS = 1000  # checked in one step
STEP_RUNS = 100  # deleted in one step
STEP_ROWS = 1000  # deleted in one step
STEP_BYTES = 8 << 20  # of rows deleted in one step: appends wait for about 30 ms


@dataclass(slots=True)
class ExpiredRows:
    """The expired rows that one step found.

    Attributes:
        run_ids: Finished runs whose retention has expired.
        aged: Streams with records older than the retention limit.
        outgrown: Streams over the limit of records or bytes.
        sets: Logs of sets that have been empty for `EMPTY_SET_S`.
        last_no: Number of the last stream checked; None when all were checked.
        has_garbage: There are rows of deleted streams.
        has_more: There are more expired rows than one step deletes.
    """

    run_ids: list[str] = field(default_factory=list)
    aged: list[StreamKey] = field(default_factory=list)
    outgrown: list[StreamKey] = field(default_factory=list)
    sets: list[StreamKey] = field(default_factory=list)
    last_no: int | None = None
    has_garbage: bool = False
    has_more: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether there is nothing to delete."""
        found = self.run_ids or self.aged or self.outgrown or self.sets
        return not (found or self.has_garbage)


def find(
    db: sqlite3.Connection, after_no: int | None, retention: Retention, now_ms: int
) -> ExpiredRows:
    """Find expired rows, at most one step of them.

    Args:
        db: A reader's connection.
        after_no: `last_no` of the previous step; None if all streams were checked.
        retention: The limits of the store.
        now_ms: The current time.
    """
    (has_garbage,) = db.execute("SELECT EXISTS (SELECT 1 FROM garbage)").fetchone()
    runs = db.execute(
        "SELECT id FROM runs WHERE finished_at <= ? ORDER BY finished_at LIMIT ?",
        (retention.runs_until(now_ms), STEP_RUNS),
    ).fetchall()
    aged = db.execute(
        "SELECT run_id, stream_id FROM streams WHERE oldest_ms < ? ORDER BY oldest_ms LIMIT ?",
        (retention.records_since_ms(now_ms), STEP_STREAMS),
    ).fetchall()
    sets = db.execute(
        "SELECT run_id, stream_id FROM empty_sets JOIN streams ON no = stream"
        " WHERE since_ms <= ? ORDER BY since_ms LIMIT ?",
        (now_ms - EMPTY_SET_S * 1000, STEP_STREAMS),
    ).fetchall()
    found = ExpiredRows(
        run_ids=[id for (id,) in runs],
        aged=[StreamKey(*row) for row in aged],
        sets=[StreamKey(*row) for row in sets],
        has_garbage=bool(has_garbage),
        has_more=len(runs) == STEP_RUNS or STEP_STREAMS in (len(aged), len(sets)),
    )
    if after_no is not None and retention.bounds:
        _look_at_streams(db, found, after_no, retention)
    return found


def _look_at_streams(
    db: sqlite3.Connection, found: ExpiredRows, after_no: int, retention: Retention
) -> None:
    rows = db.execute(
        "SELECT no, run_id, stream_id, next - earliest, bytes FROM streams"
        " WHERE no > ? ORDER BY no LIMIT ?",
        (after_no, STEP_STREAMS),
    ).fetchall()
    for _, run_id, stream_id, records, size in rows:
        key = StreamKey(run_id, stream_id)
        if is_user_stream(key) and retention.is_beyond(records, size):
            found.outgrown.append(key)
    if len(rows) == STEP_STREAMS:
        found.last_no, found.has_more = rows[-1][0], True


def remove(tx: Transactions, found: ExpiredRows, retention: Retention, now_ms: int) -> SweepResult:
    """Delete the rows that `find` returned, within the budget of one step."""
    runs = sum(tx.delete_run(run_id, now_ms) for run_id in found.run_ids)
    for key in found.sets:
        tx.forget_set(key, now_ms)
    tx.outgrown.update(found.outgrown)
    budget = Budget(STEP_ROWS, STEP_BYTES)
    records, has_more = 0, found.has_more
    for key in dict.fromkeys([*found.aged, *tx.outgrown]):
        removed, is_cut_short = tx.trim(key, retention, now_ms, budget)
        records += removed
        has_more = has_more or is_cut_short
        if budget.is_spent:
            has_more = True
            break
    has_more = tx.drop_garbage(budget) or has_more
    return SweepResult(records, runs, has_more)
