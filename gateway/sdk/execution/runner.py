"""Executes runs in this process: bounded concurrency, and what becomes of runs when it ends."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from threading import Thread
from typing import Any, Protocol, TypeVar

from gateway.errors import IllegalTransition
from gateway.model.log import RunQuery
from gateway.model.runs import Run, may_retry_crash
from gateway.sdk.execution import interruption
from gateway.sdk.execution.cancellation import UNFINISHED
from gateway.sdk.execution.context import ExecutionContext
from gateway.sdk.execution.execution import Body, Execution
from gateway.sdk.execution.heartbeat import is_node
from gateway.sdk.options import ONCE, Retry
from gateway.sdk.runtime import RunContext, Runtime, current_run, runtime
from gateway.stores.base import Store, system_clock_ms
from gateway.stores.leases import ClusterStore

EMBEDDED_OWNER = "embedded"  # runs of the process that owns the store
CANCEL_GRACE_S = 10.0  # for the `finally` blocks of a canceled function
STOP_GRACE_S = 3.0  # the same, when the process stops
NAMED_RUNS = 10  # in one line of the log

_log = logging.getLogger("realtime.runner")

T = TypeVar("T")


class Tasks(Protocol):
    """The tasks of this process; the module `gateway.sdk.tasks` is one."""

    def is_known(self, task_id: str) -> bool:
        """Whether a task is defined here."""

    def resume(self, run: Run) -> bool:
        """Start a run that nobody executes; false if its task is not known here."""


class Runner:
    """Executes runs on the runtime's event loop, plain functions in threads.

    Args:
        runtime: Whose store keeps the runs.
        owner: Name under which this process executes runs.
        concurrency: Runs that execute at the same time; one that waits for its children counts as
            none.
        cancel_grace_s: How long a canceled function has for its `finally` blocks; after that its
            run is marked `canceled` and the function is left behind.
        stop_grace_s: The same, when the process stops.
        random: Gives a number from 0 to 1.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        owner: str,
        concurrency: int,
        cancel_grace_s: float = CANCEL_GRACE_S,
        stop_grace_s: float = STOP_GRACE_S,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.owner = owner
        self._runtime = runtime
        self._around = ExecutionContext(
            runtime,
            asyncio.Semaphore(concurrency),
            random,
            cancel_grace_s,
            stop_grace_s,
            keeps_queued=owner == EMBEDDED_OWNER or is_node(owner),
            owner=owner,
            taken_from=runtime.store
            if is_node(owner) and isinstance(runtime.store, ClusterStore)
            else None,
        )
        # The queue's worker bounds how many it takes.
        self._around_brought = replace(self._around, slots=asyncio.Semaphore(sys.maxsize))
        self._executions: dict[str, Execution] = {}

    async def left_over(self) -> list[Run]:
        """Return the runs that this owner's last process left unfinished, the oldest first."""
        left = [run async for run in unfinished(self._runtime.store, self.owner)]
        return left[::-1]

    async def recover(self, tasks: Tasks, left: list[Run] | None = None) -> int:
        """Judge what this owner's last process left unfinished.

        If its task is known, a run that had not begun starts again, and one that was executing
        goes on with its next attempt if it has one. Everything else is marked crashed.

        Args:
            tasks: Those known here.
            left: What was left unfinished, if that is known.

        Returns:
            How many runs were marked.
        """
        store, clock_ms = self._runtime.store, self._runtime.clock_ms
        marked = 0
        for run in await self.left_over() if left is None else left:
            why = "the process that executed it ended"
            if run.is_queued or may_retry_crash(run):
                if tasks.is_known(run.task):
                    run = (await store.get_run(run.id)).run if run.omitted else run
                    if not run.is_queued:
                        patch = interruption.next_patch(run, interruption.died(why), clock_ms())
                        run = await store.patch_run(run.id, patch)
                        interruption.log(run, why)
                    tasks.resume(run)
                    continue
                why = f"the process that kept it ended, and this one knows no task {run.task!r}"
            marked += await _mark(store, run, why, clock_ms)
        return marked

    def start(self, run: Run, body: Body, retry: Retry = ONCE) -> None:
        """Execute a run as soon as it is due and there is room, unless it executes here already.

        Args:
            run: Queued or delayed in the store.
            body: Calls the task's function with the run's payload and returns the output.
            retry: How long to rest between attempts.
        """
        if self.has(run.id):
            return
        execution = self._executions[run.id] = Execution(run, body, retry, self._around)

        def ended(_: asyncio.Task[None]) -> None:
            self._executions.pop(run.id, None)
            if execution.is_left and not self._around.closing.is_set():
                self.start(execution.run, body, retry)  # stopped by code that cancels all tasks

        execution.task.add_done_callback(ended)

    def has(self, run_id: str) -> bool:
        """Whether a run executes here, or waits for its turn."""
        return run_id in self._executions

    async def carry_out(
        self, run: Run, body: Body, retry: Retry, rests_with: str | None = None
    ) -> Run:
        """Execute a run that a queue brought here, and wait for it.

        Args:
            run: Unfinished in the store, and executed by nobody who is alive.
            body: As in `start`.
            retry: As in `start`.
            rests_with: Owner who keeps the run between two attempts and brings it again; None: it
                is tried again here.

        Returns:
            The run as it is then: ended, or back in the queue.
        """
        if (first := self._executions.get(run.id)) is not None:  # one message, several times
            await asyncio.wait({first.task})
            return (await self._runtime.store.get_run(run.id)).run
        execution = Execution(run, body, retry, self._around_brought, rests_with)
        self._executions[run.id] = execution
        try:
            await asyncio.shield(execution.task)
        except asyncio.CancelledError:
            execution.stop("stopped")
            await asyncio.gather(execution.task, return_exceptions=True)
            raise
        finally:
            self._executions.pop(run.id, None)
        return execution.run

    def time_out(self, run_id: str) -> None:
        """End a run that executes here, because its worker lets it execute no longer."""
        if (execution := self._executions.get(run_id)) is not None:
            execution.stop("timed_out")

    def forget(self, run_id: str) -> None:
        """Take note that a run was canceled before it began, or between two attempts."""
        if (execution := self._executions.get(run_id)) is not None:
            execution.stop("canceled")

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        """Call a plain function in a thread, as the current run.

        Canceled, it waits for the function all the same: a thread can only end by itself. `append`
        and `raise_if_canceled` raise `RunCanceled` there.
        """
        context = contextvars.copy_context()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a thread cannot be canceled, only told

        def call() -> None:
            try:
                future.set_result(context.run(function))
            except (StopIteration, KeyboardInterrupt) as error:
                # No future takes the one; the other would end the event loop.
                raised = RuntimeError(f"the task raised {type(error).__name__}")
                raised.__cause__ = error
                future.set_exception(raised)
            except BaseException as error:
                future.set_exception(error)

        # A thread each: in a pool, functions that wait for their children would hold what those
        # need. The slots bound how many execute. Daemons, because one that does not heed its
        # cancellation must not keep the process from ending.
        Thread(target=call, name="realtime-task", daemon=True).start()
        returned = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(returned)
        except asyncio.CancelledError:
            # It is the cancellation that counts, not what the function then ends with.
            returned.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait({returned})
            raise

    async def until_kept(self, keep: Callable[[], Awaitable[T]], run_id: str) -> T:
        """Write to the store, for as long as it takes; see `ExecutionContext.until_kept`."""
        return await self._around.until_kept(keep, run_id, _log)

    def warn_of_unfinished(self) -> None:
        """Log which runs the end of `connect()` stops, and how to let them end."""
        left = [each.run for each in self._executions.values() if not each.is_over]
        if not left:
            return
        named = ", ".join(f"{run.id} ({run.task})" for run in left[:NAMED_RUNS])
        _log.warning(
            "connect() ends and stops the runs that this process executes (%d): %s%s. Await them "
            "before the block ends (`await run.wait()`), or keep one block open for as long as "
            "the process lives; for views of a web framework see docs/web-frameworks.md",
            len(left),
            named,
            ", …" if len(left) > NAMED_RUNS else "",
        )

    async def stop(self) -> None:
        """Stop what executes and wait until it has ended."""
        self._around.closing.set()
        is_first = True
        while is_first or self._executions:  # those that end may trigger others
            is_first = False
            executions = list(self._executions.values())
            for execution in executions:
                execution.stop("stopped")
            await asyncio.gather(*(each.task for each in executions), return_exceptions=True)
            await self._runtime.all_undivided_done()

    @asynccontextmanager
    async def waiting(self, context: RunContext) -> AsyncIterator[None]:
        """Let a run that is executed here give its slot away while the block runs."""
        execution = self._executions.get(context.id)
        if execution is None:
            yield
            return
        async with execution.waiting():
            yield


@asynccontextmanager
async def waiting() -> AsyncIterator[None]:
    """Let the calling run, if there is one, count as waiting while the block runs."""
    context, runner = current_run(), runtime().runner
    if context is None or runner is None:
        yield
        return
    async with runner.waiting(context):
        yield


async def unfinished(store: Store, owner: str) -> AsyncIterator[Run]:
    """Yield the runs of an owner that have not ended, newest first."""
    before: str | None = None
    while page := await store.list_runs(
        RunQuery(status=UNFINISHED, owner=owner, before=before, limit=1000)
    ):
        for run in page:
            yield run
        before = page[-1].id


async def mark_crashed(
    store: Store, owner: str, message: str, clock_ms: Callable[[], int] = system_clock_ms
) -> int:
    """Mark the unfinished runs of a worker that is no more as crashed.

    Also those that have attempts left: no other process executes a worker's runs. A queue that
    brings a run again has to do so before its worker is given up.

    Args:
        store: Where the runs are.
        owner: Who executed them.
        message: Why, for the run's error.
        clock_ms: Gives the time.

    Returns:
        How many runs were marked.
    """
    lost = [run async for run in unfinished(store, owner)]
    return sum(
        [await _mark(store, run, message + interruption.unused(run), clock_ms) for run in lost]
    )


async def _mark(store: Store, run: Run, why: str, clock_ms: Callable[[], int]) -> bool:
    try:
        patch = interruption.crash_patch(run, interruption.died(why), clock_ms())
        interruption.log(await store.patch_run(run.id, patch), why)
    except IllegalTransition:
        return False  # it has ended meanwhile, or is executed again
    return True
