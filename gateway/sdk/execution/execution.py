"""One run in this process: its timers, its attempts, its end. The runner makes one for each run.

delayed ──due──> queued ──a slot is free──> executing ──> the end
^                                           │
└──────────── a failed attempt ─────────────┘
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Any, Literal, TypeVar

import orjson

from gateway._internal import tracing
from gateway.errors import (
    AbortTask,
    IllegalTransition,
    RealtimeError,
    RunCanceled,
    RunNotFound,
)
from gateway.model.log import run_log
from gateway.model.records import Position
from gateway.model.runs import Run, iso_time, may_retry_crash, retry_patch, time_ms
from gateway.sdk.execution import interruption
from gateway.sdk.execution.cancellation import cancel_children
from gateway.sdk.execution.context import ExecutionContext
from gateway.sdk.execution.outcome import error_of, is_any, is_away, is_only, keep_end
from gateway.sdk.execution.slot import Slot
from gateway.sdk.execution.task_queues import has_lease
from gateway.sdk.execution.time_limit import TimeLimit
from gateway.sdk.options import Retry
from gateway.sdk.runtime import RunContext, executing

WATCH_AGAIN_S = 5.0  # after the run's own log could not be followed

_log = logging.getLogger("realtime.runner")

T = TypeVar("T")
Body = Callable[[Run], Coroutine[Any, Any, Any]]
StopReason = Literal["canceled", "timed_out", "stopped", "taken"]


class Execution:
    """A run from its first timer to its end.

    Args:
        run: As it is in the store.
        body: Calls the task's function with the run's payload and returns the output.
        retry: How long to rest between attempts.
        around: What it shares with others.
        rests_with: Owner who keeps the run between two attempts and has the next one made; None:
            it is made here.
    """

    def __init__(
        self,
        run: Run,
        body: Body,
        retry: Retry,
        around: ExecutionContext,
        rests_with: str | None = None,
    ) -> None:
        self.run = run
        self._log = logging.LoggerAdapter(_log, {"run": run.id, "task": run.task})
        self._rests_with = rests_with
        self._body = body
        self._retry = retry
        self._around = around
        self._store = around.runtime.store
        self._reason: StopReason | None = None
        self._stopping = asyncio.Event()
        self._work: asyncio.Task[Any] | None = None
        self._queued_at: str | None = None  # of the attempt that is executed
        self._is_resting = False
        self._clock = TimeLimit(around.runtime, run.max_duration_s, lambda: self.stop("timed_out"))
        self._slot = self._new_slot()
        self.task = asyncio.create_task(self._live(), name=f"run {run.id}")

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, or its function has returned and the rest takes a moment."""
        return self.run.is_finished or (self._work is not None and self._work.done())

    def stop(self, reason: StopReason) -> None:
        """End the run: its function gets `CancelledError`; one that has not begun will not."""
        if self._reason is None:
            self._reason = reason
            self._stopping.set()
            self._slot.close()
            if self._is_resting:
                self.task.cancel()

    @property
    def is_left(self) -> bool:
        """Whether it was stopped, and left to whatever executes the run next."""
        return self.run.is_queued and (self._reason == "stopped" or self.task.cancelled())

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Give the slot away while the block runs, and say so in the run's status."""
        was_stopped = self._reason is not None
        async with self._slot.given_away():
            yield
        if self._reason is not None and not was_stopped:
            await self._be_stopped()

    def _new_slot(self) -> Slot:
        return Slot(self._around.slots, self._clock, self._show)

    async def _show(self, status: str) -> None:
        try:
            await self._change(status=status)
        except RealtimeError as error:
            self._log.warning("run %s: its status %s is not kept: %s", self.run.id, status, error)

    async def _be_stopped(self) -> None:
        """Let a function whose wait ended just when it was stopped not run on to its end."""
        if asyncio.current_task() is not self._work:
            raise RunCanceled(f"run {self.run.id} is being ended ({self._reason})")
        await asyncio.get_running_loop().create_future()  # until it is canceled, in a moment

    # ---- before and between attempts ----

    async def _live(self) -> None:
        try:
            await self._execute()
        except Exception as error:
            await self._fail(error)
        finally:
            self._slot.release()

    async def _execute(self) -> None:
        """Make attempts until the run ends, or rests with another owner."""
        try:
            while self._reason is None:
                if not (await self._become_due() and await self._take_slot()):
                    return
                if not await self._attempt() or self._rests_with is not None:
                    return
                self._slot.release()
            await self._not_begun()
        except asyncio.CancelledError:  # by `stop`, or by code that cancels all tasks
            self.stop("stopped")
            await (self._end_stopped() if self.run.is_executing else self._not_begun())

    async def _fail(self, error: Exception) -> None:
        """End a run of which something could not be kept; a store that is away is left alone."""
        try:
            if is_away(error):
                raise error
            self._log.error("run %s (%s) cannot go on", self.run.id, self.run.task, exc_info=error)
            await self._end("failed", error=error_of(error))
        except Exception:
            self._log.exception(
                "run %s (%s): its end could not be kept", self.run.id, self.run.task
            )

    async def _not_begun(self) -> None:
        """Judge a run that was stopped before it began, or between two attempts."""
        if self._reason != "canceled" and not self._around.keeps_queued:
            await self._crash()

    async def _become_due(self) -> bool:
        if self.run.status != "delayed":
            return True
        due_ms = time_ms(self.run.delay_until or "") or 0
        await self._rest_until(self._around.runtime.sleep_until(due_ms))
        return await self._change(status="queued", queued_at=self._now())

    async def _take_slot(self) -> bool:
        self._slot = self._new_slot()
        try:
            async with self._until_expiry():
                await self._rest_until(self._slot.take())
        except TimeoutError:
            why = f"it had not started by {self.run.expires_at}"
            await self._end("expired", error=error_of(why, "Expired"))
            return False
        return True

    async def _rest_until(self, event: Coroutine[Any, Any, None]) -> None:
        """Wait for an event. `stop` calls off only this, never a change of the run."""
        if self._reason is not None:  # stopped since it was looked at
            event.close()
            raise asyncio.CancelledError
        self._is_resting = True
        try:
            await event
        finally:
            self._is_resting = False

    def _until_expiry(self) -> AbstractAsyncContextManager[None]:
        if self.run.expires_at is None or self.run.started_at is not None:
            return nullcontext()
        return self._around.runtime.deadline(time_ms(self.run.expires_at) or 0)

    # ---- one attempt ----

    async def _attempt(self) -> bool:
        """Execute once; true if another attempt follows."""
        started_at = self.run.started_at or self._now()
        patch = {"status": "executing", "started_at": started_at}
        if self.run.owner != self._around.owner:
            patch["owner"] = self._around.owner  # brought here by a queue
        try:
            if not await self._change(**patch):  # canceled while it was queued, or begun elsewhere
                self.run = (await self._keep(lambda: self._store.get_run(self.run.id))).run
                return False
        except RunNotFound:
            return False  # it was deleted
        self._queued_at = self.run.queued_at
        if self._reason is not None:
            await self._end_stopped()
            return False
        context = RunContext.of(self.run)
        work = self._work = asyncio.create_task(self._call(context), name=f"task {self.run.id}")
        watch = asyncio.create_task(self._watch())
        self._clock.run()
        try:
            was_stopped = await self._until_over(work, context)
            watch.cancel()
            self._clock.pause()
            self._slot.close()
            await self._slot.settled()
            return await self._close(work, was_stopped)
        finally:
            watch.cancel()
            self._work = None

    async def _call(self, context: RunContext) -> Any:
        run = self.run
        parent = tracing.context_of(run.metadata.get(tracing.TRACE_KEY))
        span = tracing.span(
            f"run {run.task}", kind="consumer", parent=parent, run=run.id, task=run.task
        )
        try:
            async with executing(context):
                with span:
                    output = await self._body(run)
        except SystemExit as error:  # meant for a script; here it would end the whole process
            raise RuntimeError(f"the task called sys.exit({error.code!r})") from error
        await self._around.runtime.flush(self.run.id)
        return output

    async def _until_over(self, work: asyncio.Task[Any], context: RunContext) -> bool:
        """Wait for the function; true if it was stopped before it had ended by itself."""
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
        around = self._around
        grace_s = around.stop_grace_s if self._reason == "stopped" else around.cancel_grace_s
        try:
            await asyncio.wait({work}, timeout=grace_s)
        except asyncio.CancelledError:
            pass  # by code that cancels all tasks, for the second time
        if not work.done():
            self._leave_behind(work, grace_s)
        return True

    def _leave_behind(self, work: asyncio.Task[Any], grace_s: float) -> None:
        self._log.warning(
            "run %s (%s) did not end within %g s of being %s; it is left behind",
            self.run.id,
            self.run.task,
            grace_s,
            self._reason,
        )
        work.cancel()
        self._around.left_behind.add(work)
        work.add_done_callback(self._around.left_behind.discard)
        work.add_done_callback(_failure)  # nobody else will look

    async def _watch(self) -> None:
        """Follow the run's own log: whoever asks to cancel it, anywhere, writes that there."""
        after: Position | None = None
        while True:
            try:
                async with aclosing(self._store.follow(run_log(self.run.id), after)) as pages:
                    async for page in pages:
                        patches = [orjson.loads(record.data) for record in page.records]
                        if page.end or any(patch.get("cancel_requested_at") for patch in patches):
                            self.stop("canceled")
                            return
                        owners = [patch["owner"] for patch in patches if "owner" in patch]
                        if owners and owners[-1] != self._around.owner:
                            await self._answer()
                        after = page.position
            except RunNotFound:  # deleted before it was followed
                self.stop("canceled")
                return
            except RealtimeError as error:
                self._log.warning("run %s: its log cannot be followed: %s", self.run.id, error)
            await asyncio.sleep(WATCH_AGAIN_S)

    async def _answer(self) -> None:
        """Stop if another process executes the run; if it only asks for it, keep it.

        See `redelivery`: that process took this one for dead, or was brought the run a second time.
        """
        run = (await self._store.get_run(self.run.id)).run
        if run.owner == self._around.owner or run.is_finished:
            return  # a change of before this attempt
        try:
            if run.queued_at != self._queued_at:  # taken over in an attempt of the same number
                raise IllegalTransition(f"run {run.id} was begun anew by {run.owner}")
            await self._patch({"owner": self._around.owner})
        except IllegalTransition:
            self.stop("taken")

    # ---- the end of an attempt ----

    async def _close(self, work: asyncio.Task[Any], was_stopped: bool) -> bool:
        """Keep how it went; what was appended is durable first, however it went."""
        lost: Exception | None = None
        try:
            await self._around.runtime.flush(self.run.id, forget=True)
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
            return await self._rest(failure)
        else:
            self._log.error("run %s (%s) failed", self.run.id, self.run.task, exc_info=failure)
            await self._end("failed", error=error_of(failure))
        return False

    async def _rest(self, failure: BaseException) -> bool:
        """Go back to wait for the next attempt."""
        attempt = self.run.attempt
        rest_s = self._retry.rest_s(attempt, self._around.random)
        self._log.warning(
            "run %s (%s): attempt %d of %d failed; the next comes in %.1f s",
            self.run.id,
            self.run.task,
            attempt,
            self.run.max_attempts,
            rest_s,
            exc_info=failure,
        )
        patch = retry_patch(self.run, self._now_ms(), error_of(failure), rest_s)
        if self._rests_with is not None:
            patch["owner"] = self._rests_with
        if not await self._change(**patch):
            return False
        if self.run.cancel_requested_at is not None:  # asked for just before
            await self._end_canceled()
            return False
        return True

    async def _end_stopped(self) -> None:
        if self._reason == "timed_out":
            limit_s = self.run.max_duration_s
            limit = "its worker allows" if limit_s is None else f"{limit_s:g} s"
            why = f"it executed for more than {limit}"
            await self._end("timed_out", error=error_of(why, "TimedOut"))
        elif self._reason == "stopped":
            await self._cut_off()
        elif self._reason == "taken":
            self._log.warning(
                "run %s (%s): attempt %d stops here: another process has taken the run over",
                self.run.id,
                self.run.task,
                self.run.attempt,
            )
        else:
            await self._end_canceled()

    async def _cut_off(self) -> None:
        """Leave the next attempt to the next process, where it can go on; else this is the end."""
        if not (self._around.keeps_queued and may_retry_crash(self.run)):
            await self._crash()
        elif await self._change(
            **interruption.next_patch(self.run, interruption.STOPPED, self._now_ms())
        ):
            interruption.log(self.run, interruption.STOPPED["message"])

    async def _crash(self) -> None:
        if await self._end("crashed", error=dict(interruption.STOPPED)):
            interruption.log(self.run, interruption.STOPPED["message"])

    async def _end_canceled(self) -> None:
        # Those that it triggered after the cancellation was asked for were not reached by it.
        await self._keep(lambda: cancel_children(self._around.runtime, self.run.id))
        await self._end("canceled")

    async def _end(self, status: str, **fields: Any) -> bool:
        def keep(patch: dict[str, Any]) -> Awaitable[bool]:
            return self._change(**patch)

        is_kept = await keep_end(keep, self.run, status, self._now_ms(), **fields)
        if not is_kept:
            self._log.info("run %s had ended already, or was deleted", self.run.id)
        return is_kept

    async def _change(self, **patch: Any) -> bool:
        """Change the run; false if it has ended, or was deleted, meanwhile."""

        async def keep() -> Run:
            try:
                return await self._patch(patch)
            except IllegalTransition:
                if not await self._restored():
                    raise
                return await self._patch(patch)

        try:
            self.run = await self._keep(lambda: asyncio.shield(keep()))
        except (IllegalTransition, RunNotFound):
            return False
        return True

    async def _restored(self) -> bool:
        """Say again that the run executes, if the store has lost that; false if it has not.

        A failover of Redis may lose changes that were acknowledged just before.
        """
        stored = (await self._store.get_run(self.run.id)).run
        is_ours = stored.owner == self.run.owner or not has_lease(stored.owner)
        is_behind = stored.is_queued and stored.attempt <= self.run.attempt
        if self._work is None or not (is_ours and is_behind):
            return False
        self._log.warning("run %s: the store has lost that it executes", self.run.id)
        if stored.status == "delayed":
            await self._patch({"status": "queued"})
        started = {"started_at": self.run.started_at, "owner": self._around.owner}
        await self._patch({"status": "executing", **started})
        return True

    async def _patch(self, patch: dict[str, Any]) -> Run:
        # Refused if a later attempt has begun elsewhere.
        patch = {"attempt": self.run.attempt, **patch}
        shared = self._around.taken_from
        if shared is None or self.run.owner != self._around.owner:
            return await self._store.patch_run(self.run.id, patch)
        run = await shared.patch_own_run(self.run.id, patch, self.run.owner)
        if run is None:
            raise IllegalTransition(f"run {self.run.id} was taken over by another gateway")
        return run

    async def _keep(self, keep: Callable[[], Awaitable[T]]) -> T:
        try:
            return await self._around.until_kept(keep, self.run.id, self._log)
        except (
            asyncio.CancelledError
        ):  # by code that cancels all tasks: once more, a repeat is safe
            self.stop("stopped")
            return await keep()

    def _now_ms(self) -> int:
        return self._around.runtime.clock_ms()

    def _now(self) -> str:
        return iso_time(self._now_ms())


def _failure(work: asyncio.Task[Any]) -> BaseException | None:
    """Say what a function ended with; None if it returned, or goes on."""
    if not work.done():
        return None
    return asyncio.CancelledError() if work.cancelled() else work.exception()
