"""How the SQLite store keeps records: in blocks, gathered by stream, written together.

All that one group commit adds to a stream is one row, a msgpack array of (time_ms, source, data): a
row of its own for each record costs three times the space and the time. And all streams that one
group commit adds to are written by a few statements of many rows: each statement lets the
interpreter go, and a busy event loop gives it back only after milliseconds.
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

BLOCK_BYTES = 256 << 10  # of one row: what a reader in its middle decodes in vain


Entry = tuple[int, str | None, bytes]  # time_ms, source, data
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode


@dataclass(slots=True)
class StreamState:
    """What the writer knows of a stream, with what the open transaction has added."""

    no: int
    epoch: str
    earliest: int
    next_offset: int
    ended: EndReason | None
    bytes: int  # of its blocks
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
    """What a commit added to a stream; a page of it is made only for those who follow."""

    first: int
    entries: list[Entry]
    position: Position
    ended: EndReason | None

    def page(self) -> Page:
        """Return it as a reader who follows gets it."""
        records = [Record(self.first + i, *entry) for i, entry in enumerate(self.entries)]
        return Page(records, self.position, self.ended)


class BulkInsert:
    """Writes rows of one table, many by one statement; the values of all rows are one list."""

    def __init__(self, into: str, width: int, then: str = "") -> None:
        row = f"({','.join('?' * width)})"
        self._statements = [
            (count * width, f"{into} VALUES {','.join([row] * count)} {then}")
            for count in (100, 64, 32, 16, 8, 4, 2, 1)  # few enough to stay compiled
        ]

    def write(self, db: sqlite3.Connection, values: list[Any]) -> None:
        """Execute the statements that write all rows."""
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
    """Write what these streams have gathered; returns it, by stream."""
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
    # Whole blocks go, now and then, and few enough that appends do not wait for it.
    return stream.next_offset - stream.earliest > kept + max(8, kept // 8)


@dataclass(slots=True)
class Budget:
    """How much one step of sweeping may still remove."""

    rows: int
    bytes: int

    @property
    def is_spent(self) -> bool:
        """Whether nothing more may go."""
        return self.rows <= 0 or self.bytes <= 0

    def charge(self, size: int) -> None:
        """Take note of one more row."""
        self.rows -= 1
        self.bytes -= size


class Cut(NamedTuple):
    """Where what is kept of a stream begins.

    Attributes:
        earliest: The first offset that is kept.
        bytes: Of the rows before it.
        oldest_ms: The time of the first row that is kept; None if none is.
        is_cut_short: More could go than the budget allowed.
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
    """Find where what is kept begins.

    Args:
        rows: The first offset, the size and the last time of each stored row, from the oldest on;
            no more are read than have to be looked at.
        stream: Their stream.
        retention: What has to be kept.
        now_ms: The time.
        budget: Bounds what goes; what goes is taken from it.
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
    """Return the rows that hold records from offset `first` on: the first offset and the data."""
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
    """Read the records of a stream, by its number, from an offset on."""
    cursor = db.execute(
        "SELECT first, data FROM blocks WHERE stream = ?1 AND first >= coalesce("
        "(SELECT max(first) FROM blocks WHERE stream = ?1 AND first <= ?2), 0) ORDER BY first",
        (no, start),
    )
    for first, data in cursor:
        entries = _decode(data)
        for offset in range(max(first, start), first + len(entries)):
            yield Record(offset, *entries[offset - first])
