"""The contract of a store, and what every store shares. The docstrings of `Store` are the contract.

One suite (`tests/test_store_contract.py`) holds every store to it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import orjson

from gateway.errors import InvalidId, InvalidValue, OutOfOrder, WriterFenced, WriterGap
from gateway.patches import Operation
from gateway.records import (
    ORIGIN,
    PATH_CONFIG,
    REVOCATIONS,
    RUN_STREAM,
    RUNS_STREAM,
    STREAMS_STREAM,
    EndReason,
    Gap,
    Position,
    Record,
    ResetReason,
    RunSet,
    StreamKey,
    Writer,
    path_of,
)
from gateway.runs import Run
from gateway.stores.retention import Swept

PAGE_BYTES = 256 << 10  # of record data in one page: what a reader holds at a time
SET_RECORDS = 1000  # kept of a set's log, up to twice that: a reader who lags more begins anew
CONFIG_RECORDS = 8  # kept of a path's configuration, of which only the last counts


class Appended(NamedTuple):
    """What an append did.

    Attributes:
        offset: Of the first record; None if there was none, or a repeat's is no longer known.
        position: After the last record of the stream as far as this append knows.
        duplicate: It was a repeat and wrote nothing.
        next_sequence: Of the writer's next append, if the writer counts appends.
    """

    offset: int | None
    position: Position
    duplicate: bool = False
    next_sequence: int | None = None


class Head(NamedTuple):
    """Where a stream ends and begins."""

    position: Position
    earliest: Position
    end: EndReason | None


class Page(NamedTuple):
    """What a reader gets in one step.

    Attributes:
        records: In order, without holes, the first right after the reader's position
            (or after the gap, or at the beginning after a reset).
        position: After the last of them; where to read on.
        end: Why the stream ended, only when nothing follows `position`.
        gap: Records before these that are gone.
        reset: The reader's position said nothing any more; these are from the beginning.
    """

    records: list[Record]
    position: Position
    end: EndReason | None = None
    gap: Gap | None = None
    reset: ResetReason | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it tells the reader nothing new."""
        return not (self.records or self.end or self.gap or self.reset)


class RunState(NamedTuple):
    """A run as it is at a position of its own log."""

    run: Run
    position: Position


class SetState(NamedTuple):
    """The newest runs of some sets, as they are at a position of each set's log.

    Attributes:
        runs: Newest first, each once.
        has_more: There are older ones.
        positions: In the order of the sets that were asked for.
    """

    runs: list[Run]
    has_more: bool
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs to list; every condition that is given must hold.

    Attributes:
        status: One of these.
        tag: Carries it.
        parent_id: Is a child of this run.
        batch_id: Belongs to this batch.
        owner: Is executed by this runner.
        before: Its id sorts before this one (to go on where a list stopped).
        limit: At most so many, newest first.
    """

    status: tuple[str, ...] = ()
    tag: str | None = None
    parent_id: str | None = None
    batch_id: str | None = None
    owner: str | None = None
    before: str | None = None
    limit: int = 100


def matches(run: Run, query: RunQuery) -> bool:
    """Whether all conditions of a query hold for a run."""
    return (
        (not query.status or run.status in query.status)
        and (query.tag is None or query.tag in run.tags)
        and (query.parent_id is None or query.parent_id == run.parent_id)
        and (query.batch_id is None or query.batch_id == run.batch_id)
        and (query.owner is None or query.owner == run.owner)
        and (query.before is None or run.id < query.before)
    )


class Store(Protocol):
    """Keeps streams and runs.

    A stream belongs to a run: of one that is not there every method says `RunNotFound`. The append
    that makes a stream adds `{"stream": id}` to the run's reserved stream `$streams`, as one unit.

    The changes of a set of runs (`RunSet`) are a log too, which is always there, never ends, and
    keeps its newest `SET_RECORDS` records or somewhat more; it is read like any stream. The log of
    a set that has been empty for `EMPTY_SET_S` may be forgotten; should the set fill again, its
    log has another epoch. The log of revoked tokens (`REVOCATIONS`) is always there too; whoever
    revokes appends to it.

    A store is made with a `Retention`. Reading on from before the earliest record that is kept
    gives a gap. The reserved streams `$run` and `$streams` are never trimmed: they go with their
    run.

    Every method may be called from the event loop that opened the store, at any time between
    `open` and `close`, by many tasks at once. Cancelling a call never leaves half an effect: the
    store did all of it or nothing. `StoreUnavailable` (or `ConnectionLost`) may come from every
    method; it says nothing about whether an append happened, which is why appends that matter name
    a writer.
    """

    async def open(self) -> None:
        """Make the store ready.

        Raises:
            StoreLocked: another process owns it.
            StoreUnavailable: it cannot be reached or is damaged; the message says which.
        """

    async def close(self) -> None:
        """Finish what was accepted and let go. Safe to call twice."""

    @property
    def is_ready(self) -> bool:
        """Whether it can be read and written, as far as it knows without trying."""

    async def append(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        *,
        source: str | None = None,
        writer: Writer | None = None,
        end: EndReason | None = None,
        order: str | None = None,
    ) -> Appended:
        """Add records at the end of a stream, as one atomic unit.

        The first append makes the stream. Appends of one caller, made one after the other
        without awaiting, keep their order.

        Args:
            key: Which stream.
            records: JSON values as bytes; may be empty only with `end`.
            source: Run on whose behalf this is written; None for a client outside any run.
            writer: Makes a repeat harmless.
            end: End the stream after these records.
            order: Refuse the append unless this is greater, byte by byte, than what the last
                append that had one gave; remembered with the stream, whoever wrote.

        Returns:
            Once durable as the store promises.

        Raises:
            StreamEnded: the stream, or the run that owns it, has ended (not for a repeat).
            WriterFenced: a newer epoch of this writer was seen.
            WriterGap: an earlier append of this writer is missing.
            OutOfOrder: `order` is not greater (not for a repeat).
        """

    async def read(
        self, key: StreamKey, after: Position | None = None, max_bytes: int = PAGE_BYTES
    ) -> Page:
        """Read one page, without waiting.

        Args:
            key: Which stream; one that nothing was appended to reads as empty.
            after: Position to read on from; None for the beginning.
            max_bytes: About how much data; at least one record comes if there is one.

        Returns:
            An empty page at the tail of an open stream.
        """

    async def head(self, key: StreamKey) -> Head:
        """Say where a stream ends; an absent one of an open run is at `ORIGIN` without an end."""

    async def delete(self, key: StreamKey) -> None:
        """Remove a stream's records and end it with `deleted`. Deleting twice is harmless."""

    def follow(self, key: StreamKey, after: Position | None = None) -> AsyncGenerator[Page, None]:
        """Yield pages from a position on, then as they are appended, whoever appended them.

        Never an empty page. The iterator stops after a page with `end`. A stream that does not
        exist yet is waited for. When its run is deleted a stream that is followed ends with
        `deleted`, where the follower stands. Closing the iterator frees what it held.
        """

    async def create_run(self, run: Run) -> Run:
        """Keep a new run; the first record of its `$run` stream is the whole of it.

        As one unit with it, `{"id", "version", "run"}` is added to the log of each of its sets.

        With an idempotency key: if a run of the same task was made with this key, and the key has
        not expired since, nothing is kept. Of many calls at once one makes the run.

        Returns:
            The run as kept; of a key that was used, the run that was made with it.

        Raises:
            RunExists: the id is taken.
        """

    async def patch_run(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        *,
        operations: Sequence[Operation] = (),
        writer: Writer | None = None,
    ) -> Run:
        """Fold a change into a run and append it to its `$run` stream, as one atomic unit.

        With it, `{"id", "version", "patch"}` is added to the log of each set that the run was in
        (also of those that it leaves), and `{"id", "version", "run"}` to those that it enters.

        A final status ends every stream of the run, the reserved one included, with that status as
        the reason.

        Args:
            run_id: Which run.
            patch: Merge patch of its fields.
            operations: On its metadata, after the patch, in order; in the stream is the merge
                patch that they come to.
            writer: Makes a repeat harmless: each call takes one number of its sequence.

        Returns:
            The run after it; for a repeat, as it is now.

        Raises:
            RunNotFound: there is no such run.
            IllegalTransition: the table in `gateway.runs` does not allow it (not for a repeat).
            InvalidValue: the patch or an operation does not fit.
            MetadataTooLarge: the metadata would be over its limit.
            WriterFenced: a newer epoch of this writer was seen.
            WriterGap: an earlier change of this writer is missing.
        """

    async def get_run(self, run_id: str) -> RunState:
        """Return a run and the position of its log that it reflects.

        Raises:
            RunNotFound: there is no such run.
        """

    async def delete_run(self, run_id: str) -> bool:
        """Remove a run, finished or not, and all that it owns, as one atomic unit.

        Its streams, their writers, its place in lists and sets and its idempotency key are gone,
        and every method says `RunNotFound` of it; its children stay. `{"id", "version",
        "deleted": true}` is added to the log of each set that it was in; `version` is the number
        of changes that the run had.

        Returns:
            Whether there was one; deleting twice is harmless.
        """

    async def sweep(self) -> Swept:
        """Do one bounded step of what the store's retention asks for, by the store's own clock.

        The gateway calls it now and then, and again at once while there is more. Several at once,
        on one node or many, do no harm. A store whose other side sweeps has nothing to do.
        """

    async def spend(self, token_id: str, uses: int, expires_at_ms: int) -> bool:
        """Take one use of a token, as one atomic unit.

        Args:
            token_id: The token's `jti`.
            uses: How many it has in all.
            expires_at_ms: When it may be forgotten, milliseconds since 1970 UTC.

        Returns:
            Whether one was left.
        """

    async def list_runs(self, query: RunQuery) -> list[Run]:
        """Return runs, newest first."""

    async def get_set(self, sets: Sequence[RunSet], limit: int) -> SetState:
        """Return the newest runs of any of the sets, seen in one moment.

        Args:
            sets: One batch, one run's children, or one or more tags.
            limit: At most so many runs.
        """


@runtime_checkable
class PathStore(Store, Protocol):
    """A store that keeps streams of paths too, for gateways; a worker's store does not.

    The logs of a path belong to no run: they are there from the first append, may be ended and
    deleted like any stream, and are forgotten by `drop` alone. Of a path's `$config` log the newest
    `CONFIG_RECORDS` records are kept, or up to twice as many.
    """

    async def path_logs(self, after: StreamKey | None, limit: int) -> list[StreamKey]:
        """Return keys of the logs of paths in their order, those after a key, up to a number."""

    async def drop(self, key: StreamKey, at: Position) -> bool:
        """Forget a path's log, writers and all, if it still ends at `at`: as if it had never been.

        The next append makes it anew, with another epoch.

        Returns:
            Whether it did.

        Raises:
            InvalidId: the log is not a path's.
        """


class WriterState(NamedTuple):
    """What a stream remembers of one writer.

    Attributes:
        epoch: The newest seen.
        next_sequence: Of the writer's next record, or append, as the writer counts.
        last_offset: Offset of the writer's last record.
    """

    epoch: int
    next_sequence: int
    last_offset: int


def records_to_skip(state: WriterState | None, writer: Writer, count: int) -> int:
    """Say how many of an append's first records are there already.

    Args:
        state: What the stream remembers of the writer.
        writer: As the append names it.
        count: How many records it has.

    Returns:
        0 for a new append, `count` for a repeat.

    Raises:
        WriterFenced: the epoch is older than the newest seen.
        WriterGap: the sequence is ahead of what is there.
    """
    if state is not None and writer.epoch < state.epoch:
        fenced = WriterFenced(
            f"writer {writer.id} has epoch {writer.epoch}; epoch {state.epoch} has taken over"
        )
        fenced.epoch = state.epoch
        raise fenced
    expected = state.next_sequence if state is not None and writer.epoch == state.epoch else 0
    if writer.sequence > expected:
        gap = WriterGap(
            f"writer {writer.id} sent sequence {writer.sequence}; {expected} is expected next"
        )
        gap.expected, gap.is_new_epoch = expected, state is not None and writer.epoch > state.epoch
        raise gap
    if writer.counts == "appends":
        return count if writer.sequence < expected else 0
    return min(expected - writer.sequence, count)


def is_repeated_end(
    state: WriterState | None, writer: Writer, ended: EndReason | None, end: EndReason | None
) -> bool:
    """Whether an append without records is a repeat of the one that ended the stream."""
    if state is None or writer.epoch != state.epoch:
        return False
    if writer.counts == "appends":
        return writer.sequence < state.next_sequence
    return writer.sequence == state.next_sequence and end is not None and ended == end


def repeat(state: WriterState, writer: Writer, count: int, head: Head) -> Appended:
    """Return what a repeated append is answered with."""
    counts_appends = writer.counts == "appends"
    offset = None if counts_appends else first_offset_of_repeat(state, writer, count)
    return Appended(offset, head.position, True, state.next_sequence if counts_appends else None)


def check_order(key: StreamKey, last: str | None, order: str | None) -> None:
    """Refuse an append whose order is not after the last one's.

    Raises:
        OutOfOrder: names both.
    """
    if last is not None and order is not None and order.encode() <= last.encode():
        raise OutOfOrder(f"stream {key} has order {last[:80]!r}; {order[:80]!r} is not after it")


def first_offset_of_repeat(state: WriterState, writer: Writer, count: int) -> int | None:
    """Find a repeated append's first offset; known for the writer's last append only."""
    if count == 0 or writer.sequence + count != state.next_sequence:
        return None
    return state.last_offset - count + 1


def place(after: Position | None, head: Head) -> tuple[int, ResetReason | None, Gap | None]:
    """Say where reading goes on for someone at `after`.

    Args:
        after: The reader's position; None for the beginning.
        head: The stream's.

    Returns:
        The offset to read from, why the position was void if it was, and what is missing before it.
    """
    offset, reset = 0, None
    if after is not None and after.offset > 0:
        if after.epoch != head.position.epoch:
            reset = "epoch_changed"
        elif after.offset > head.position.offset:
            reset = "tail_lost"
        else:
            offset = after.offset
    gap = None
    if offset < head.earliest.offset:
        if head.end != "deleted":  # then the end says where they went
            gap = Gap(Position(head.position.epoch, offset), head.earliest, "trimmed")
        offset = head.earliest.offset
    return offset, reset, gap  # type: ignore[return-value]


def page_of(records: list[Record], start: int, head: Head, **more: Any) -> Page:
    """Make a page of records that were read from offset `start`."""
    position = Position(head.position.epoch, start + len(records))
    at_tail = position.offset >= head.position.offset
    return Page(records, position, head.end if at_tail else None, **more)


NO_RECORDS = Head(ORIGIN, ORIGIN, None)
"""The head of an open stream that nothing was appended to."""


def is_announced(key: StreamKey) -> bool:
    """Whether a stream that appears is named in its run's `$streams`."""
    return not key.stream_id.startswith("$")


def announcement(key: StreamKey) -> tuple[StreamKey, bytes]:
    """Return where a new stream is announced, and the record that does it."""
    return StreamKey(key.run_id, STREAMS_STREAM), b'{"stream":"%b"}' % key.stream_id.encode()


def is_set_log(key: StreamKey) -> bool:
    """Whether a key is that of a set's log."""
    return key.stream_id == RUNS_STREAM


def belongs_to_no_run(key: StreamKey) -> bool:
    """Whether a log is there without a run: those of sets and paths, and that of revoked tokens."""
    return is_set_log(key) or key == REVOCATIONS or path_of(key) is not None


def check_path_log(key: StreamKey) -> None:
    """Refuse a log that is not a path's.

    Raises:
        InvalidId: it belongs to a run, or is one of the gateway's own.
    """
    if path_of(key) is None:
        raise InvalidId(f"{key} is no log of a path, and cannot be dropped")


def kept_records(key: StreamKey) -> int | None:
    """Return how many of a log's newest records a store keeps at least; None for all of them."""
    if is_set_log(key):
        return SET_RECORDS
    return CONFIG_RECORDS if key.stream_id == PATH_CONFIG else None


def sets_of(run: Run) -> list[RunSet]:
    """Return the sets that a run belongs to."""
    sets = [RunSet("tag", tag) for tag in dict.fromkeys(run.tags)]
    if run.batch_id is not None:
        sets.append(RunSet("batch", run.batch_id))
    if run.parent_id is not None:
        sets.append(RunSet("parent", run.parent_id))
    return sets


def set_records(
    before: Run | None, run: Run, version: int, patch: bytes, snapshot: bytes
) -> list[tuple[StreamKey, bytes]]:
    """Return what a change of a run adds to the logs of its sets.

    Args:
        before: The run before it; None for a new one.
        run: The run after it.
        version: Offset of the change in the run's own log.
        patch: The change as JSON.
        snapshot: The run after it as JSON.
    """
    known = sets_of(before) if before is not None else []
    whole, part = (
        b'{"id":"%b","version":%d,"%b":%b}' % (run.id.encode(), version, name, data)
        for name, data in ((b"run", snapshot), (b"patch", patch))
    )
    entered = [each for each in sets_of(run) if each not in known]
    return [(each.log, part) for each in known] + [(each.log, whole) for each in entered]


def deletion_records(run: Run, version: int) -> list[tuple[StreamKey, bytes]]:
    """Return what the deletion of a run adds to the logs of its sets.

    Args:
        run: As it was.
        version: How many changes its own log has had.
    """
    data = b'{"id":"%b","version":%d,"deleted":true}' % (run.id.encode(), version)
    return [(each.log, data) for each in sets_of(run)]


def run_log(run_id: str) -> StreamKey:
    """Return the key of the stream that holds a run's own changes."""
    return StreamKey(run_id, RUN_STREAM)


def encode_json(value: Any, what: str) -> bytes:
    """Write a run or a patch as JSON.

    Raises:
        InvalidValue: something in it is no JSON that can be kept.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise InvalidValue(f"{what} cannot be kept as JSON: {error}") from None


def end_of(run: Run) -> EndReason | None:
    """Return the reason with which a run ends its streams; None while it goes on."""
    return run.status if run.is_final else None  # type: ignore[return-value]


def new_epoch(now_ms: int) -> str:
    """Name a stream's storage: 11 hex digits of time, so that it sorts, and 5 of chance."""
    return f"{now_ms:011x}{secrets.randbits(20):05x}"


def system_clock_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
