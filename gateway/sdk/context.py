"""The run that the calling code executes, and the run that a `target` names."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from gateway.errors import NoParent, RunCanceled
from gateway.model.records import check_run_id
from gateway.model.runs import Run


@dataclass(frozen=True, slots=True)
class RunContext:
    """The run that the calling code executes, as `current_run()` returns it.

    Attributes:
        id: The run's id.
        task: Id of the task.
        parent_id: The run that triggered it, or None.
        root_id: The run at the top of the tree; its own id if it has no parent.
        tags: The run's tags.
        batch_id: The batch it belongs to, or None.
        attempt: The number of this attempt, from 1.
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
    _calls: set[Future[Any]] = field(default_factory=set, repr=False, compare=False)
    _returned: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

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
        """Whether cancellation of this run was requested. For loops in plain functions."""
        return self._canceled.is_set()

    def cancel(self) -> None:
        """Mark the run as being canceled and cancel its calls from other threads.

        The runner calls this.
        """
        self._canceled.set()
        for future in list(self._calls):
            future.cancel()

    def cancel_with_run(self, future: Future[Any]) -> None:
        """Cancel a future, for which another thread waits, when the run is canceled."""
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        if self._canceled.is_set():  # `cancel` may have run just before the future was added
            future.cancel()

    @property
    def has_returned(self) -> bool:
        """Whether the function has returned. A thread or task that it started may still run."""
        return self._returned.is_set()

    def mark_returned(self) -> None:
        """Record that the function has returned."""
        self._returned.set()

    def raise_if_canceled(self) -> None:
        """Raise if the run is being canceled. `append` calls this itself.

        Raises:
            RunCanceled: the run is being canceled.
        """
        if self._canceled.is_set():
            raise RunCanceled(f"run {self.id} is being canceled")


_context: ContextVar[RunContext | None] = ContextVar("realtime_run", default=None)
# The run of each asyncio task, for the watchdog's thread: before Python 3.12 a task does not
# expose its context.
_contexts: WeakKeyDictionary[asyncio.Task[Any], RunContext] = WeakKeyDictionary()


def current_run() -> RunContext | None:
    """Return the run that the calling code executes; None outside a run."""
    return _context.get()


def run_of(task: asyncio.Task[Any]) -> RunContext | None:
    """Return the run that an asyncio task executes; None if it is not known."""
    if sys.version_info >= (3, 12):
        return task.get_context().get(_context)
    return _contexts.get(task)


def push_run(context: RunContext) -> Token[RunContext | None]:
    """Make a run the current one. For callers that cannot use the block `run_context`."""
    if (task := _asyncio_task()) is not None:
        _contexts[task] = context
    return _context.set(context)


def pop_run(token: Token[RunContext | None]) -> None:
    """Undo `push_run` after the run's function has returned."""
    if (context := _context.get()) is not None:
        context.mark_returned()
    _restore(token)


@asynccontextmanager
async def run_context(context: RunContext) -> AsyncIterator[RunContext]:
    """Make a run the current one while the block runs."""
    token = push_run(context)
    try:
        yield context
    finally:
        context.mark_returned()
        _restore(token)


def reset_after_fork() -> None:
    """Forget, in a forked child, the run that the parent was executing."""
    _context.set(None)


def _restore(token: Token[RunContext | None]) -> None:
    if (task := _asyncio_task()) is not None:
        _contexts.pop(task, None)
    _context.reset(token)


def _asyncio_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a plain thread
        return None


def target_run(target: str, context: RunContext | None) -> str:
    """Return the id of the run that a target names.

    Args:
        target: `self`, `parent`, `root` or a run id.
        context: The calling run.

    Raises:
        NoParent: the target needs a calling run, or a parent, and there is none.
        InvalidId: the target is none of the above.
    """
    if target not in ("self", "parent", "root"):
        return check_run_id(target)
    if context is None:
        raise NoParent(
            f'target="{target}" needs a run: outside a task give a run id as target{thread_hint()}'
        )
    if target == "self":
        return context.id
    if target == "root":
        return context.root_id
    if context.parent_id is None:
        raise NoParent(f'target="parent": run {context.id} ({context.task}) has no parent')
    return context.parent_id


def thread_hint() -> str:
    """Return a remedy for error messages in a thread that a task started; "" in the main thread.

    A plain thread does not inherit the context variable that holds the task's run.
    """
    if threading.current_thread() is threading.main_thread():
        return ""
    return (
        "; a thread that a task starts does not know its run: start it by asyncio.to_thread, or "
        "give a pool `contextvars.copy_context().run` with the function, a new copy for each call"
    )
