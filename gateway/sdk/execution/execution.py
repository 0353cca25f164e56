"""One run in this process: its timers, its attempts, its end. The runner makes one for each run.

delayed ──due──> queued ──a slot is free──> executing ──> the end
^                                           │
└──────────── a failed attempt ─────────────┘
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from gateway._internal import tracing
from gateway.errors import AbortTask, RealtimeError, RunCanceled, RunNotFound
from gateway.model.runs import Run, iso_time, may_retry_crash, retry_patch, time_ms
from gateway.sdk.context import RunContext, run_context
from gateway.sdk.execution import interruption
from gateway.sdk.execution.cancellation import cancel_children
from gateway.sdk.execution.context import ExecutionContext
from gateway.sdk.execution.outcome import (
    is_any,
    is_only,
    is_unavailable,
    persist_end,
    to_run_error,
)
from gateway.sdk.execution.slot import Slot
from gateway.sdk.execution.stored_run import StopReason, StoredRun
from gateway.sdk.execution.time_limit import TimeLimit
from gateway.sdk.options import Retry
from gateway.sdk.runtime import Body

_log = logging.getLogger("realtime.runner")


class Execution:
    """A run from its first timer to its end.

    Args:
        run: The run in the store.
        body: Calls the task's function with the run's payload and returns the output.
        retry: The delays between attempts.
        context: Shared by the executions of the runner.
        requeue_owner: Owner that keeps the run between two attempts and schedules the next one;
            None: this execution does.
    """

    def __init__(
        self,
        run: Run,
        body: Body,
        retry: Retry,
        context: ExecutionContext,
        requeue_owner: str | None = None,
    ) -> None:
        self._log = logging.LoggerAdapter(_log, {"run": run.id, "task": run.task})
        self._stored = StoredRun(run, context, self._log, self.stop)
        self._requeue_owner = requeue_owner
        self._body = body
        self._retry = retry
        self._context = context
        self._reason: StopReason | None = None
        self._stopping = asyncio.Event()
        self._work: asyncio.Task[Any] | None = None
        self._is_pending = False  # waits for a timer or a slot, and changes nothing meanwhile
        self._clock = TimeLimit(context.runtime, run.max_duration_s, lambda: self.stop("timed_out"))
        self._slot = self._new_slot()
        self.task = asyncio.create_task(self._main(), name=f"run {run.id}")

    @property
    def run(self) -> Run:
        """The run as it was last stored."""
        return self._stored.run

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, or its function has returned and the end is being stored."""
        return self.run.is_finished or (self._work is not None and self._work.done())

    @property
    def is_left(self) -> bool:
        """Whether it was stopped while queued, so that another execution has to continue it."""
        return self.run.is_queued and (self._reason == "stopped" or self.task.cancelled())

    def stop(self, reason: StopReason) -> None:
        """End the run. A running function gets `CancelledError`; a pending one never starts."""
        if self._reason is None:
            self._reason = reason
            self._stopping.set()
            self._slot.close()
            if self._is_pending:
                self.task.cancel()

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Release the slot while the block runs, and set the run's status to `waiting`."""
        was_stopped = self._reason is not None
        async with self._slot.released():
            yield
        if self._reason is not None and not was_stopped:
            await self._await_cancellation()

    async def _await_cancellation(self) -> None:
        """Keep a function from running on whose wait ended at the moment when it was stopped."""
        if asyncio.current_task() is not self._work:
            raise RunCanceled(f"run {self.run.id} is being ended ({self._reason})")
        await asyncio.get_running_loop().create_future()  # canceled by `_wait_for_work`

    def _new_slot(self) -> Slot:
        return Slot(self._context.slots, self._clock, self._store_status)

    async def _store_status(self, status: str) -> None:
        try:
            await self._stored.change(status=status)
        except RealtimeError as error:
            self._log.warning("run %s: its status %s is not kept: %s", self.run.id, status, error)

    # ---- before and between attempts ----

    async def _main(self) -> None:
        try:
            await self._execute()
        except Exception as error:
            await self._fail(error)
        finally:
            self._slot.release()

    async def _execute(self) -> None:
        """Make attempts until the run ends, or is requeued with another owner."""
        try:
            while self._reason is None:
                if not (await self._wait_until_due() and await self._acquire_slot()):
                    return
                if not await self._attempt() or self._requeue_owner is not None:
                    return
                self._slot.release()
            await self._end_unstarted()
        except asyncio.CancelledError:  # from `stop`, or from code that cancels all tasks
            self.stop("stopped")
            await (self._end_stopped() if self.run.is_executing else self._end_unstarted())

    async def _fail(self, error: Exception) -> None:
        """End a run that cannot be stored as it is. If the store is unavailable, only log it."""
        try:
            if is_unavailable(error):
                raise error
            self._log.error("run %s (%s) cannot go on", self.run.id, self.run.task, exc_info=error)
            await self._end("failed", error=to_run_error(error))
        except Exception:
            self._log.exception(
                "run %s (%s): its end could not be kept", self.run.id, self.run.task
            )

    async def _end_unstarted(self) -> None:
        """End a run that was stopped before it began, or between two attempts.

        A canceled run has ended already. A run that stays queued is left to the next process.
        """
        if self._reason != "canceled" and not self._context.leave_queued:
            await self._crash()

    async def _wait_until_due(self) -> bool:
        if self.run.status != "delayed":
            return True
        due_ms = time_ms(self.run.delay_until or "") or 0
        await self._wait_pending(self._context.runtime.sleep_until(due_ms))
        return await self._stored.change(status="queued", queued_at=self._now())

    async def _acquire_slot(self) -> bool:
        self._slot = self._new_slot()
        try:
            async with self._until_expiry():
                await self._wait_pending(self._slot.take())
        except TimeoutError:
            message = f"it had not started by {self.run.expires_at}"
            await self._end("expired", error=to_run_error(message, "Expired"))
            return False
        return True

    async def _wait_pending(self, event: Coroutine[Any, Any, None]) -> None:
        """Wait for an event that `stop` may interrupt. Writes to the store are not interrupted."""
        if self._reason is not None:  # stopped since the caller checked
            event.close()
            raise asyncio.CancelledError
        self._is_pending = True
        try:
            await event
        finally:
            self._is_pending = False

    def _until_expiry(self) -> AbstractAsyncContextManager[None]:
        if self.run.expires_at is None or self.run.started_at is not None:
            return nullcontext()
        return self._context.runtime.deadline(time_ms(self.run.expires_at) or 0)

    # ---- one attempt ----

    async def _attempt(self) -> bool:
        """Execute once; true if another attempt follows."""
        started_at = self.run.started_at or self._now()
        patch = {"status": "executing", "started_at": started_at}
        if self.run.owner != self._context.owner:
            patch["owner"] = self._context.owner  # a queue delivered the run
        try:
            if not await self._stored.change(**patch):  # canceled, or begun elsewhere
                await self._stored.reload()
                return False
        except RunNotFound:
            return False  # deleted
        self._stored.begin_attempt()
        if self._reason is not None:
            await self._end_stopped()
            return False
        context = RunContext.of(self.run)
        work = self._work = asyncio.create_task(self._call(context), name=f"task {self.run.id}")
        self._stored.is_working = True
        watch = asyncio.create_task(self._stored.watch())
        self._clock.run()
        try:
            was_stopped = await self._wait_for_work(work, context)
            watch.cancel()
            self._clock.pause()
            self._slot.close()
            await self._slot.settled()
            return await self._finish_attempt(work, was_stopped)
        finally:
            watch.cancel()
            self._work = None
            self._stored.is_working = False

    async def _call(self, context: RunContext) -> Any:
        run = self.run
        parent = tracing.extract(run.metadata.get(tracing.TRACE_KEY))
        span = tracing.span(
            f"run {run.task}", kind="consumer", parent=parent, run=run.id, task=run.task
        )
        try:
            async with run_context(context):
                with span:
                    output = await self._body(run)
        except SystemExit as error:  # written for a script; here it would end the whole process
            raise RuntimeError(f"the task called sys.exit({error.code!r})") from error
        await self._context.runtime.flush(self.run.id)
        return output

    async def _wait_for_work(self, work: asyncio.Task[Any], context: RunContext) -> bool:
        """Wait for the function; true if it was stopped before it returned."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.stop("stopped")
        finally:
            stopping.cancel()
        if work.done():
            return False
        context.cancel()
        work.cancel()
        is_stopped = self._reason == "stopped"
        grace_s = self._context.stop_grace_s if is_stopped else self._context.cancel_grace_s
        try:
            await asyncio.wait({work}, timeout=grace_s)
        except asyncio.CancelledError:
            pass  # a second time from code that cancels all tasks
        if not work.done():
            self._abandon(work, grace_s)
        return True

    def _abandon(self, work: asyncio.Task[Any], grace_s: float) -> None:
        self._log.warning(
            "run %s (%s) did not end within %g s of being %s; it is left behind",
            self.run.id,
            self.run.task,
            grace_s,
            self._reason,
        )
        work.cancel()
        self._context.abandoned.add(work)
        work.add_done_callback(self._context.abandoned.discard)
        work.add_done_callback(_failure)  # retrieves the exception, so that asyncio does not warn

    # ---- the end of an attempt ----

    async def _finish_attempt(self, work: asyncio.Task[Any], was_stopped: bool) -> bool:
        """Store the outcome, after all records of the attempt; true if another attempt follows."""
        lost: Exception | None = None
        try:
            await self._context.runtime.flush(self.run.id, forget=True)
        except Exception as error:
            lost = error
        failure = _failure(work) or lost
        if was_stopped or (failure is not None and self._reason is not None):
            await self._end_stopped()
        elif failure is None:
            await self._end("completed", output=work.result())
        elif is_only(failure, RunCanceled):
            await self._end_canceled()
        elif self.run.attempt < self.run.max_attempts and not is_any(failure, AbortTask):
            return await self._schedule_retry(failure)
        else:
            self._log.error("run %s (%s) failed", self.run.id, self.run.task, exc_info=failure)
            await self._end("failed", error=to_run_error(failure))
        return False

    async def _schedule_retry(self, failure: BaseException) -> bool:
        """Requeue the run for its next attempt; false if it ended instead."""
        attempt = self.run.attempt
        delay_s = self._retry.delay_s(attempt, self._context.random)
        self._log.warning(
            "run %s (%s): attempt %d of %d failed; the next comes in %.1f s",
            self.run.id,
            self.run.task,
            attempt,
            self.run.max_attempts,
            delay_s,
            exc_info=failure,
        )
        patch = retry_patch(self.run, self._now_ms(), to_run_error(failure), delay_s)
        if self._requeue_owner is not None:
            patch["owner"] = self._requeue_owner
        if not await self._stored.change(**patch):
            return False
        if self.run.cancel_requested_at is not None:  # requested just before the change
            await self._end_canceled()
            return False
        return True

    async def _end_stopped(self) -> None:
        if self._reason == "timed_out":
            limit_s = self.run.max_duration_s
            limit = "its worker allows" if limit_s is None else f"{limit_s:g} s"
            message = f"it executed for more than {limit}"
            await self._end("timed_out", error=to_run_error(message, "TimedOut"))
        elif self._reason == "stopped":
            await self._end_interrupted()
        elif self._reason == "taken":
            self._log.warning(
                "run %s (%s): attempt %d stops here: another process has taken the run over",
                self.run.id,
                self.run.task,
                self.run.attempt,
            )
        else:
            await self._end_canceled()

    async def _end_interrupted(self) -> None:
        """Requeue the run for the next process if it has an attempt left; else mark it crashed."""
        if not (self._context.leave_queued and may_retry_crash(self.run)):
            await self._crash()
        elif await self._stored.change(
            **interruption.next_patch(self.run, interruption.STOPPED, self._now_ms())
        ):
            interruption.log(self.run, interruption.STOPPED["message"])

    async def _crash(self) -> None:
        if await self._end("crashed", error=dict(interruption.STOPPED)):
            interruption.log(self.run, interruption.STOPPED["message"])

    async def _end_canceled(self) -> None:
        # The request did not reach children that the function triggered after it.
        await self._stored.persist(lambda: cancel_children(self._context.runtime, self.run.id))
        await self._end("canceled")

    async def _end(self, status: str, **fields: Any) -> bool:
        def write(patch: dict[str, Any]) -> Awaitable[bool]:
            return self._stored.change(**patch)

        is_stored = await persist_end(write, self.run, status, self._now_ms(), **fields)
        if not is_stored:
            self._log.info("run %s had ended already, or was deleted", self.run.id)
        return is_stored

    def _now_ms(self) -> int:
        return self._context.runtime.clock_ms()

    def _now(self) -> str:
        return iso_time(self._now_ms())


def _failure(work: asyncio.Task[Any]) -> BaseException | None:
    """Return the exception of a function; None if it returned, or still executes."""
    if not work.done():
        return None
    return asyncio.CancelledError() if work.cancelled() else work.exception()
