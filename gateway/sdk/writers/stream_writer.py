"""The queue between `append` and the store: ordered, bounded, never dropping.

There is one writer for each pair of source run and target stream. Any thread may append. One task
on the runtime's event loop sends the queued records to the store in atomic batches, with a writer
id and a sequence number, so that a retry after a lost connection makes no duplicates.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from gateway._internal import forks, tracing
from gateway.errors import Internal, RealtimeError, RecordTooLarge, WriterFull
from gateway.model.limits import DEFAULT_LIMITS, MAX_APPEND_RECORDS
from gateway.model.records import StreamKey, Writer
from gateway.stores.base import Store

MAX_WAITING_BYTES = 16 << 20  # per writer, of records not yet durable
MAX_WAITING_RECORDS = 200_000  # per writer; about 300 bytes each, plus their data
MAX_RECORD_BYTES = DEFAULT_LIMITS.record_bytes
MAX_APPEND_BYTES = 512 << 10

_log = logging.getLogger("realtime.writer")


class Receipt:
    """What `append` returns: await it (or call `wait`) to know that the record is durable.

    Attributes:
        offset: The record's offset once durable, else None.
    """

    __slots__ = ("_error", "_writer", "is_done", "offset")

    def __init__(self, writer: StreamWriter) -> None:
        self.offset: int | None = None
        self.is_done = False
        self._error: RealtimeError | None = None
        self._writer = writer

    def __await__(self) -> Generator[Any, None, int | None]:
        if not self.is_done:
            # Shielded: a canceled awaiter must not cancel the future for others.
            yield from asyncio.shield(asyncio.wrap_future(self._writer.future(self))).__await__()
        return self._outcome()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait in a plain thread, not in the thread of the event loop.

        Returns:
            The record's offset.

        Raises:
            RealtimeError: the record could not be written.
            TimeoutError: it is not durable yet.
            RuntimeError: called on the event loop, which would wait for itself.
        """
        if not self.is_done:
            self._writer.ensure_not_on_loop("receipt.wait() is for plain threads; here, await it")
            self._writer.future(self).result(timeout_s)
        return self._outcome()

    def _outcome(self) -> int | None:
        if self._error is not None:
            self._writer.mark_reported(self._error)
            raise self._error
        return self.offset

    def settle(self, offset: int | None, error: RealtimeError | None) -> None:
        """Set the outcome; called by the writer."""
        self.offset, self._error, self.is_done = offset, error, True


class FailureSink(Protocol):
    """Receives the failures of a writer that no run's end reports."""

    def writer_failed(self, writer: StreamWriter) -> None:
        """Record that an append was refused; its receipt may still be awaited."""

    def report_failure(self, subject: str, error: Exception) -> None:
        """Report a failure that can no longer reach a caller."""


class _Item(NamedTuple):
    data: bytes
    receipt: Receipt


class StreamWriter:
    """Appends to one stream in order. Made by the runtime; see `Stream.append`.

    Args:
        store: Holds the stream.
        key: The stream.
        source: The calling run and its attempt; see `records.source_of`.
        writer_id: Lets the store recognize duplicates.
        loop: The runtime's event loop.
    """

    def __init__(
        self,
        store: Store,
        key: StreamKey,
        source: str | None,
        writer_id: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._store = store
        self._key = key
        self._source = source
        self._id = writer_id
        self._loop = loop
        self._lock = threading.Lock()
        self._space = threading.Condition(self._lock)
        self._waiting: deque[_Item] = deque()
        self._waiting_bytes = 0
        self._epoch = self._sequence = 0
        self._is_draining = False
        self._trace: Any = None  # trace context of the last queued record
        self._futures: dict[Receipt, Future[None]] = {}
        self._error: RealtimeError | None = None  # the first that reached no caller
        self._process = forks.here
        self.failure_sink: FailureSink | None = None  # None: a run's end reports what fails

    def __del__(self) -> None:
        # Every receipt refers to its writer, so no receipt is left that could be awaited.
        if self.failure_sink is not None and self._error is not None:
            self.failure_sink.report_failure(str(self), self._error)

    def __str__(self) -> str:
        return f"stream {self._key}"

    # ---- any thread ----

    def put(self, data: bytes) -> Receipt:
        """Queue a record.

        If the queue is full (16 MiB or 200,000 records), a plain thread blocks until there is
        room. The event loop must not block: there, the call raises and the record is not queued.

        Raises:
            RecordTooLarge: the record is over 1 MiB.
            WriterFull: the queue is full.
            NotStarted: this is a forked child of the process that made the writer.
        """
        if self._process is not forks.here:
            raise forks.not_here(f"the writer of stream {self._key}")
        if len(data) > MAX_RECORD_BYTES:
            raise RecordTooLarge(
                f"stream {self._key}: record is {len(data)} bytes; the limit is {MAX_RECORD_BYTES}"
            )
        receipt = Receipt(self)
        with self._space:
            self._wait_for_room(len(data))
            self._waiting.append(_Item(data, receipt))
            self._trace = tracing.current_context()
            self._waiting_bytes += len(data)
            is_first = not self._is_draining
            self._is_draining = True
        if is_first:
            self._loop.call_soon_threadsafe(self._start)
        return receipt

    def _wait_for_room(self, size: int) -> None:
        while self._is_full(size):
            if self._is_on_loop():
                raise WriterFull(
                    f"stream {self._key}: {len(self._waiting)} records ({self._waiting_bytes} B) "
                    f"wait; the limit is {MAX_WAITING_RECORDS} ({MAX_WAITING_BYTES} B): "
                    "await append(...) now and then, or use pipe"
                )
            self._space.wait()

    def _is_full(self, size: int) -> bool:
        return len(self._waiting) >= MAX_WAITING_RECORDS or (
            bool(self._waiting) and self._waiting_bytes + size > MAX_WAITING_BYTES
        )

    def future(self, receipt: Receipt) -> Future[None]:
        """Return a future that ends when the receipt is settled."""
        if self._process is not forks.here:
            raise forks.not_here(f"the writer of stream {self._key}")
        with self._lock:
            future: Future[None] = Future()
            if receipt.is_done:
                future.set_result(None)
            else:
                future = self._futures.setdefault(receipt, future)
        return future

    def ensure_not_on_loop(self, message: str) -> None:
        """Raise a RuntimeError on the event loop, where a blocking wait would wait for itself."""
        if self._is_on_loop():
            raise RuntimeError(message)

    def _is_on_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def mark_reported(self, error: RealtimeError) -> None:
        """Record that a caller has received a failure: a flush does not raise it again."""
        if self._error is error:
            self._error = None

    # ---- the event loop ----

    def _start(self) -> None:
        self._task = self._loop.create_task(self._send_all(), name=f"writer {self._key}")
        self._task.add_done_callback(self._start_again)

    def _start_again(self, ended: asyncio.Task[None]) -> None:
        if ended.cancelled():  # before it began
            self._start()

    async def _send_all(self) -> None:
        while batch := self._next_batch():
            self._settle(batch, *await self._appended(batch))

    async def _appended(self, batch: list[_Item]) -> tuple[int | None, RealtimeError | None]:
        while True:
            try:
                return await self._append(batch)
            except asyncio.CancelledError:
                pass  # by code that cancels all tasks; sending again is safe

    def _next_batch(self) -> list[_Item]:
        with self._lock:
            batch: list[_Item] = []
            size = 0
            for item in self._waiting:
                if batch and (
                    size + len(item.data) > MAX_APPEND_BYTES or len(batch) >= MAX_APPEND_RECORDS
                ):
                    break
                batch.append(item)
                size += len(item.data)
            if not batch:
                self._is_draining = False
            return batch

    async def _append(self, batch: list[_Item]) -> tuple[int | None, RealtimeError | None]:
        writer = Writer(self._id, self._epoch, self._sequence)
        span = tracing.span(
            f"append {self._key.stream_id}",
            kind="producer",
            parent=self._trace,
            records=len(batch),
            **self._key.named(),
        )
        try:
            with span:
                done = await self._store.append(
                    self._key, [item.data for item in batch], source=self._source, writer=writer
                )
        except RealtimeError as error:
            # The outcome may be unknown. The new epoch keeps the store from taking the next append
            # for a duplicate of this one and dropping it.
            self._epoch, self._sequence = self._epoch + 1, 0
            return None, error
        except Exception:
            _log.exception("stream %s: an append failed", self._key, extra=self._key.named())
            self._epoch, self._sequence = self._epoch + 1, 0
            return None, Internal(f"stream {self._key}: an append failed; the log has more")
        self._sequence += len(batch)
        return done.offset, None

    def _settle(self, batch: list[_Item], offset: int | None, error: RealtimeError | None) -> None:
        with self._space:
            for index, item in enumerate(batch):
                item.receipt.settle(None if offset is None else offset + index, error)
                self._waiting.popleft()
                self._waiting_bytes -= len(item.data)
            self._error = self._error or error
            futures = (
                [self._futures.pop(item.receipt, None) for item in batch] if self._futures else []
            )
            self._space.notify_all()
        if error is not None and self.failure_sink is not None:
            error.__traceback__ = None  # its frames would keep the writer alive
            self.failure_sink.writer_failed(self)
        for future in futures:
            if future is not None and not future.done():
                future.set_result(None)

    async def drain(self) -> None:
        """Wait until the outcome of all records queued so far is known."""
        with self._lock:
            last = self._waiting[-1].receipt if self._waiting else None
        if last is not None:
            await asyncio.shield(asyncio.wrap_future(self.future(last)))

    async def flush(self) -> None:
        """Wait until all records queued so far are durable.

        Raises:
            RealtimeError: the first failure that has reached no caller.
        """
        await self.drain()
        error, self._error = self._error, None
        if error is not None:
            raise error
