"""The queue between `metadata.set` and the store: ordered, batched, never applied twice.

One writer for each (source run, target run). Operations may come from any thread; one task on the
runtime's event loop sends what has gathered, about every 100 ms, as one atomic unit under a
writer's sequence. A batch whose fate is unknown is sent again as it was, until the store answers.
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

FLUSH_S = 0.1  # how long operations gather
MAX_WAITING_OPERATIONS = 100_000  # not yet durable; about 300 bytes each beside their values
MAX_BATCH_BYTES = 2 * MAX_METADATA_BYTES
ATTEMPTS = 6  # to send a batch, before whoever flushes is told; about 3 s in all
FIRST_REST_S = 0.2

_log = logging.getLogger("realtime.writer")


class _Item(NamedTuple):
    operation: Operation
    size: int


class MetadataWriter:
    """Changes one run's metadata in order. Made by the runtime; see `Metadata`.

    Args:
        store: Where the run lives.
        run_id: Whose metadata.
        writer_id: Makes repeats harmless.
        loop: The runtime's event loop.
        known: The metadata as far as it is known.
        attempt: Of the run, that writes: refused once a later one has begun. None: another run's.
        flush_s: How long operations gather.
        random: Gives a number from 0 to 1.
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
        self._unanswered = 0  # of the first in line: sent, and perhaps carried out
        self._is_draining = False
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._refusal: RealtimeError | None = None  # the first that nobody has seen yet
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
        """Add an operation behind all that were put before.

        Args:
            operation: On the metadata.
            size: Bytes of its value as JSON.

        Raises:
            WriterFull: 100,000 operations wait.
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
        """Return the metadata as last told by the store, and what was put since."""
        with self._lock:
            known, waiting = self._known, list(self._waiting)
        view = Fold(known)
        for item in waiting:
            try:
                view.add(item.operation)
            except InvalidValue:
                pass  # the store will refuse it too; whoever flushes is told
        return view.result()

    # ---- the event loop ----

    async def flush(self) -> None:
        """Send at once what waits, and wait until it is durable.

        Raises:
            RealtimeError: the store refused an operation (it is dropped, all others are carried
                out), or could not be reached: then nothing is lost, and the next flush goes on.
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
                pass  # by code that cancels all tasks; a repeat is safe
            except Exception as outage:
                outage.__traceback__ = None
                self._outage = outage
                with self._lock:
                    self._is_draining = False  # until the next put or flush
                return

    async def _gather(self) -> bool:
        """Let operations come together; false if there are none."""
        with self._lock:
            if not self._waiting:
                self._is_draining = False
                return False
        try:
            await asyncio.wait_for(self._hurry.wait(), self._flush_s)
        except TimeoutError:
            pass  # the normal case: nobody is in a hurry
        return True

    def _next_batch(self) -> list[Operation]:
        with self._lock:
            if self._unanswered:  # as it was, or it could be carried out twice
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
            if len(batch) > 1:  # the one that does not fit must not cost the others
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
                # The store has forgotten changes that it had acknowledged: a backup was restored,
                # or a failover lost them. None of this batch was carried out.
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
                    self._unanswered = 0  # refused: nothing of it happened
                    raise
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(self._random() * FIRST_REST_S * 2**attempt)
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
