"""The queue between `metadata.set` and the store: ordered, batched, never applied twice.

There is one writer for each pair of source run and target run. Any thread may add operations. One
task on the runtime's event loop sends the queued operations about every 100 ms, as one atomic batch
with a sequence number. A batch whose outcome is unknown is sent again unchanged, so that the store
recognizes a duplicate.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gateway._internal import forks
from gateway.errors import InvalidValue, RealtimeError, WriterFull, WriterGap
from gateway.model.limits import MAX_METADATA_BYTES, MAX_OPERATIONS
from gateway.model.patches import Fold, Operation
from gateway.model.records import Writer
from gateway.sdk.writers.stream_writer import FailureSink
from gateway.stores.base import Store

FLUSH_S = 0.1  # how long operations are collected into a batch
MAX_WAITING_OPERATIONS = 100_000  # not yet durable; about 300 bytes each, plus their values
MAX_BATCH_BYTES = 2 * MAX_METADATA_BYTES
ATTEMPTS = 6  # to send a batch, before a flush raises; about 3 s in all
FIRST_RETRY_S = 0.2

_log = logging.getLogger("realtime.writer")


class _Item(NamedTuple):
    operation: Operation
    size: int


class MetadataWriter:
    """Changes one run's metadata in order. Made by the runtime; see `Metadata`.

    Args:
        store: Holds the run.
        run_id: The run whose metadata changes.
        writer_id: Lets the store recognize duplicates.
        loop: The runtime's event loop.
        known: The metadata as last read.
        attempt: The attempt of the run that writes its own metadata; the store refuses it once a
            later attempt has begun. None: the metadata is another run's.
        flush_s: How long operations are collected into a batch.
        random: Returns a number from 0 to 1.
    """

    def __init__(
        self,
        store: Store,
        run_id: str,
        writer_id: str,
        loop: asyncio.AbstractEventLoop,
        known: Mapping[str, Any],
        attempt: int | None = None,
        *,
        flush_s: float = FLUSH_S,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._run_id = run_id
        self._id = writer_id
        self._loop = loop
        self._known = known
        self._patch_fields = {} if attempt is None else {"attempt": attempt}
        self._flush_s = flush_s
        self._random = random
        self._lock = threading.Lock()
        self._waiting: deque[_Item] = deque()
        self._epoch = self._sequence = 0
        self._unanswered = 0  # operations at the head of the queue that were sent, perhaps applied
        self._is_draining = False
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._refusal: RealtimeError | None = None  # the first that reached no caller
        self._outage: Exception | None = None
        self._process = forks.here
        self.failure_sink: FailureSink | None = None  # None: a run's end reports what fails

    def __del__(self) -> None:
        if self.failure_sink is not None and (failure := self._refusal or self._outage) is not None:
            self.failure_sink.report_failure(str(self), failure)

    def __str__(self) -> str:
        return f"metadata of run {self._run_id}"

    # ---- any thread ----

    def put(self, operation: Operation, size: int) -> None:
        """Queue an operation.

        Args:
            operation: A change of the metadata.
            size: Size of its value as JSON, in bytes.

        Raises:
            WriterFull: 100,000 operations are queued.
            NotStarted: this is a forked child of the process that made the writer.
        """
        if self._process is not forks.here:
            raise forks.not_here(f"the metadata of run {self._run_id}")
        with self._lock:
            if len(self._waiting) >= MAX_WAITING_OPERATIONS:
                raise WriterFull(
                    f"metadata of run {self._run_id}: {len(self._waiting)} operations wait; the "
                    f"limit is {MAX_WAITING_OPERATIONS}: await metadata.flush() now and then"
                )
            self._waiting.append(_Item(operation, size))
            is_first = not self._is_draining
            self._is_draining = True
        if is_first:
            self._loop.call_soon_threadsafe(self._start)

    def view(self) -> dict[str, Any]:
        """Return the last known metadata with the queued operations applied."""
        with self._lock:
            known, waiting = self._known, list(self._waiting)
        view = Fold(known)
        for item in waiting:
            try:
                view.add(item.operation)
            except InvalidValue:
                pass  # the store will refuse it too, and a flush raises that
        return view.result()

    # ---- the event loop ----

    async def flush(self) -> None:
        """Send the queued operations without delay, and wait until they are durable.

        Raises:
            RealtimeError: the store refused an operation, which is dropped while all others are
                applied; or the store is unavailable, and the operations stay queued.
        """
        self._hurry.set()
        try:
            while self._start_again():
                assert self._task is not None
                await asyncio.shield(asyncio.wait({self._task}))
                if (outage := self._outage) is not None:
                    self._outage = None
                    raise outage
        finally:
            self._hurry.clear()
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise refusal

    def _start_again(self) -> bool:
        with self._lock:
            if not self._waiting:
                return False
            self._is_draining = True
        self._start()
        return True

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._drain(), name=f"metadata of {self._run_id}")

    async def _drain(self) -> None:
        while True:
            try:
                if not await self._gather():
                    return
                await self._send(self._next_batch())
            except asyncio.CancelledError:
                pass  # by code that cancels all tasks; sending again is safe
            except Exception as outage:
                outage.__traceback__ = None
                self._outage = outage
                with self._lock:
                    self._is_draining = False  # the next put or flush starts again
                return

    async def _gather(self) -> bool:
        """Wait for more operations of the batch; false if the queue is empty."""
        with self._lock:
            if not self._waiting:
                self._is_draining = False
                return False
        try:
            await asyncio.wait_for(self._hurry.wait(), self._flush_s)
        except TimeoutError:
            pass  # the normal case: no flush is waiting
        return True

    def _next_batch(self) -> list[Operation]:
        with self._lock:
            if self._unanswered:  # unchanged, or it could be applied twice
                return [self._waiting[i].operation for i in range(self._unanswered)]
            batch: list[Operation] = []
            size = 0
            for item in self._waiting:
                size += item.size
                if batch and (size > MAX_BATCH_BYTES or len(batch) >= MAX_OPERATIONS):
                    break
                batch.append(item.operation)
            return batch

    async def _send(self, batch: list[Operation]) -> None:
        try:
            await self._patch(batch)
        except RealtimeError as error:
            if error.retryable:
                raise
            if len(batch) > 1:  # find the refused operation; the others are applied
                for operation in batch:
                    await self._send([operation])
                return
            error.__traceback__ = None  # its frames would keep the writer alive
            self._refusal = self._refusal or error
            self._settle(1)

    async def _patch(self, batch: list[Operation]) -> None:
        self._unanswered = len(batch)
        for attempt in range(ATTEMPTS):
            writer = Writer(self._id, self._epoch, self._sequence)
            try:
                run = await self._store.patch_run(
                    self._run_id, self._patch_fields, operations=batch, writer=writer
                )
            except WriterGap as error:
                # The store has lost changes that it had acknowledged: a backup was restored, or a
                # failover lost them. Nothing of this batch was applied.
                _log.warning(
                    "metadata of run %s: the store has lost changes that it had acknowledged (%s); "
                    "those that wait are sent again",
                    self._run_id,
                    error,
                    extra={"run": self._run_id},
                )
                self._epoch, self._sequence = self._epoch + 1, 0
            except RealtimeError as error:
                if not error.retryable:
                    self._unanswered = 0  # refused: nothing of the batch was applied
                    raise
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(self._random() * FIRST_RETRY_S * 2**attempt)
            else:
                self._sequence += 1
                self._settle(len(batch), run.metadata)
                return

    def _settle(self, count: int, known: Mapping[str, Any] | None = None) -> None:
        with self._lock:
            for _ in range(count):
                self._waiting.popleft()
            self._unanswered = 0
            if known is not None:
                self._known = known
