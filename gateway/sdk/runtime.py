"""What the SDK works with in one process: a store, a secret, a runner, the writers.

A gateway's lifespan makes one, `connect()` makes one for a worker or a script. There is at most
one a process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    MutableMapping,
    Sequence,
)
from concurrent.futures import Future
from contextlib import asynccontextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from gateway.errors import NoParent, NotInRun, NotStarted, RealtimeError, RunCanceled
from gateway.model.records import StreamKey, check_run_id, source_of
from gateway.model.runs import Run, RunIds
from gateway.sdk import forks
from gateway.sdk.execution.task_queues import HERE
from gateway.sdk.writers.metadata_writer import MetadataWriter
from gateway.sdk.writers.stream_writer import MAX_RECORD_BYTES, StreamWriter
from gateway.stores.base import Store, system_clock_ms

if TYPE_CHECKING:
    from gateway.sdk.execution.heartbeat import LeaseHeartbeat
    from gateway.sdk.execution.runner import Runner

RECENT_WRITERS = 64  # outside runs, of which the last ones are used again; about 2 KiB each
MAX_SLEEP_S = 60.0  # the wall clock may be set, or the machine may rest: look again

_log = logging.getLogger("realtime.writer")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunContext:
    """The run that the calling code executes, as `current_run()` gives it.

    Attributes:
        id: Its id.
        task: Id of the task.
        parent_id: The run that triggered it, or None.
        root_id: The run at the top; its own id if it has no parent.
        tags: Its tags.
        batch_id: The batch it belongs to, or None.
        attempt: Which attempt this is, from 1.
        metadata: The run's metadata when the attempt began.
    """

    id: str
    task: str
    parent_id: str | None
    root_id: str
    tags: tuple[str, ...]
    batch_id: str | None
    inputs: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    attempt: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _canceled: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    _carried: set[Future[Any]] = field(default_factory=set, repr=False, compare=False)
    _over: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @classmethod
    def of(cls, run: Run) -> RunContext:
        """Make the context of a run."""
        return cls(
            run.id,
            run.task,
            run.parent_id,
            run.root_id,
            tuple(run.tags),
            run.batch_id,
            attempt=run.attempt,
            metadata=run.metadata,
        )

    @property
    def is_canceled(self) -> bool:
        """Whether someone has asked for this run to be canceled; for loops in plain functions."""
        return self._canceled.is_set()

    def cancel(self) -> None:
        """Say that the run is being canceled; the runner does this."""
        self._canceled.set()
        for future in list(self._carried):
            future.cancel()

    def cancels(self, future: Future[Any]) -> None:
        """Cancel what another thread waits for when the run is canceled."""
        self._carried.add(future)
        future.add_done_callback(self._carried.discard)
        if self._canceled.is_set():  # just before it was added
            future.cancel()

    @property
    def is_over(self) -> bool:
        """Whether the function has returned; a thread or task that it left may go on."""
        return self._over.is_set()

    def end(self) -> None:
        """Say that the function has returned."""
        self._over.set()

    def raise_if_canceled(self) -> None:
        """Stop here if the run is being canceled. `append` does this by itself.

        Raises:
            RunCanceled: it is.
        """
        if self._canceled.is_set():
            raise RunCanceled(f"run {self.id} is being canceled")


_context: ContextVar[RunContext | None] = ContextVar("realtime_run", default=None)
_runtime: Runtime | None = None
# What executes a run, for other threads: before Python 3.12 a task does not show its context.
_contexts: WeakKeyDictionary[asyncio.Task[Any], RunContext] = WeakKeyDictionary()


def run_of(task: asyncio.Task[Any]) -> RunContext | None:
    """Return the run that a task of asyncio executes; None if it is not known."""
    if sys.version_info >= (3, 12):
        return task.get_context().get(_context)
    return _contexts.get(task)


def _asyncio_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a plain thread
        return None


def _enter(context: RunContext) -> Token[RunContext | None]:
    if (task := _asyncio_task()) is not None:
        _contexts[task] = context
    return _context.set(context)


def _leave(token: Token[RunContext | None]) -> None:
    if (task := _asyncio_task()) is not None:
        _contexts.pop(task, None)
    _context.reset(token)


def current_run() -> RunContext | None:
    """Return the run that the calling code executes; None outside one."""
    return _context.get()


class Runtime:
    """The SDK's state in one process.

    Args:
        store: Open.
        loop: The event loop that the store lives on.
        clock_ms: Gives the time.
        monotonic_s: Gives a time that nobody sets, for durations.
        sleep: Lets so many seconds pass.
        default_runner: Who executes the runs of tasks that name no runner.
    """

    def __init__(
        self,
        store: Store,
        loop: asyncio.AbstractEventLoop,
        clock_ms: Callable[[], int] = system_clock_ms,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        default_runner: str = HERE,
    ) -> None:
        self.store = store
        self.loop = loop
        self.clock_ms = clock_ms
        self.monotonic_s = monotonic_s
        self.sleep = sleep
        self.default_runner = default_runner
        self.run_ids = RunIds()
        self.runner: Runner | None = None  # executes what this process triggers
        self.keeper: LeaseHeartbeat | None = None  # of leases, where others share the store
        # By what they write to, and by attempt and run on whose behalf: those of runs that execute,
        # which are flushed at the end of the run.
        self._writers: dict[tuple[StreamKey, int, str | None], StreamWriter] = {}
        self._metadata_writers: dict[tuple[str, int, str], MetadataWriter] = {}
        # All others live as long as they have work, or are referred to by a receipt or a pipe.
        self._others: WeakValueDictionary[tuple[StreamKey, int, str | None], StreamWriter]
        self._others = WeakValueDictionary()
        self._other_metadata: WeakValueDictionary[tuple[str, int, str], MetadataWriter]
        self._other_metadata = WeakValueDictionary()
        self._recent: OrderedDict[StreamWriter, None] = OrderedDict()
        self.untold: Exception | None = None  # the first failure that reached no caller
        self._undivided: dict[asyncio.Task[Any], str | None] = {}  # the calling run of each
        self._lock = threading.Lock()
        self._loop_thread = threading.get_ident()

    def writer(self, stream_id: str, target: str) -> StreamWriter:
        """Find or make the writer of the calling run to a target's stream.

        Raises:
            NoParent: the target needs a run, or a parent, that is not there.
            RunCanceled: the calling run is being canceled.
        """
        context = current_run()
        self.raise_if_canceled()
        by, attempt = (context.id, context.attempt) if context is not None else (None, 1)
        key = StreamKey(target_run(target, context), stream_id)
        with self._lock:
            writer = self._writers.get((key, attempt, by))
            if writer is not None:
                return writer
            if context is None or context.is_over:
                return self._other_writer(key, attempt, by)
            writer = self._new_writer(key, attempt, by)
            self._writers[key, attempt, by] = writer
        return writer

    def _new_writer(self, key: StreamKey, attempt: int, by: str | None) -> StreamWriter:
        source = source_of(by, attempt) if by is not None else None
        return StreamWriter(self.store, key, source, secrets.token_urlsafe(12), self.loop)

    def _other_writer(self, key: StreamKey, attempt: int, by: str | None) -> StreamWriter:
        """Find or make a writer that no run's end will flush."""
        writer = self._others.get((key, attempt, by))
        if writer is None:
            writer = self._others[key, attempt, by] = self._new_writer(key, attempt, by)
            writer.untold = self
        # The last ones are used again: a store remembers every writer of a stream.
        self._recent[writer] = None
        self._recent.move_to_end(writer)
        if len(self._recent) > RECENT_WRITERS:
            self._recent.popitem(last=False)
        return writer

    def failed(self, writer: StreamWriter) -> None:
        """Release a writer after a failure, to report it as soon as its receipts are dropped."""
        self._recent.pop(writer, None)

    def report(self, what: str, error: Exception) -> None:
        """Log a failure that reached no caller, and keep the first for the end of `connect()`."""
        self.untold = self.untold or error
        _log.error("%s: refused, and no receipt was awaited: %s", what, error)

    async def undivided(self, work: Coroutine[Any, Any, T]) -> T:
        """Do some work on the runtime's loop, all of it, also if the caller is canceled meanwhile.

        The calling run, and the runtime, do not end before it is done.
        """
        context = current_run()
        task = self.loop.create_task(work)
        self._undivided[task] = context.id if context is not None else None
        task.add_done_callback(self._undivided.pop)
        return await asyncio.shield(task)

    async def undivided_done(self, source: str | None) -> None:
        """Wait until no undivided work of a run is under way; None: none of what no run began."""
        while tasks := [task for task, by in self._undivided.items() if by == source]:
            await asyncio.wait(tasks)

    async def all_undivided_done(self) -> None:
        """Wait until no undivided work is under way."""
        while self._undivided:
            await asyncio.wait([*self._undivided])

    @property
    def record_bytes(self) -> int:
        """How large a record may be: 1 MiB, or less where a worker's gateway allows less."""
        return min(MAX_RECORD_BYTES, getattr(self.store, "record_bytes", None) or MAX_RECORD_BYTES)

    async def sleep_until(self, due_ms: int) -> None:
        """Sleep until a time, milliseconds since 1970 UTC."""
        while (left_ms := due_ms - self.clock_ms()) > 0:
            await self.sleep(min(left_ms / 1000, MAX_SLEEP_S))

    @asynccontextmanager
    async def deadline(self, due_ms: int) -> AsyncIterator[None]:
        """End the block with `TimeoutError` when a time has come, ms since 1970 UTC."""
        if due_ms <= self.clock_ms():
            raise TimeoutError
        async with asyncio.timeout(None) as patience:

            async def ring() -> None:
                await self.sleep_until(due_ms)
                patience.reschedule(self.loop.time())

            alarm = asyncio.create_task(ring())
            try:
                yield
            finally:
                alarm.cancel()

    def metadata_writer(self, target: str) -> MetadataWriter:
        """Find or make the writer of the calling run to a target's metadata.

        Raises:
            NotInRun: called outside a task.
            NoParent: the target is a parent that is not there.
            RunCanceled: the calling run is being canceled.
        """
        context = current_run()
        self.raise_if_canceled()
        if context is None:
            raise NotInRun(f"metadata belongs to a run: it can be changed inside a task{_hint()}")
        run_id = target_run(target, context)
        with self._lock:
            writers = self._other_metadata if context.is_over else self._metadata_writers
            writer = writers.get((run_id, context.attempt, context.id))
            if writer is None:
                known = context.metadata if run_id == context.id else {}
                id = secrets.token_urlsafe(12)
                attempt = context.attempt if run_id == context.id else None
                writer = MetadataWriter(self.store, run_id, id, self.loop, known, attempt)
                writer.untold = self if context.is_over else None
                writers[run_id, context.attempt, context.id] = writer
        return writer

    def raise_if_canceled(self) -> None:
        """Stop a plain function's thread if its run is being canceled.

        On the event loop the task gets `CancelledError`; its `finally` blocks may still append.

        Raises:
            RunCanceled: it is.
        """
        context = current_run()
        if context is not None and threading.get_ident() != self._loop_thread:
            context.raise_if_canceled()

    async def flush_metadata(self, source: str) -> None:
        """Wait until a run's operations on metadata are durable.

        Raises:
            RealtimeError: the first failure that nobody has been told of.
        """
        with self._lock:
            writers = _of(self._metadata_writers, source, forget=False)
        await _flush_each(writers)

    async def flush(self, source: str | None = None, *, forget: bool = False) -> None:
        """Wait until what a run has appended, and its operations on metadata, are durable.

        What it has begun to trigger is triggered by then.

        Args:
            source: The run; None for what was appended outside any.
            forget: The run is over: let its writers go.

        Raises:
            RealtimeError: the first failure that nobody has been told of.
        """
        await self.undivided_done(source)
        with self._lock:
            streams = _of(self._writers, source, forget) + _of(self._others, source)
            metadata = _of(self._metadata_writers, source, forget)
            metadata += _of(self._other_metadata, source)
        writers: list[Flushable] = [*streams, *metadata]
        if forget:
            for writer in writers:
                writer.untold = self  # a thread or task that was left may go on with it
        await _flush_each(writers)

    async def flush_all(self) -> None:
        """Wait until everything is durable; report the failures that no run's end reports."""
        await self.all_undivided_done()
        with self._lock:
            writers: list[Flushable] = [*self._writers.values(), *self._metadata_writers.values()]
            writers += [*self._others.values(), *self._other_metadata.values()]
            self._recent.clear()
        for writer in writers:
            error = await _failure(writer)
            if error is not None and writer.untold is not None:
                self.report(str(writer), error)


class Flushable(Protocol):
    """A writer whose queue can be awaited.

    Attributes:
        untold: Its first error that no caller has received.
    """

    untold: Any

    async def flush(self) -> None:
        """Wait until everything queued is stored."""


W = TypeVar("W", bound=Flushable)


def _of(writers: MutableMapping[Any, W], source: str | None, forget: bool = False) -> list[W]:
    """Find the writers of a run; their keys end with it."""
    mine = {key: writer for key, writer in list(writers.items()) if key[-1] == source}
    if forget:
        for key in mine:
            del writers[key]
    return list(mine.values())


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


def target_run(target: str, context: RunContext | None) -> str:
    """Say which run a target means.

    Args:
        target: `self`, `parent`, `root` or a run id.
        context: The calling run.

    Raises:
        NoParent: it means a run that is not there.
        InvalidId: it is none of these.
    """
    if target not in ("self", "parent", "root"):
        return check_run_id(target)
    if context is None:
        raise NoParent(
            f'target="{target}" needs a run: outside a task give a run id as target{_hint()}'
        )
    if target == "self":
        return context.id
    if target == "root":
        return context.root_id
    if context.parent_id is None:
        raise NoParent(f'target="parent": run {context.id} ({context.task}) has no parent')
    return context.parent_id


def _hint() -> str:
    """Say what to do in a thread that a task has started; it does not inherit the task's run."""
    if threading.current_thread() is threading.main_thread():
        return ""
    return (
        "; a thread that a task starts does not know its run: start it by asyncio.to_thread, or "
        "give a pool `contextvars.copy_context().run` with the function, a new copy for each call"
    )


def runtime() -> Runtime:
    """Return this process's runtime.

    Raises:
        NotStarted: there is none; the message says how to get one.
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


@asynccontextmanager
async def installed(new: Runtime) -> AsyncIterator[Runtime]:
    """Make a runtime this process's while the block runs; flush it at the end."""
    global _runtime
    if _runtime is not None:
        raise RuntimeError("this process has a runtime already; one gateway or connect() at a time")
    _runtime = new
    try:
        yield new
    finally:
        try:
            await new.flush_all()
        finally:
            _runtime = None


def forget_runtime() -> None:
    """Let go of what a process inherited by a fork: the threads that served it are not there."""
    global _runtime
    _runtime = None
    _context.set(None)


def has_runtime() -> bool:
    """Whether this process has a runtime."""
    return _runtime is not None


def record_bytes() -> int:
    """How large a record may be; see `Runtime.record_bytes`."""
    return _runtime.record_bytes if _runtime is not None else MAX_RECORD_BYTES


def enter_run(context: RunContext) -> Token[RunContext | None]:
    """Make a run the current one from here on, where no block holds it; see `executing`."""
    return _enter(context)


def leave_run(token: Token[RunContext | None]) -> None:
    """Undo `enter_run`; the run's function has returned."""
    if (context := _context.get()) is not None:
        context.end()
    _leave(token)


@asynccontextmanager
async def executing(context: RunContext) -> AsyncIterator[RunContext]:
    """Make a run the current one while the block runs."""
    reset = _enter(context)
    try:
        yield context
    finally:
        context.end()
        _leave(reset)


def _forget_parent() -> None:
    """In a forked child: the threads that serve the runtime are not here."""
    global _runtime
    _runtime = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
