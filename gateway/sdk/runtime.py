"""The SDK's state in one process: a store, a runner, the writers.

A gateway's lifespan makes one, and `connect()` makes one for a worker or a script. A process has at
most one.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeVar

from gateway._internal import forks
from gateway.errors import NotStarted
from gateway.model.runs import Run, RunIds
from gateway.sdk import context
from gateway.sdk.context import RunContext, current_run
from gateway.sdk.options import IN_PROCESS, ONCE, Retry
from gateway.sdk.writers.metadata_writer import MetadataWriter
from gateway.sdk.writers.stream_writer import MAX_RECORD_BYTES, StreamWriter
from gateway.sdk.writers.writer_pool import WriterPool
from gateway.stores.base import Store, system_clock_ms
from gateway.stores.leases import ClusterStore

MAX_SLEEP_S = 60.0  # the wall clock may be set, or the machine suspended: check the time again

T = TypeVar("T")
Body = Callable[[Run], Coroutine[Any, Any, Any]]  # calls a task's function and returns the output


class RunExecutor(Protocol):
    """Executes runs in this process; `gateway.sdk.execution.runner.Runner` implements it.

    Attributes:
        owner: Name under which this process executes runs.
    """

    owner: str

    def start(self, run: Run, body: Body, retry: Retry = ONCE) -> None:
        """Execute a run as soon as it is due and a slot is free."""

    def has(self, run_id: str) -> bool:
        """Whether a run executes here or waits for its slot."""

    async def execute_queued(
        self, run: Run, body: Body, retry: Retry, requeue_owner: str | None = None
    ) -> Run:
        """Execute a run that a task queue delivered, and wait for it."""

    def time_out(self, run_id: str) -> None:
        """End a run that executes here as timed out."""

    def cancel_pending(self, run_id: str) -> None:
        """Drop a run that was canceled before it began."""

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        """Call a plain function in a thread, as the current run."""

    async def persist_with_retry(self, write: Callable[[], Awaitable[T]], run_id: str) -> T:
        """Write to the store, and retry while it is unavailable."""

    def warn_of_unfinished(self) -> None:
        """Log the runs that the end of `connect()` stops."""

    def waiting(self, context: RunContext) -> AbstractAsyncContextManager[None]:
        """Let a run release its slot while the block runs."""


class LeaseRenewer(Protocol):
    """Renews leases in a shared store; `LeaseHeartbeat` implements it.

    Attributes:
        store: The shared store.
        owner: This process.
        lease_s: How long a lease is valid.
        sleep: Waits for so many seconds.
    """

    store: ClusterStore
    owner: str
    lease_s: float
    sleep: Callable[[float], Awaitable[None]]

    @property
    def healthy_for_s(self) -> float:
        """For how long renewals have succeeded without a break; 0 while they fail."""

    def retain(self, owner: str) -> bool:
        """Renew the lease of another owner too; true if it was not renewed here before."""

    def release(self, owner: str) -> None:
        """Undo one `retain`."""

    async def renew(self, owner: str) -> None:
        """Renew one lease immediately."""


class Runtime:
    """The SDK's state in one process.

    Args:
        store: Open.
        loop: The event loop that the store lives on.
        clock_ms: Returns the time, milliseconds since 1970 UTC.
        monotonic_s: Returns a monotonic time in seconds, for durations.
        sleep: Waits for so many seconds.
        default_runner: The runner of tasks that name none.
    """

    def __init__(
        self,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        clock_ms: Callable[[], int] = system_clock_ms,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        default_runner: str = IN_PROCESS,
    ) -> None:
        self.store = store
        self.loop = loop
        self.clock_ms = clock_ms
        self.monotonic_s = monotonic_s
        self.sleep = sleep
        self.default_runner = default_runner
        self.run_ids = RunIds()
        self.runner: RunExecutor | None = None  # executes the runs that this process triggers
        self.heartbeat: LeaseRenewer | None = None  # set if other gateways share the store
        self.writers = WriterPool(store, loop)
        self._shielded: dict[asyncio.Task[Any], str | None] = {}  # the calling run of each
        self._loop_thread = threading.get_ident()

    # ---- writers ----

    def writer(self, stream_id: str, target: str) -> StreamWriter:
        """Return the calling run's writer to a target's stream.

        Raises:
            NoParent: the target needs a calling run, or a parent, and there is none.
            RunCanceled: the calling run is being canceled.
        """
        self.raise_if_canceled()
        return self.writers.stream_writer(stream_id, target, current_run())

    def metadata_writer(self, target: str) -> MetadataWriter:
        """Return the calling run's writer to a target's metadata.

        Raises:
            NotInRun: called outside a task.
            NoParent: the target is a parent, and the run has none.
            RunCanceled: the calling run is being canceled.
        """
        self.raise_if_canceled()
        return self.writers.metadata_writer(target, current_run())

    def raise_if_canceled(self) -> None:
        """Raise in the thread of a plain function whose run is being canceled.

        On the event loop the task gets `CancelledError` instead. Its `finally` blocks may still
        append.

        Raises:
            RunCanceled: the calling run is being canceled.
        """
        context = current_run()
        if context is not None and threading.get_ident() != self._loop_thread:
            context.raise_if_canceled()

    async def flush_metadata(self, source: str) -> None:
        """Wait until a run's metadata operations are durable.

        Raises:
            RealtimeError: the first failure that has reached no caller.
        """
        await self.writers.flush_metadata(source)

    async def flush(self, source: str | None = None, *, forget: bool = False) -> None:
        """Wait until a run's records, metadata operations and triggers are durable.

        Args:
            source: The run; None for what was appended or triggered outside runs.
            forget: Drop the run's writers: the run is over.

        Raises:
            RealtimeError: the first failure that has reached no caller.
        """
        await self.wait_for_shielded(source)
        await self.writers.flush(source, forget=forget)

    async def flush_all(self) -> None:
        """Wait until everything is durable; report the failures that no run's end reports."""
        await self.wait_for_all_shielded()
        await self.writers.flush_all()

    @property
    def record_bytes(self) -> int:
        """The largest record: 1 MiB, or less if the gateway of this worker allows less."""
        return min(MAX_RECORD_BYTES, getattr(self.store, "record_bytes", None) or MAX_RECORD_BYTES)

    # ---- work that a cancellation must not interrupt ----

    async def shield(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end on the runtime's loop, even if the caller is canceled.

        The calling run, and the runtime, do not end before the coroutine has ended.
        """
        context = current_run()
        task = self.loop.create_task(work)
        self._shielded[task] = context.id if context is not None else None
        task.add_done_callback(self._shielded.pop)
        return await asyncio.shield(task)

    async def wait_for_shielded(self, source: str | None) -> None:
        """Wait until the shielded work of a run has ended; None: work begun outside runs."""
        while tasks := [task for task, by in self._shielded.items() if by == source]:
            await asyncio.wait(tasks)

    async def wait_for_all_shielded(self) -> None:
        """Wait until all shielded work has ended."""
        while self._shielded:
            await asyncio.wait([*self._shielded])

    # ---- time ----

    async def sleep_until(self, due_ms: int) -> None:
        """Sleep until a time, milliseconds since 1970 UTC."""
        while (left_ms := due_ms - self.clock_ms()) > 0:
            await self.sleep(min(left_ms / 1000, MAX_SLEEP_S))

    @asynccontextmanager
    async def deadline(self, due_ms: int) -> AsyncIterator[None]:
        """End the block with `TimeoutError` at a time, milliseconds since 1970 UTC."""
        if due_ms <= self.clock_ms():
            raise TimeoutError
        async with asyncio.timeout(None) as timeout:

            async def expire() -> None:
                await self.sleep_until(due_ms)
                timeout.reschedule(self.loop.time())

            timer = asyncio.create_task(expire())
            try:
                yield
            finally:
                timer.cancel()


# ---- the runtime of this process ----

_runtime: Runtime | None = None


def current_runtime() -> Runtime:
    """Return this process's runtime.

    Raises:
        NotStarted: this process has no runtime; the message says how to get one.
    """
    if _runtime is None:
        if forks.is_child:
            raise forks.not_here("the open store")
        raise NotStarted(
            "no store is open in this process: give the app a gateway (Reflex: "
            "`add_gateway(app)`; Starlette and FastAPI: `gateway.mount(app, path)`), or use "
            "`async with gateway.connect():` (with REALTIME_URL set, through a gateway elsewhere). "
            "In plain code use the functions that end with _sync: append_sync, trigger_sync, …"
        )
    return _runtime


def has_runtime() -> bool:
    """Whether this process has a runtime."""
    return _runtime is not None


def record_bytes() -> int:
    """Return the largest size of a record; see `Runtime.record_bytes`."""
    return _runtime.record_bytes if _runtime is not None else MAX_RECORD_BYTES


@asynccontextmanager
async def install(runtime: Runtime) -> AsyncIterator[Runtime]:
    """Make a runtime this process's while the block runs; flush it at the end."""
    global _runtime
    if _runtime is not None:
        raise RuntimeError("this process has a runtime already; one gateway or connect() at a time")
    _runtime = runtime
    try:
        yield runtime
    finally:
        try:
            await runtime.flush_all()
        finally:
            _runtime = None


def reset_after_fork() -> None:
    """Forget the inherited runtime and run. The threads that serve them stay in the parent."""
    _drop_runtime()
    context.reset_after_fork()


def _drop_runtime() -> None:
    global _runtime
    _runtime = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_runtime)
