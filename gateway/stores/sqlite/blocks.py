"""Storage format of records in SQLite: blocks of records, one row each, written in bulk.

A group commit adds one row to each changed stream: a msgpack array of (time_ms, source, data). One
row for each record would cost three times the space and the time. The rows of all streams are
written by a few statements with many rows each. Every statement releases the GIL, and a busy event
loop returns it only after milliseconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from gateway.model.log import Head, Page
from gateway.model.records import EndReason, Position, Record, StreamKey
from gateway.model.retention import Retention
from gateway.stores.idempotency import WriterState
from gateway.stores.reserved_logs import is_user_stream, min_records_kept

BLOCK_BYTES = 256 << 10  # per row: bounds what a reader decodes before its first record


Entry = tuple[int, str | None, bytes]  # time_ms, source, data
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode


@dataclass(slots=True)
class StreamState:
    """The writer's cached state of a stream, including changes of the open transaction."""

    no: int
    epoch: str
    earliest: int
    next_offset: int
    ended: EndReason | None
    bytes: int  # total size of its blocks
    writers: dict[str, WriterState | None] = field(default_factory=dict)
    added: list[Entry] = field(default_factory=list)
    changed_writers: set[str] = field(default_factory=set)

    def position(self) -> Position:
        """Return the position after the last record."""
        return Position(self.epoch, self.next_offset)

    def head(self) -> Head:
        """See `Store.head`."""
        return Head(self.position(), Position(self.epoch, self.earliest), self.ended)


class CommittedBatch(NamedTuple):
    """The records that a commit added to a stream. A page is built only for followers."""

    first: int
    entries: list[Entry]
    position: Position
    ended: EndReason | None

    def page(self) -> Page:
        """Return the batch as a page for followers."""
        records = [Record(self.first + i, *entry) for i, entry in enumerate(self.entries)]
        return Page(records, self.position, self.ended)


class BulkInsert:
    """Inserts rows into one table, up to 100 in one statement."""

    def __init__(self, into: str, width: int, then: str = "") -> None:
        row = f"({','.join('?' * width)})"
        self._statements = [
            (count * width, f"{into} VALUES {','.join([row] * count)} {then}")
            for count in (100, 64, 32, 16, 8, 4, 2, 1)  # few enough for the statement cache
        ]

    def write(self, db: sqlite3.Connection, values: list[Any]) -> None:
        """Insert all rows; `values` is the flat list of their columns."""
        at = 0
        for size, sql in self._statements:
            while len(values) - at >= size:
                db.execute(sql, values[at : at + size])
                at += size


_BLOCKS = BulkInsert("INSERT INTO blocks (stream, first, data, last_ms)", 4)
_HEADS = BulkInsert(
    "INSERT INTO streams (no, run_id, stream_id, epoch, earliest, next, ended, bytes)",
    8,
    "ON CONFLICT (no) DO UPDATE SET earliest = excluded.earliest, next = excluded.next,"
    " ended = excluded.ended, bytes = excluded.bytes",
)
_WRITERS = BulkInsert(
    "INSERT OR REPLACE INTO writers (stream, id, epoch, next_sequence, last_offset)", 5
)


def write_streams(
    db: sqlite3.Connection, streams: Mapping[StreamKey, StreamState]
) -> dict[StreamKey, CommittedBatch]:
    """Write the pending changes of streams, and return them by stream."""
    grown: dict[StreamKey, CommittedBatch] = {}
    blocks: list[Any] = []
    heads: list[Any] = []
    writers: list[Any] = []
    trimmed: list[tuple[int, int]] = []
    refilled: list[tuple[int, int]] = []
    for key, stream in streams.items():
        no, added = stream.no, stream.added
        first = stream.next_offset - len(added)
        if added and first == stream.earliest > 0 and is_user_stream(key):
            refilled.append((added[0][0], no))
        for at, data in encode_blocks(first, added):
            blocks += (no, at, data, added[-1][0])
            stream.bytes += len(data)
        if (kept := min_records_kept(key)) is not None and _outgrows(stream, kept):
            stream.earliest = stream.next_offset - kept
            trimmed.append((no, stream.earliest))
        heads += (no, key.run_id, key.stream_id, stream.epoch, stream.earliest)
        heads += (stream.next_offset, stream.ended, stream.bytes)
        for id in stream.changed_writers:
            writers += (no, id, *(stream.writers[id] or ()))
        grown[key] = CommittedBatch(first, added, stream.position(), stream.ended)
        stream.added = []
        stream.changed_writers.clear()
    _BLOCKS.write(db, blocks)
    _HEADS.write(db, heads)
    _WRITERS.write(db, writers)
    for no, earliest in trimmed:
        db.execute(
            "DELETE FROM blocks WHERE stream = ?1 AND first < "
            "(SELECT max(first) FROM blocks WHERE stream = ?1 AND first <= ?2)",
            (no, earliest),
        )
    if refilled:
        db.executemany("UPDATE streams SET oldest_ms = ? WHERE no = ?", refilled)
    return grown


def _outgrows(stream: StreamState, kept: int) -> bool:
    # Trims are rare, and each removes so few blocks that appends do not wait.
    return stream.next_offset - stream.earliest > kept + max(8, kept // 8)


@dataclass(slots=True)
class Budget:
    """How much one sweep step may still delete."""

    rows: int
    bytes: int

    @property
    def is_spent(self) -> bool:
        """Whether the step must not delete anything else."""
        return self.rows <= 0 or self.bytes <= 0

    def charge(self, size: int) -> None:
        """Subtract one row of `size` bytes."""
        self.rows -= 1
        self.bytes -= size


class Cut(NamedTuple):
    """The point before which a stream is trimmed.

    Attributes:
        earliest: The first retained offset.
        bytes: Total size of the rows before it.
        oldest_ms: Time of the first retained row; None if no row is retained.
        is_cut_short: The budget ended before all expired rows were counted.
    """

    earliest: int
    bytes: int
    oldest_ms: int | None
    is_cut_short: bool


def cut(
    rows: Iterator[tuple[int, int, int]],
    stream: StreamState,
    retention: Retention,
    now_ms: int,
    budget: Budget,
) -> Cut:
    """Find the point before which a stream is trimmed.

    Args:
        rows: First offset, size and last time of each stored row, oldest first. The iterator is
            read only as far as necessary.
        stream: The stream of the rows.
        retention: The limits of the stream.
        now_ms: The current time.
        budget: Bounds the trim. Every row before the point is charged to it.
    """
    kept_from = stream.next_offset - retention.records if retention.records is not None else 0
    excess = stream.bytes - retention.bytes if retention.bytes is not None else 0
    since_ms = retention.records_since_ms(now_ms)
    earliest, removed = stream.earliest, 0
    row = next(rows, None)
    while row is not None:
        _, size, last_ms = row
        row = next(rows, None)
        end = row[0] if row is not None else stream.next_offset - len(stream.added)
        if not (end <= kept_from or last_ms < since_ms or size <= excess - removed):
            return Cut(earliest, removed, last_ms, is_cut_short=False)
        if budget.is_spent:
            return Cut(earliest, removed, last_ms, is_cut_short=True)
        budget.charge(size)
        earliest, removed = end, removed + size
    oldest_ms = stream.added[0][0] if stream.added else None
    return Cut(earliest, removed, oldest_ms, is_cut_short=False)


def encode_blocks(first: int, entries: list[Entry]) -> list[tuple[int, bytes]]:
    """Encode records from offset `first` on as rows of (first offset, data)."""
    if len(entries) == 1:
        return [(first, _encode(entries))]
    blocks = []
    start = size = 0
    for at, entry in enumerate(entries):
        if at > start and size + len(entry[2]) > BLOCK_BYTES:
            blocks.append((first + start, _encode(entries[start:at])))
            start, size = at, 0
        size += len(entry[2])
    if entries:
        blocks.append((first + start, _encode(entries[start:])))
    return blocks


def records_from(db: sqlite3.Connection, no: int, start: int) -> Iterator[Record]:
    """Yield the records of a stream from offset `start` on; `no` is the stream's number."""
    cursor = db.execute(
        "SELECT first, data FROM blocks WHERE stream = ?1 AND first >= coalesce("
        "(SELECT max(first) FROM blocks WHERE stream = ?1 AND first <= ?2), 0) ORDER BY first",
        (no, start),
    )
    for first, data in cursor:
        entries = _decode(data)
        for offset in range(max(first, start), first + len(entries)):
            yield Record(offset, *entries[offset - first])
