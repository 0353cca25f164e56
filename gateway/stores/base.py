"""The contract of a store, and helpers for all stores. The docstrings of `Store` are the contract.

One suite (`tests/stores/test_contract*.py`) runs against every store.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import orjson

from gateway.errors import InvalidValue, RunNotFound
from gateway.model.limits import LEAST_LISTED_RUNS, MAX_LISTED_RUNS
from gateway.model.log import Appended, Head, Page, RunQuery, RunState, SetState
from gateway.model.patches import Operation
from gateway.model.records import (
    EndReason,
    Position,
    RunSet,
    StreamKey,
    Writer,
)
from gateway.model.retention import SweepResult
from gateway.model.runs import Run

PAGE_BYTES = 256 << 10  # of record data in one page: bounds the memory of one reader
SET_RECORDS = 1000  # retained in a set's log, at most twice that; a slower reader starts over
CONFIG_RECORDS = 8  # retained of a path's configuration; only the last one is in effect


OnAppended = Callable[["Appended | Exception"], None]
"""Callback that receives the result of an append, or the error that rejected it."""


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


OnPage = Callable[[Page], None]
"""Callback that receives a page directly from the append; see `Store.follow`."""


class Store(Protocol):
    """Stores streams and runs.

    A stream belongs to a run. When the run does not exist, every method raises `RunNotFound`. The
    append that creates a stream also appends `{"stream": id}` to the run's reserved stream
    `$streams`, atomically.

    The changes of a set of runs (`RunSet`) are a log that is read like any stream. It always
    exists and never ends. It retains its newest `SET_RECORDS` records, at most about twice as
    many. The store may delete the log of a set that has been empty for `EMPTY_SET_S` seconds. When
    the set gets a run again, its log has another epoch. The log of revoked tokens (`REVOCATIONS`)
    always exists too. Each revocation is appended to it.

    A store is created with a `Retention`. A read from a position before the earliest retained
    record returns a gap. The reserved streams `$run` and `$streams` are never trimmed. They are
    deleted with their run.

    Between `open` and `close`, many tasks may call the methods concurrently, on the event loop that
    opened the store. A cancelled call takes effect completely or not at all. Every method may raise
    `StoreUnavailable` or `ConnectionLost`. After such an error, an append may nevertheless have
    been committed. So an append that is retried must name a writer, or it may be duplicated.
    """

    async def open(self) -> None:
        """Open the store for reads and writes.

        Raises:
            StoreLocked: another process owns it.
            StoreUnavailable: it cannot be reached or is damaged; the message says which.
        """

    async def close(self) -> None:
        """Finish all accepted calls and release the store's resources. Safe to call twice."""

    @property
    def is_ready(self) -> bool:
        """Whether reads and writes are expected to succeed. The check itself does no I/O."""

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
        """Append records to a stream atomically.

        The first append creates the stream. When one caller starts several appends without
        awaiting each, the store preserves their order.

        Args:
            key: Which stream.
            records: JSON values as bytes; may be empty only with `end`.
            source: The run that writes and its attempt, in the form of `records.source_of`; None
                for a client outside any run.
            writer: Makes the append idempotent: a repeat adds nothing.
            end: End the stream after these records.
            order: Reject the append unless this is greater, byte by byte, than the stream's last
                order. The stream has one last order for all its writers.

        Returns:
            The result, after the append is as durable as the store promises.

        Raises:
            StreamEnded: the stream, or the run that owns it, has ended (not for a repeat).
            WriterFenced: a newer epoch of this writer was seen.
            WriterGap: an earlier append of this writer is missing.
            OutOfOrder: `order` is not greater (not for a repeat).
        """

    def begin_append(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        done: OnAppended,
        *,
        source: str | None = None,
        writer: Writer | None = None,
        end: EndReason | None = None,
        order: str | None = None,
    ) -> None:
        """Start an append without a task of the caller and without waiting for it.

        Use it for many concurrent appends. Those to one stream are executed in the order of the
        calls.

        Args:
            key: Which stream.
            records: See `append`.
            done: Called once, on the event loop, possibly before this method returns. It receives
                the result, or the error that `append` would raise. It must not raise.
            source: See `append`.
            writer: See `append`.
            end: See `append`.
            order: See `append`.
        """

    async def read(
        self, key: StreamKey, after: Position | None = None, max_bytes: int = PAGE_BYTES
    ) -> Page:
        """Read one page, without waiting.

        Args:
            key: Which stream; one without any append reads as empty.
            after: Position to read after; None for the beginning.
            max_bytes: Approximate limit of record data. If there is a record, the page has at
                least one.

        Returns:
            An empty page at the tail of an open stream.
        """

    async def head(self, key: StreamKey) -> Head:
        """Return a stream's head: tail, earliest position and end reason.

        The head of an absent stream of an unfinished run is `ORIGIN`, without an end.
        """

    async def delete(self, key: StreamKey) -> None:
        """Delete a stream's records and end it with `deleted`. A second call has no effect."""

    def follow(
        self, key: StreamKey, after: Position | None = None, on_page: OnPage | None = None
    ) -> AsyncGenerator[Page, None]:
        """Yield the pages after a position, then each new page, from any writer.

        No page is empty. The iterator stops after a page with `end`. If the stream does not exist
        yet, the iterator waits for it. When the run is deleted, the iterator yields the end
        `deleted` at the follower's position. Closing the iterator releases its resources.

        Args:
            key: Which stream.
            after: Position to start after; None for the beginning.
            on_page: Receives a page in place of the iterator, in order, when this process appends
                to an open stream and the iterator waits. A store may ignore `on_page` and yield
                every page. The iterator raises the exception of `on_page`.
        """

    async def create_run(self, run: Run) -> Run:
        """Store a new run. The first record of its `$run` stream is the whole run.

        The store also appends `{"id", "version", "run"}` to the log of each set of the run,
        atomically.

        If the run has an idempotency key that a run of the same task used, and the key has not
        expired, nothing is stored. Of several concurrent calls, one creates the run.

        Returns:
            The stored run; if the key was used before, the run that used it.

        Raises:
            RunExists: the id is taken.
            InvalidValue: a field has the wrong type, so the run could not be read back.
        """

    async def patch_run(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        *,
        operations: Sequence[Operation] = (),
        writer: Writer | None = None,
    ) -> Run:
        """Change a run and append the change to its `$run` stream, atomically.

        In the same transaction, the store appends `{"id", "version", "patch"}` to the log of each
        set that the run belonged to, including the sets that it leaves. It appends
        `{"id", "version", "run"}` to the log of each set that the run enters.

        A final status ends every stream of the run, reserved streams included, with that status as
        the reason.

        Args:
            run_id: Which run.
            patch: New field values. Metadata is merged (null deletes); other fields are replaced.
            operations: Operations on the metadata, applied in order after the patch. The `$run`
                stream records their combined change.
            writer: Makes the call idempotent. Each call uses one number of the writer's sequence.

        Returns:
            The changed run; for a repeat, the current run.

        Raises:
            RunNotFound: there is no such run.
            IllegalTransition: the table in `model/runs.py` does not allow it (except a repeat).
            InvalidValue: the patch or an operation is invalid for this run.
            MetadataTooLarge: the metadata would exceed its limit.
            WriterFenced: a newer epoch of this writer was seen.
            WriterGap: an earlier change of this writer is missing.
        """

    async def get_run(self, run_id: str) -> RunState:
        """Return a run and the position in its log that it reflects.

        Raises:
            RunNotFound: there is no such run.
        """

    async def delete_run(self, run_id: str) -> bool:
        """Delete a run, finished or not, and everything that it owns, atomically.

        This removes its streams, their writers, its entries in lists and sets, and its idempotency
        key. Afterwards every method raises `RunNotFound` for it. Its children are not deleted. The
        store appends `{"id", "version", "deleted": true}` to the log of each of its sets.
        `version` is the number of changes that the run had.

        Returns:
            Whether the run existed; a second call has no effect.
        """

    async def sweep(self) -> SweepResult:
        """Apply the store's retention in one bounded step, by the store's clock.

        The gateway calls it periodically, and again immediately while `has_more` is true.
        Concurrent calls, on one node or several, are safe. In a store whose server sweeps, this
        method does nothing.
        """

    async def consume_token_use(self, token_id: str, uses: int, expires_at_ms: int) -> bool:
        """Consume one use of a token atomically.

        Args:
            token_id: The token's `jti`.
            uses: Total number of uses that the token allows.
            expires_at_ms: When the store may delete the count, milliseconds since 1970 UTC.

        Returns:
            Whether a use was left.
        """

    async def list_runs(self, query: RunQuery) -> list[Run]:
        """Return one page of runs, newest first.

        Fields over `LISTED_FIELD_BYTES` are omitted and named by `Run.omitted`. A page that would
        exceed `LIST_BYTES` has fewer than `limit` runs. To continue, pass the last id as `before`,
        or use `all_runs`. A page with fewer than `LEAST_LISTED_RUNS` runs is the last one.
        """

    async def list_set_runs(self, sets: Sequence[RunSet], limit: int) -> SetState:
        """Return the newest runs that belong to any of the sets, from one snapshot.

        Large fields are omitted as in a list, except the metadata. When the runs would exceed
        `LIST_BYTES`, there are fewer than `limit`, and `has_more` is true.

        Args:
            sets: One batch, one run's children, or one or more tags.
            limit: Maximum number of runs.
        """


@runtime_checkable
class PathStore(Store, Protocol):
    """A store that also stores streams of paths. Gateways need one; a worker's store has no paths.

    The logs of a path belong to no run. They exist from the first append on, and may be ended and
    deleted like any stream. Only `drop` removes them completely. A path's `$config` log retains
    its newest `CONFIG_RECORDS` records, at most twice as many.
    """

    def is_known_tail(self, key: StreamKey, after: Position) -> bool:
        """Whether the store knows, without a read, that an open log has no record after a position.

        False means that the store does not know; call `read`.
        """

    async def list_path_logs(self, after: StreamKey | None, limit: int) -> list[StreamKey]:
        """Return the keys of path logs in sorted order: at most `limit`, all after `after`."""

    async def drop(self, key: StreamKey, at: Position) -> bool:
        """Remove a path's log and its writers completely, if its tail is still at `at`.

        The next append creates the log again, with another epoch.

        Returns:
            Whether the log was removed.

        Raises:
            InvalidId: the log is not a path's.
        """


async def all_runs(store: Store, query: RunQuery) -> list[Run]:
    """Return the runs of a query, without large fields; reads as many pages as necessary."""
    found: list[Run] = []
    before = query.before
    while (left := query.limit - len(found)) > 0:
        limit = min(left, MAX_LISTED_RUNS)
        page = await store.list_runs(dataclasses.replace(query, before=before, limit=limit))
        found += page
        if len(page) < min(limit, LEAST_LISTED_RUNS):
            break
        before = page[-1].id
    return found


async def whole_run(store: Store, run: Run) -> Run | None:
    """Return a listed run with all its fields; None if the run was deleted since."""
    if not run.omitted:
        return run
    try:
        return (await store.get_run(run.id)).run
    except RunNotFound:
        return None


async def find_run(store: Store, run_id: str) -> RunState | None:
    """Return a run and its position, or None if the store has no such run."""
    try:
        return await store.get_run(run_id)
    except RunNotFound:
        return None


def encode_json(value: Any, what: str) -> bytes:
    """Encode a run or a patch as JSON.

    Raises:
        InvalidValue: a value cannot be encoded as JSON.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise InvalidValue(f"{what} cannot be kept as JSON: {error}") from None


def end_of(run: Run) -> EndReason | None:
    """Return the end reason of a run's streams; None if the run is not finished."""
    return run.status if run.is_finished else None  # type: ignore[return-value]


def new_epoch(now_ms: int) -> str:
    """Return a new epoch for a stream: 11 hex digits of time, so that it sorts, and 5 random."""
    return f"{now_ms:011x}{secrets.randbits(20):05x}"


def system_clock_ms() -> int:
    """Return milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
