"""Executes runs in this process with bounded concurrency, and stops them when the process ends."""

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
from typing import Any, TypeVar

from gateway.model.runs import Run, may_retry_crash
from gateway.sdk.context import RunContext
from gateway.sdk.execution import interruption
from gateway.sdk.execution.context import ExecutionContext
from gateway.sdk.execution.execution import Execution
from gateway.sdk.execution.heartbeat import is_node
from gateway.sdk.execution.ownership import EMBEDDED_OWNER, Tasks, mark_run_crashed, unfinished
from gateway.sdk.options import ONCE, Retry
from gateway.sdk.runtime import Body, Runtime
from gateway.stores.leases import ClusterStore

CANCEL_GRACE_S = 10.0  # for the `finally` blocks of a canceled function
STOP_GRACE_S = 3.0  # the same, when the process stops
LOGGED_RUNS = 10  # named in one line of the log

_log = logging.getLogger("realtime.runner")

T = TypeVar("T")


class Runner:
    """Executes runs on the runtime's event loop, plain functions in threads.

    Args:
        runtime: Its store holds the runs.
        owner: Name under which this process executes runs.
        concurrency: How many runs execute at the same time; a waiting run does not count.
        cancel_grace_s: Time for the `finally` blocks of a canceled function. After that the run is
            marked `canceled` and the function is abandoned.
        stop_grace_s: The same, when the process stops.
        random: Returns a number from 0 to 1.
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
        store = runtime.store
        self._context = ExecutionContext(
            runtime,
            asyncio.Semaphore(concurrency),
            random,
            cancel_grace_s,
            stop_grace_s,
            leave_queued=owner == EMBEDDED_OWNER or is_node(owner),
            owner=owner,
            fencing_store=store if is_node(owner) and isinstance(store, ClusterStore) else None,
        )
        # The queue's worker limits how many messages it takes.
        self._queued_context = replace(self._context, slots=asyncio.Semaphore(sys.maxsize))
        self._executions: dict[str, Execution] = {}

    # ---- recovery ----

    async def unfinished_runs(self) -> list[Run]:
        """Return the runs that this owner's last process left unfinished, the oldest first."""
        left = [run async for run in unfinished(self._runtime.store, self.owner)]
        return left[::-1]

    async def recover(self, tasks: Tasks, left: list[Run] | None = None) -> int:
        """Continue, or mark as crashed, the runs that this owner's last process left unfinished.

        A run whose task is known starts again if it was queued, and continues with its next attempt
        if it executed and has one. All others are marked crashed.

        Args:
            tasks: The tasks that are known here.
            left: The unfinished runs, if they were listed before.

        Returns:
            How many runs were marked.
        """
        store, clock_ms = self._runtime.store, self._runtime.clock_ms
        marked = 0
        for run in await self.unfinished_runs() if left is None else left:
            reason = "the process that executed it ended"
            if run.is_queued or may_retry_crash(run):
                if tasks.is_known(run.task):
                    run = (await store.get_run(run.id)).run if run.omitted else run
                    if not run.is_queued:
                        error = interruption.crash_error(reason)
                        patch = interruption.next_patch(run, error, clock_ms())
                        run = await store.patch_run(run.id, patch)
                        interruption.log(run, reason)
                    tasks.resume(run)
                    continue
                reason = f"the process that kept it ended, and this one knows no task {run.task!r}"
            marked += await mark_run_crashed(store, run, reason, clock_ms)
        return marked

    # ---- executing ----

    def start(self, run: Run, body: Body, retry: Retry = ONCE) -> None:
        """Execute a run as soon as it is due and a slot is free, unless it executes here already.

        Args:
            run: Queued or delayed in the store.
            body: Calls the task's function with the run's payload and returns the output.
            retry: The delays between attempts.
        """
        if self.has(run.id):
            return
        execution = self._executions[run.id] = Execution(run, body, retry, self._context)

        def ended(_: asyncio.Task[None]) -> None:
            self._executions.pop(run.id, None)
            if execution.is_left and not self._context.closing.is_set():
                self.start(execution.run, body, retry)  # code that cancels all tasks stopped it

        execution.task.add_done_callback(ended)

    def has(self, run_id: str) -> bool:
        """Whether a run executes here or waits for its slot."""
        return run_id in self._executions

    async def execute_queued(
        self, run: Run, body: Body, retry: Retry, requeue_owner: str | None = None
    ) -> Run:
        """Execute a run that a task queue delivered, and wait for it.

        Args:
            run: Unfinished in the store, and executed by no live process.
            body: As in `start`.
            retry: As in `start`.
            requeue_owner: Owner that keeps the run between two attempts and delivers it again;
                None: it is retried here.

        Returns:
            The run after that: ended, or queued again.
        """
        if (first := self._executions.get(run.id)) is not None:  # the message was delivered twice
            await asyncio.wait({first.task})
            return (await self._runtime.store.get_run(run.id)).run
        execution = Execution(run, body, retry, self._queued_context, requeue_owner)
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

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        """Call a plain function in a thread, as the current run.

        A canceled call still waits for the function, because a thread cannot be stopped from
        outside. `append` and `raise_if_canceled` raise `RunCanceled` in the thread.
        """
        context = contextvars.copy_context()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # from now on the future cannot be canceled

        def call() -> None:
            try:
                future.set_result(context.run(function))
            except (StopIteration, KeyboardInterrupt) as error:
                # A future refuses StopIteration; KeyboardInterrupt would end the event loop.
                raised = RuntimeError(f"the task raised {type(error).__name__}")
                raised.__cause__ = error
                future.set_exception(raised)
            except BaseException as error:
                future.set_exception(error)

        # One thread each, limited by the slots. In a pool, functions that wait for their children
        # would occupy the threads that the children need. The threads are daemons, so that one that
        # ignores its cancellation does not keep the process from ending.
        Thread(target=call, name="realtime-task", daemon=True).start()
        returned = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(returned)
        except asyncio.CancelledError:
            # The call ends as canceled, whatever the function returns or raises.
            returned.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait({returned})
            raise

    async def persist_with_retry(self, write: Callable[[], Awaitable[T]], run_id: str) -> T:
        """Write to the store with retries; see `ExecutionContext.persist_with_retry`."""
        return await self._context.persist_with_retry(write, run_id, _log)

    @asynccontextmanager
    async def waiting(self, context: RunContext) -> AsyncIterator[None]:
        """Let a run that executes here release its slot while the block runs."""
        execution = self._executions.get(context.id)
        if execution is None:
            yield
            return
        async with execution.waiting():
            yield

    # ---- stopping ----

    def time_out(self, run_id: str) -> None:
        """End a run that executes here as timed out, because its worker's own limit has passed."""
        if (execution := self._executions.get(run_id)) is not None:
            execution.stop("timed_out")

    def cancel_pending(self, run_id: str) -> None:
        """Drop a run that was canceled before it began, or between two attempts."""
        if (execution := self._executions.get(run_id)) is not None:
            execution.stop("canceled")

    def warn_of_unfinished(self) -> None:
        """Log which runs the end of `connect()` stops, and how to let them finish."""
        left = [each.run for each in self._executions.values() if not each.is_over]
        if not left:
            return
        named = ", ".join(f"{run.id} ({run.task})" for run in left[:LOGGED_RUNS])
        _log.warning(
            "connect() ends and stops the runs that this process executes (%d): %s%s. Await them "
            "before the block ends (`await run.wait()`), or keep one block open for as long as "
            "the process lives; for views of a web framework see docs/web-frameworks.md",
            len(left),
            named,
            ", …" if len(left) > LOGGED_RUNS else "",
        )

    async def stop(self) -> None:
        """Stop all executions and wait until they have ended."""
        self._context.closing.set()
        is_first = True
        while is_first or self._executions:  # a run that ends may trigger others
            is_first = False
            executions = list(self._executions.values())
            for execution in executions:
                execution.stop("stopped")
            await asyncio.gather(*(each.task for each in executions), return_exceptions=True)
            await self._runtime.wait_for_all_shielded()
