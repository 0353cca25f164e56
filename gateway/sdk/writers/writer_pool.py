"""The writers of one process: one for each calling run, attempt and target."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import MutableMapping, Sequence
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from gateway.errors import NotInRun, RealtimeError
from gateway.model.records import StreamKey, source_of
from gateway.sdk.context import RunContext, target_run, thread_hint
from gateway.sdk.writers.metadata_writer import MetadataWriter
from gateway.sdk.writers.stream_writer import StreamWriter
from gateway.stores.base import Store

RECENT_WRITERS = 64  # kept for reuse outside runs; about 2 KiB each

_log = logging.getLogger("realtime.writer")


class Flushable(Protocol):
    """A writer whose queue can be awaited.

    Attributes:
        failure_sink: Receives a failure that reached no caller.
    """

    failure_sink: Any

    async def flush(self) -> None:
        """Wait until everything queued is stored."""


W = TypeVar("W", bound=Flushable)


class WriterPool:
    """Finds or makes writers, and flushes them.

    Args:
        store: Open.
        loop: The event loop of the runtime.
    """

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._loop = loop
        # Keys end with the id of the calling run. The end of a run flushes and drops its writers.
        self._writers: dict[tuple[StreamKey, int, str | None], StreamWriter] = {}
        self._metadata_writers: dict[tuple[str, int, str], MetadataWriter] = {}
        # No run's end flushes these. A writer stays in memory while it has work, or while a receipt
        # or a pipe refers to it.
        self._unowned: WeakValueDictionary[tuple[StreamKey, int, str | None], StreamWriter]
        self._unowned = WeakValueDictionary()
        self._unowned_metadata: WeakValueDictionary[tuple[str, int, str], MetadataWriter]
        self._unowned_metadata = WeakValueDictionary()
        self._recent: OrderedDict[StreamWriter, None] = OrderedDict()
        self._lock = threading.Lock()
        self.unreported: Exception | None = None  # the first failure that reached no caller

    def stream_writer(
        self, stream_id: str, target: str, context: RunContext | None
    ) -> StreamWriter:
        """Return the calling run's writer to a target's stream.

        Raises:
            NoParent: the target needs a calling run, or a parent, and there is none.
        """
        by, attempt = (context.id, context.attempt) if context is not None else (None, 1)
        key = StreamKey(target_run(target, context), stream_id)
        with self._lock:
            writer = self._writers.get((key, attempt, by))
            if writer is not None:
                return writer
            if context is None or context.has_returned:
                return self._unowned_writer(key, attempt, by)
            writer = self._new_writer(key, attempt, by)
            self._writers[key, attempt, by] = writer
        return writer

    def _new_writer(self, key: StreamKey, attempt: int, by: str | None) -> StreamWriter:
        source = source_of(by, attempt) if by is not None else None
        return StreamWriter(self._store, key, source, secrets.token_urlsafe(12), self._loop)

    def _unowned_writer(self, key: StreamKey, attempt: int, by: str | None) -> StreamWriter:
        """Return a writer that no run's end flushes."""
        writer = self._unowned.get((key, attempt, by))
        if writer is None:
            writer = self._unowned[key, attempt, by] = self._new_writer(key, attempt, by)
            writer.failure_sink = self
        # Reuse recent writers: a store keeps state for every writer id of a stream.
        self._recent[writer] = None
        self._recent.move_to_end(writer)
        if len(self._recent) > RECENT_WRITERS:
            self._recent.popitem(last=False)
        return writer

    def metadata_writer(self, target: str, context: RunContext | None) -> MetadataWriter:
        """Return the calling run's writer to a target's metadata.

        Raises:
            NotInRun: called outside a task.
            NoParent: the target is a parent, and the run has none.
        """
        if context is None:
            raise NotInRun(
                f"metadata belongs to a run: it can be changed inside a task{thread_hint()}"
            )
        run_id = target_run(target, context)
        with self._lock:
            writers = self._unowned_metadata if context.has_returned else self._metadata_writers
            writer = writers.get((run_id, context.attempt, context.id))
            if writer is None:
                known = context.metadata if run_id == context.id else {}
                id = secrets.token_urlsafe(12)
                attempt = context.attempt if run_id == context.id else None
                writer = MetadataWriter(self._store, run_id, id, self._loop, known, attempt)
                writer.failure_sink = self if context.has_returned else None
                writers[run_id, context.attempt, context.id] = writer
        return writer

    def writer_failed(self, writer: StreamWriter) -> None:
        """Drop a failed writer from the recent ones.

        Its failure is then reported as soon as no receipt refers to the writer.
        """
        self._recent.pop(writer, None)

    def report_failure(self, subject: str, error: Exception) -> None:
        """Log a failure that reached no caller, and keep the first for the end of `connect()`."""
        self.unreported = self.unreported or error
        _log.error("%s: refused, and no receipt was awaited: %s", subject, error)

    async def flush_metadata(self, source: str) -> None:
        """Wait until a run's metadata operations are durable.

        Raises:
            RealtimeError: the first failure that has reached no caller.
        """
        with self._lock:
            writers = _writers_of(self._metadata_writers, source)
        await _flush_each(writers)

    async def flush(self, source: str | None, *, forget: bool = False) -> None:
        """Wait until a run's records and metadata operations are durable.

        Args:
            source: The run; None for records that were appended outside runs.
            forget: Drop the run's writers: the run is over.

        Raises:
            RealtimeError: the first failure that has reached no caller.
        """
        with self._lock:
            streams = _writers_of(self._writers, source, forget)
            streams += _writers_of(self._unowned, source)
            metadata = _writers_of(self._metadata_writers, source, forget)
            metadata += _writers_of(self._unowned_metadata, source)
        writers: list[Flushable] = [*streams, *metadata]
        if forget:
            for writer in writers:
                # A thread or task that outlives its function may still append with this writer.
                writer.failure_sink = self
        await _flush_each(writers)

    async def flush_all(self) -> None:
        """Wait until everything is durable; report the failures that no run's end reports."""
        with self._lock:
            writers: list[Flushable] = [*self._writers.values(), *self._metadata_writers.values()]
            writers += [*self._unowned.values(), *self._unowned_metadata.values()]
            self._recent.clear()
        for writer in writers:
            error = await _failure(writer)
            if error is not None and writer.failure_sink is not None:
                self.report_failure(str(writer), error)


def _writers_of(
    writers: MutableMapping[Any, W], source: str | None, forget: bool = False
) -> list[W]:
    """Find the writers of a run; their keys end with its id."""
    found = {key: writer for key, writer in list(writers.items()) if key[-1] == source}
    if forget:
        for key in found:
            del writers[key]
    return list(found.values())


async def _flush_each(writers: Sequence[Flushable]) -> None:
    failures = [error for writer in writers if (error := await _failure(writer))]
    if failures:
        raise failures[0]


async def _failure(writer: Flushable) -> RealtimeError | None:
    try:
        await writer.flush()
    except RealtimeError as error:
        return error
    return None
