"""Copy a store into another and preserve all positions.

The copy of a stream has the same epoch, offsets, times and writers. A run is copied after its
streams. The progress of a copy is stored in the target only, so a second call resumes an
interrupted copy. At the end, each stream is read in both stores and compared by a hash.

The logs of run sets are not copied: no client has a position in them, and the target creates new
ones. The uses of trigger tokens are copied, because a used token could otherwise be used again.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from gateway.errors import ConfigurationError, StoreUnavailable
from gateway.model.log import NO_RECORDS, Head, RunQuery
from gateway.model.records import REVOCATIONS, EndReason, Position, Record, StreamKey
from gateway.model.runs import Run
from gateway.stores.base import PathStore
from gateway.stores.idempotency import WriterState

PAGE_BYTES = 64 << 10  # copied in one call, and stored as one unit
PAGE_RUNS = 500


class StreamExtras(NamedTuple):
    """The state of a stream other than its records.

    Attributes:
        end: The end reason that readers get; None for an open stream.
        order: The order of the last append that had one.
        writers: States of the writers, by writer id.
    """

    end: EndReason | None
    order: str | None
    writers: Mapping[str, WriterState]


class TokenUsage(NamedTuple):
    """Consumed uses of a token.

    Attributes:
        token_id: The token's `jti`.
        uses: How many were consumed.
        expires_at_ms: When the store may delete the count, milliseconds since 1970 UTC.
    """

    token_id: str
    uses: int
    expires_at_ms: int


@runtime_checkable
class CopyableStore(PathStore, Protocol):
    """A store that can be the source or the target of a copy."""

    async def stream_ids(self, run_id: str) -> list[str]:
        """Return the ids of all streams of a run, including the reserved ones."""

    async def stream_head(self, key: StreamKey) -> Head | None:
        """Return a stream's head even if its run does not exist; None if there is no stream.

        Its `end` is the one stored with the stream. A stream that its run ended may store none.
        """

    async def stream_extras(self, key: StreamKey) -> StreamExtras:
        """Return a stream's state other than its records; empty for an absent stream."""

    async def import_records(
        self, key: StreamKey, at: Position, records: Sequence[Record], rest: StreamExtras | None
    ) -> None:
        """Append unchanged records to a stream, atomically.

        The store checks neither the stream's end nor its run. It notifies no followers and writes
        no record to `$streams`.

        Args:
            key: Which stream; an absent one is created at `at`, with the epoch of `at`.
            at: The expected tail of the stream.
            records: Records with contiguous offsets from `at` on.
            rest: The stream's other state, passed with its last records; None before them.

        Raises:
            StoreUnavailable: the tail is not at `at`.
        """

    async def import_run(self, run: Run) -> None:
        """Store an unchanged run, after its streams. It replaces a run with the same id.

        The run becomes a member of its sets, and its idempotency key refers to it.
        """

    def iter_token_uses(self) -> AsyncIterator[TokenUsage]:
        """Yield the uses of tokens that have not expired."""

    async def import_token_uses(self, spent: TokenUsage) -> None:
        """Store consumed uses of a token; a larger stored number is not lowered."""


class CopySummary(NamedTuple):
    """Counts of a finished copy.

    Attributes:
        runs: Number of runs.
        streams: Number of streams: of runs, of paths, and the log of revoked tokens.
        records: Number of records in these streams.
    """

    runs: int
    streams: int
    records: int


Progress = Callable[[int, int], None]


async def copy_store(
    source: CopyableStore, target: CopyableStore, progress: Progress = lambda done, of: None
) -> CopySummary:
    """Copy all streams and runs, then compare source and target.

    Args:
        source: An open store without writes during the copy.
        target: An open store: empty, or with an interrupted copy of the same source.
        progress: Called with the number of finished steps and the total. Each run and each path
            log is two steps: copy and compare.

    Raises:
        ConfigurationError: the target has other data.
        StoreUnavailable: the copy failed or differs from the source; the message names the place.
    """
    run_ids = await _run_ids(source)
    loose = [REVOCATIONS, *[key async for key in _path_logs(source)]]
    done, of = 0, 2 * (len(run_ids) + len(loose))
    for run_id in run_ids:
        for key in await _streams(source, run_id):
            await _copy_stream(source, target, key)
        await target.import_run((await source.get_run(run_id)).run)
        progress(done := done + 1, of)
    for key in loose:
        await _copy_stream(source, target, key)
        progress(done := done + 1, of)
    async for spent in source.iter_token_uses():
        await target.import_token_uses(spent)
    streams = records = 0
    for run_id in run_ids:
        await _compare_run(source, target, run_id)
        of_run = await _streams(source, run_id)
        records += await _compare_streams(source, target, of_run)
        streams += len(of_run)
        progress(done := done + 1, of)
    for key in loose:
        records += await _compare_streams(source, target, [key])
        streams += await source.stream_head(key) is not None
        progress(done := done + 1, of)
    return CopySummary(len(run_ids), streams, records)


async def _run_ids(store: CopyableStore) -> list[str]:
    """Return all run ids, oldest first: the order in which the sets got the runs."""
    found: list[str] = []
    before: str | None = None
    while runs := await store.list_runs(RunQuery(before=before, limit=PAGE_RUNS)):
        found += [run.id for run in runs]
        before = runs[-1].id
    return found[::-1]


async def _path_logs(store: CopyableStore) -> AsyncIterator[StreamKey]:
    after: StreamKey | None = None
    while keys := await store.list_path_logs(after, PAGE_RUNS):
        for key in keys:
            yield key
        after = keys[-1]


async def _streams(store: CopyableStore, run_id: str) -> list[StreamKey]:
    return [StreamKey(run_id, stream_id) for stream_id in sorted(await store.stream_ids(run_id))]


async def _copy_stream(source: CopyableStore, target: CopyableStore, key: StreamKey) -> None:
    head = await source.stream_head(key)
    if head is None:
        return
    there = await target.stream_head(key)
    at = _place(key, head, there)
    rest = await source.stream_extras(key)
    if there is not None and at == head.position and await target.stream_extras(key) == rest:
        return  # an interrupted copy already completed this stream
    while True:
        page = await source.read(key, at, PAGE_BYTES)
        _check_page(key, at, page.reset or (page.gap and page.gap.reason))
        is_last = page.position.offset >= head.position.offset
        await target.import_records(key, at, page.records, rest if is_last else None)
        if is_last:
            return
        at = page.position


def _place(key: StreamKey, head: Head, there: Head | None) -> Position:
    """Return the position at which to resume the copy of a stream."""
    if there is None:
        return head.earliest
    is_part = there.position.epoch == head.position.epoch and (
        head.earliest.offset <= there.position.offset <= head.position.offset
    )
    if not is_part:
        raise ConfigurationError(
            f"the target has another stream {key}, at {there.position}; the source is at "
            f"{head.position}: copy into an empty store, or go on with a copy of this one"
        )
    return there.position


def _check_page(key: StreamKey, at: Position, why: str | None) -> None:
    if why is not None:
        raise StoreUnavailable(f"stream {key} has changed at {at} ({why}): stop who writes to it")


async def _compare_run(source: CopyableStore, target: CopyableStore, run_id: str) -> None:
    ours, theirs = await source.get_run(run_id), await target.get_run(run_id)
    if ours != theirs:
        raise StoreUnavailable(f"run {run_id} differs in the target: did somebody change it?")


async def _compare_streams(
    source: CopyableStore, target: CopyableStore, keys: Sequence[StreamKey]
) -> int:
    """Compare streams, and return how many records they have."""
    return sum([await _compare_stream(source, target, key) for key in keys])


async def _compare_stream(source: CopyableStore, target: CopyableStore, key: StreamKey) -> int:
    ours, theirs = await _digest(source, key), await _digest(target, key)
    if ours != theirs:
        raise StoreUnavailable(
            f"stream {key} differs: {ours.records} records to {ours.head.position} in the source, "
            f"{theirs.records} to {theirs.head.position} in the target; copy again"
        )
    return ours.records


class _Digest(NamedTuple):
    head: Head
    rest: StreamExtras
    records: int
    hash: bytes


async def _digest(store: CopyableStore, key: StreamKey) -> _Digest:
    """Return a stream's head, its other state, and a hash of its records."""
    if await store.stream_head(key) is None:
        return _Digest(NO_RECORDS, StreamExtras(None, None, {}), 0, b"")
    digest, records = hashlib.sha256(), 0
    head = await store.head(key)
    at = head.earliest
    while True:
        page = await store.read(key, at)
        for part in _parts(page.records):
            digest.update(part)
        records += len(page.records)
        if page.position.offset >= head.position.offset:
            return _Digest(head, await store.stream_extras(key), records, digest.digest())
        at = page.position


def _parts(records: Sequence[Record]) -> Iterator[bytes]:
    for record in records:
        yield b"%d %d %b %d\n" % (
            record.offset,
            record.time_ms,
            (record.source or "").encode(),
            len(record.data),
        )
        yield record.data
