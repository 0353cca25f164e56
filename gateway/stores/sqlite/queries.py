"""Reads of the SQLite store. The caller passes a connection with an open transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

import orjson

from gateway.errors import RunNotFound
from gateway.model.log import (
    NO_RECORDS,
    Head,
    Page,
    RunQuery,
    RunState,
    SetState,
    belongs_to_no_run,
    run_log,
)
from gateway.model.records import ORIGIN, Position, Record, RunSet, StreamKey
from gateway.model.runs import STATUSES, Run
from gateway.stores.base import end_of
from gateway.stores.paging import make_page, place
from gateway.stores.run_lists import ListedRun, decode_listed, in_list, that_fit
from gateway.stores.sqlite.blocks import records_from


def stream_row(db: sqlite3.Connection, key: StreamKey) -> tuple[Any, ...] | None:
    """Return the first fields of `StreamState`; None for an absent stream."""
    row: tuple[Any, ...] | None = db.execute(
        "SELECT no, epoch, earliest, next, ended, bytes FROM streams"
        " WHERE run_id = ? AND stream_id = ?",
        key,
    ).fetchone()
    return row


def snapshot_of(db: sqlite3.Connection, run_id: str) -> bytes | None:
    """Return the stored JSON of a run; None if there is no such run."""
    row = db.execute("SELECT snapshot FROM runs WHERE id = ?", (run_id,)).fetchone()
    return row[0] if row else None


def snapshot_there(db: sqlite3.Connection, run_id: str) -> bytes:
    """Return the stored JSON of a run.

    Raises:
        RunNotFound: there is no such run.
    """
    data = snapshot_of(db, run_id)
    if data is None:
        raise RunNotFound(f"there is no run {run_id}")
    return data


def load_run(db: sqlite3.Connection, run_id: str) -> Run:
    """Return a run.

    Raises:
        RunNotFound: there is no such run.
    """
    return Run.from_wire(orjson.loads(snapshot_there(db, run_id)))


def read_head(db: sqlite3.Connection, key: StreamKey) -> tuple[int, Head]:
    """Return a stream's number and head; the number of an absent stream is 0.

    Raises:
        RunNotFound: there is neither the stream nor its run.
    """
    row = stream_row(db, key)
    if row is None and belongs_to_no_run(key):
        return 0, NO_RECORDS
    if row is None:
        return 0, Head(ORIGIN, ORIGIN, end_of(load_run(db, key.run_id)))
    no, epoch, earliest, next_offset, ended, _ = row
    return no, Head(Position(epoch, next_offset), Position(epoch, earliest), ended)


def read_path_logs(db: sqlite3.Connection, after: StreamKey | None, limit: int) -> list[StreamKey]:
    """See `PathStore.list_path_logs`."""
    rows = db.execute(
        "SELECT run_id, stream_id FROM streams WHERE (run_id, stream_id) > (?, ?)"
        " AND run_id >= 'path:' AND run_id < 'path;' ORDER BY run_id, stream_id LIMIT ?",
        (*(after or ("path:", "")), limit),
    )
    return [StreamKey(*row) for row in rows]


def read_page(
    db: sqlite3.Connection, key: StreamKey, after: Position | None, max_bytes: int
) -> Page:
    """See `Store.read`."""
    no, head = read_head(db, key)
    start, reset, gap = place(after, head)
    records: list[Record] = []
    size = 0
    for record in records_from(db, no, start) if start < head.position.offset else ():
        size += len(record.data)
        if records and size > max_bytes:
            break
        records.append(record)
    return make_page(records, start, head, reset=reset, gap=gap)


def read_run(db: sqlite3.Connection, run_id: str) -> RunState:
    """See `Store.get_run`."""
    run = load_run(db, run_id)
    _, head = read_head(db, run_log(run_id))
    return RunState(run, head.position)


def read_runs(db: sqlite3.Connection, query: RunQuery) -> list[Run]:
    """See `Store.list_runs`.

    Each condition has an index sorted by run id. With several conditions, the search skips ahead:
    it queries the indexes in rotation for the newest run that is not newer than the last result.
    When all conditions return the same run, that run matches. The cost is at most twice the number
    of runs that meet the rarest condition, however many runs meet the others.
    """
    conditions = _conditions(query)
    before = query.before if query.before is not None else _AFTER_ALL
    return that_fit(islice(_listed_from(db, conditions, before), query.limit))


def _listed_from(
    db: sqlite3.Connection, conditions: Sequence[_Condition], before: str
) -> Iterator[ListedRun]:
    while (id := _newest(db, conditions, before)) is not None:
        yield in_list(load_shown(db, id))
        before = id


def load_shown(db: sqlite3.Connection, run_id: str) -> ListedRun:
    """Return a run as sets show it, without reading its large fields."""
    row = db.execute("SELECT snapshot FROM listed WHERE run_id = ?", (run_id,)).fetchone()
    return decode_listed(row[0] if row is not None else snapshot_there(db, run_id))


def _newest(db: sqlite3.Connection, conditions: Sequence[_Condition], before: str) -> str | None:
    """Return the id of the newest run older than `before` that meets all conditions."""
    found, operator, agreed = before, "<", 0
    for condition in cycle(conditions):
        newest = condition.newest(db, operator, found)
        if newest is None:
            return None
        agreed = agreed + 1 if (operator, newest) == ("<=", found) else 1
        if agreed == len(conditions):
            return newest
        found, operator = newest, "<="
    return None


def read_set(db: sqlite3.Connection, sets: Sequence[RunSet], limit: int) -> SetState:
    """See `Store.list_set_runs`."""
    count = limit + 1  # the extra one shows whether there are more
    newest = (f"SELECT * FROM ({MEMBERS[each.kind]} DESC LIMIT {count:d})" for each in sets)
    rows = db.execute(
        f"SELECT id FROM runs WHERE id IN ({' UNION '.join(newest)})"
        f" ORDER BY id DESC LIMIT {count:d}",
        [each.id for each in sets],
    )
    ids = [id for (id,) in rows]
    runs = that_fit(load_shown(db, id) for id in ids[:limit])
    positions = tuple(read_head(db, each.log)[1].position for each in sets)
    return SetState(runs, len(ids) > len(runs), positions)


MEMBERS = {
    "tag": "SELECT run_id FROM tags WHERE tag = ? ORDER BY run_id",
    "batch": "SELECT id FROM runs WHERE batch_id = ? ORDER BY id",
    "parent": "SELECT id FROM runs WHERE parent_id = ? ORDER BY id",
}


_AFTER_ALL = "\U0010ffff"  # sorts after every id

_ID_BY = {
    "tag": ("tags", "run_id", "tag = ?"),
    "status": ("runs", "id", "status = ?"),
    "parent_id": ("runs", "id", "parent_id = ?"),
    "batch_id": ("runs", "id", "batch_id = ?"),
    "owner": ("runs", "id", "owner = ?"),
    "all": ("runs", "id", "? = ''"),
}


class _Condition(NamedTuple):
    """A condition of a query: the field of the run has one of these values."""

    field: str
    values: Sequence[str]

    def newest(self, db: sqlite3.Connection, operator: str, than: str) -> str | None:
        """Return the newest matching run id that compares to `than` by `operator`, < or <=."""
        table, id, condition = _ID_BY[self.field]
        sql = f"SELECT max({id}) FROM {table} WHERE {condition} AND {id} {operator} ?"
        found = (db.execute(sql, (value, than)).fetchone()[0] for value in self.values)
        return max((id for id in found if id is not None), default=None)


def _conditions(query: RunQuery) -> list[_Condition]:
    conditions = []
    if query.status:
        statuses = [status for status in STATUSES if status in query.status]
        conditions.append(_Condition("status", statuses))
    for name in ("tag", "parent_id", "batch_id", "owner"):
        if (value := getattr(query, name)) is not None:
            conditions.append(_Condition(name, (value,)))
    return conditions or [_Condition("all", ("",))]
