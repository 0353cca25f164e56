"""The contract of a store, and what every store shares. The docstrings of `Store` are the contract.

One suite (`tests/stores/test_contract*.py`) holds every store to it.
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

PAGE_BYTES = 256 << 10  # of record data in one page: what a reader holds at a time
SET_RECORDS = 1000  # kept of a set's log, up to twice that: a reader who lags more begins anew
CONFIG_RECORDS = 8  # kept of a path's configuration, of which only the last counts


OnAppended = Callable[["Appended | Exception"], None]
"""Told what an append did, or why it was refused."""


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
"""Takes a page at once, where it is appended; see `Store.follow`."""


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
            source: Run on whose behalf this is written, and its attempt, as `records.source_of`
                names them; None for a client outside any run.
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
        """Begin what `append` does, for many appends at once that are not to cost a task each.

        What was begun so on one stream is done in that order.

        Args:
            key: Which stream.
            records: See `append`.
            done: Called once, on the event loop, maybe before this returns: with what was done, or
                with what `append` would have raised. It must not raise.
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

    def follow(
        self, key: StreamKey, after: Position | None = None, on_page: OnPage | None = None
    ) -> AsyncGenerator[Page, None]:
        """Yield pages from a position on, then as they are appended, whoever appended them.

        Never an empty page. The iterator stops after a page with `end`. A stream that does not
        exist yet is waited for. When its run is deleted a stream that is followed ends with
        `deleted`, where the follower stands. Closing the iterator frees what it held.

        Args:
            key: Which stream.
            after: Position to go on from; None for the beginning.
            on_page: Called with a page in place of yielding it, in order: for pages that this
                process appends to an open stream while the iterator waits. A store may do so
                or yield every page. The iterator raises what `on_page` raises.
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
            InvalidValue: a field is of the wrong kind; the run could never be read.
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
            patch: Of its fields: metadata is merged (null deletes), others are replaced.
            operations: On its metadata, after the patch, in order; in the stream is the change
                that they come to.
            writer: Makes a repeat harmless: each call takes one number of its sequence.

        Returns:
            The run after it; for a repeat, as it is now.

        Raises:
            RunNotFound: there is no such run.
            IllegalTransition: the table in `model/runs.py` does not allow it (except a repeat).
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

    async def sweep(self) -> SweepResult:
        """Do one bounded step of what the store's retention asks for, by the store's own clock.

        The gateway calls it now and then, and again at once while there is more. Several at once,
        on one node or many, do no harm. A store whose other side sweeps has nothing to do.
        """

    async def consume_token_use(self, token_id: str, uses: int, expires_at_ms: int) -> bool:
        """Take one use of a token, as one atomic unit.

        Args:
            token_id: The token's `jti`.
            uses: How many it has in all.
            expires_at_ms: When it may be forgotten, milliseconds since 1970 UTC.

        Returns:
            Whether one was left.
        """

    async def list_runs(self, query: RunQuery) -> list[Run]:
        """Return one page of runs, newest first.

        Fields over `LISTED_FIELD_BYTES` are left out, and named by `Run.omitted`. Fewer than
        `limit` come when the page would be over `LIST_BYTES`: go on with the last id as `before`,
        or use `all_runs`. `LEAST_LISTED_RUNS` come in any case: a shorter page is the last.
        """

    async def list_set_runs(self, sets: Sequence[RunSet], limit: int) -> SetState:
        """Return the newest runs of any of the sets, seen in one moment.

        Large fields are left out as in a list, but for the metadata. Fewer than `limit` come, and
        `has_more` is true, when the runs are over `LIST_BYTES`.

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

    def is_known_tail(self, key: StreamKey, after: Position) -> bool:
        """Whether it knows, without looking, that a log has nothing after a position as yet.

        False says nothing: then `read` tells.
        """

    async def list_path_logs(self, after: StreamKey | None, limit: int) -> list[StreamKey]:
        """Return keys of the logs of paths in their order, those after a key, up to a number."""

    async def drop(self, key: StreamKey, at: Position) -> bool:
        """Forget a path's log, writers and all, if it still ends at `at`: as if it had never been.

        The next append makes it anew, with another epoch.

        Returns:
            Whether it did.

        Raises:
            InvalidId: the log is not a path's.
        """


async def all_runs(store: Store, query: RunQuery) -> list[Run]:
    """Return the runs of a query over as many pages as they take, large fields left out."""
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
    """Return a run of a list with all its fields; None if it was deleted since."""
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
    return run.status if run.is_finished else None  # type: ignore[return-value]


def new_epoch(now_ms: int) -> str:
    """Name a stream's storage: 11 hex digits of time, so that it sorts, and 5 of chance."""
    return f"{now_ms:011x}{secrets.randbits(20):05x}"


def system_clock_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000
