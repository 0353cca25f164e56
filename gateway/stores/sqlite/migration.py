"""A SQLite store as source or target of a copy; see `gateway.stores.migration`."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence

from gateway.model.log import Head
from gateway.model.records import Position, Record, StreamKey
from gateway.model.runs import Run
from gateway.stores.idempotency import WriterState
from gateway.stores.migration import StreamExtras, TokenUsage
from gateway.stores.sqlite.store import SqliteStore

_NOTHING = StreamExtras(None, None, {})


class MovableSqliteStore(SqliteStore):
    """`SqliteStore` with the additional methods of `CopyableStore`."""

    async def stream_ids(self, run_id: str) -> list[str]:
        """See `CopyableStore.stream_ids`."""
        sql = "SELECT stream_id FROM streams WHERE run_id = ?"
        return await self._read(lambda db: [id for (id,) in db.execute(sql, (run_id,))])

    async def stream_head(self, key: StreamKey) -> Head | None:
        """See `CopyableStore.stream_head`."""
        return await self._read(lambda db: _head(db, key))

    async def stream_extras(self, key: StreamKey) -> StreamExtras:
        """See `CopyableStore.stream_extras`."""
        return await self._read(lambda db: _rest(db, key))

    async def import_records(
        self, key: StreamKey, at: Position, records: Sequence[Record], rest: StreamExtras | None
    ) -> None:
        """See `CopyableStore.import_records`."""
        await self._write(lambda tx: tx.import_records(key, at, records, *(rest or _NOTHING)))

    async def import_run(self, run: Run) -> None:
        """See `CopyableStore.import_run`."""
        await self._write(lambda tx: tx.import_run(run))

    async def iter_token_uses(self) -> AsyncIterator[TokenUsage]:
        """See `CopyableStore.iter_token_uses`."""
        sql = "SELECT id, uses, expires_at_ms FROM spent WHERE expires_at_ms > ?"
        now_ms = self._clock_ms()
        for row in await self._read(lambda db: db.execute(sql, (now_ms,)).fetchall()):
            yield TokenUsage(*row)

    async def import_token_uses(self, spent: TokenUsage) -> None:
        """See `CopyableStore.import_token_uses`."""
        await self._write(lambda tx: tx.import_token_uses(*spent))


def _head(db: sqlite3.Connection, key: StreamKey) -> Head | None:
    sql = "SELECT epoch, next, earliest, ended FROM streams WHERE run_id = ? AND stream_id = ?"
    row = db.execute(sql, key).fetchone()
    if row is None:
        return None
    epoch, next_offset, earliest, ended = row
    return Head(Position(epoch, next_offset), Position(epoch, earliest), ended)


def _rest(db: sqlite3.Connection, key: StreamKey) -> StreamExtras:
    sql = "SELECT no, ended FROM streams WHERE run_id = ? AND stream_id = ?"
    row = db.execute(sql, key).fetchone()
    if row is None:
        return _NOTHING
    no, ended = row
    order = db.execute("SELECT last FROM orders WHERE stream = ?", (no,)).fetchone()
    writers = db.execute(
        "SELECT id, epoch, next_sequence, last_offset FROM writers WHERE stream = ?", (no,)
    )
    states = {id: WriterState(*state) for id, *state in writers}
    return StreamExtras(ended, order[0] if order else None, states)
