"""A SQLite store with as many runs as wanted, made by a few statements."""

import sqlite3
from contextlib import closing

import msgspec
import orjson

from gateway.stores.sqlite.schema import create_tables
from tests.support.gateways import new_run

FINISHED_AT = "2026-11-20T00:00:00.000Z"  # of every run but each hundredth, which is executing
RECORDS_MS = 1_795_132_800_000  # the same moment
OWNER = "embedded"


def make_large_store(path, runs):
    """Fill a new file: each run has two streams of a record, the tag `all`, and one of 100 tags."""
    snapshot = orjson.dumps(new_run(id="run_ID", status="executing", owner=OWNER).to_wire())
    block = msgspec.msgpack.encode([(RECORDS_MS, None, b'{"step":1}')])
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = OFF")
        create_tables(db)
        db.execute("BEGIN")
        db.execute("CREATE TEMP TABLE n (i INTEGER PRIMARY KEY, id TEXT, ends INTEGER)")
        db.execute(
            "WITH RECURSIVE count (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM count WHERE i < ?)"
            " INSERT INTO n SELECT i, printf('run_%09d', i), i % 100 > 0 FROM count",
            (runs,),
        )
        db.execute(
            "INSERT INTO runs (id, status, owner, snapshot, finished_at) SELECT id,"
            " iif(ends, 'completed', 'executing'), ?1, CAST(replace(replace(?2, 'run_ID', id),"
            " 'executing', iif(ends, 'completed', 'executing')) AS BLOB), iif(ends, ?3, NULL)"
            " FROM n",
            (OWNER, snapshot.decode(), FINISHED_AT),
        )
        db.execute("INSERT INTO tags SELECT 'all', id FROM n")
        db.execute("INSERT INTO tags SELECT printf('t%02d', i % 100), id FROM n")
        for at, stream in enumerate(("$run", "s")):
            db.execute(
                "INSERT INTO streams (no, run_id, stream_id, epoch, earliest, next, ended, bytes,"
                " oldest_ms) SELECT 2 * i + ?1, id, ?2, '0000000000000001', 0, 1,"
                " iif(ends, 'completed', NULL), ?3, iif(?1, ?4, NULL) FROM n",
                (at, stream, len(block), RECORDS_MS),
            )
            db.execute(
                "INSERT INTO blocks (no, stream, first, data, last_ms)"
                " SELECT 2 * i + ?1, 2 * i + ?1, 0, ?2, ?3 FROM n",
                (at, block, RECORDS_MS),
            )
        db.execute("COMMIT")
