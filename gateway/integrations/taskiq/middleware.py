"""What happens to Taskiq's messages: each gets a ticket, its run is kept, claimed and ended."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from gateway._internal.extras import needs
from gateway.errors import RealtimeError, RunCanceled
from gateway.integrations import _run_tracking
from gateway.integrations._handles import SentRuns
from gateway.integrations._run_tracking import HEADER, NOT_AGAIN, TAGS_HEADER, RunTicket
from gateway.integrations.taskiq.cancellation import TrackedMessage, executed, guarded
from gateway.model.runs import Run
from gateway.sdk.execution.outcome import error_of, is_only
from gateway.sdk.loops.background import in_order
from gateway.sdk.runtime import Runtime, enter_run, has_runtime, leave_run, runtime
from gateway.sdk.session import connected
from gateway.settings import Settings
from gateway.stores.remote.store import RemoteStore

with needs("taskiq"):
    from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult
    from taskiq.exceptions import NoResultError

QUEUE = "taskiq"
PREFIX = "realtime."  # of the names of this library's tasks
PATIENCE_S = 5.0  # for a gateway to hear of a change; the queue goes on without it
MAX_BACKOFF_S = 10.0

_log = logging.getLogger("realtime.queues")


class RealtimeMiddleware(TaskiqMiddleware):
    """Gives messages runs. Made by `install`.

    Args:
        is_tracked: Whether tasks of a name get runs.
        with_payloads: Show arguments and results in the runs.
        register: Makes this library's tasks known to the broker.
        release: Gives back what this process holds.
    """

    def __init__(
        self,
        is_tracked: Callable[[str], bool],
        with_payloads: bool,
        register: Callable[[], None],
        release: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__()
        self.sent = SentRuns()
        self._is_tracked = is_tracked
        self._with_payloads = with_payloads
        self._register, self._release = register, release
        self._executing: dict[str, TrackedMessage] = {}  # by the message's id
        self._connecting: asyncio.Task[None] | None = None
        self._is_ready = asyncio.Event()
        self._is_stopping = asyncio.Event()
        self._is_late = False  # the gateway did not answer in time: nobody waits until it does
        self._telling: set[asyncio.Task[Any]] = set()

    # ---- the process ----

    async def startup(self) -> None:
        """Connect to the gateway, unless this process has a runtime of its own."""
        self._register()
        if has_runtime():
            return
        self._connecting = asyncio.create_task(self._stay_connected(), name="realtime")
        ready = asyncio.create_task(self._is_ready.wait())
        done, _ = await asyncio.wait(
            {self._connecting, ready},
            timeout=PATIENCE_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        ready.cancel()
        if self._connecting in done:
            self._connecting.result()  # a setting that cannot work

    async def shutdown(self) -> None:
        """Give back what is held, let what was told be kept, and disconnect."""
        await self._release()
        if self._telling:
            await asyncio.wait(self._telling, timeout=PATIENCE_S)
        connecting, self._connecting = self._connecting, None
        if connecting is None:
            return
        self._is_stopping.set()
        if not self._is_ready.is_set():
            connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)

    async def _stay_connected(self) -> None:
        backoff_s = 0.2
        while True:
            try:
                # Calls and appends wait for a gateway that is away, also before the first answer.
                async with connected(Settings.from_env(), open_s=0) as active:
                    if isinstance(active.store, RemoteStore):
                        await active.store.reach()
                    self._is_ready.set()
                    await self._is_stopping.wait()
                return
            except RealtimeError as error:
                if not error.retryable:
                    raise
                _log.error("%s; trying again", error)
            await asyncio.sleep(backoff_s)
            backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)

    # ---- where messages are sent ----

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Give a new message a ticket; a message that is sent again keeps its own."""
        if not self._is_tracked(message.task_name):
            return message
        ticket = _ticket(message)
        if ticket is None:
            tags = [tag for tag in str(message.labels.get(TAGS_HEADER) or "").split(",") if tag]
            ticket = RunTicket.new(message.task_id, tags=tags)
            message.labels[HEADER] = json.dumps(ticket.to_header())
        elif _retries(message):
            if (tracked := self._executing.get(message.task_id)) is not None:
                tracked.is_sent_again = True
            await self._rest(ticket.run_id, _retries(message) + 1, tracked)
        return message

    async def post_send(self, message: TaskiqMessage) -> None:
        """Keep the run of a message that the broker has taken."""
        ticket = _ticket(message)
        if ticket is None or _retries(message) or not self._is_tracked(message.task_name):
            return
        self.sent.add(ticket)
        run = self._run(ticket, message)
        await self._tell(run.id, lambda active: _run_tracking.keep(active, run))

    def _run(self, ticket: RunTicket, message: TaskiqMessage) -> Run:
        shown = {"args": message.args, "kwargs": message.kwargs} if self._with_payloads else None
        return ticket.run(
            QUEUE,
            message.task_name,
            payload=_run_tracking.as_json(shown),
            max_attempts=max(1, int(message.labels.get("max_retries") or 1)),
        )

    # ---- where they are executed ----

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Claim the run of a message, and make it the current one."""
        if not self._is_tracked(message.task_name):
            return message
        ticket = _ticket(message) or RunTicket.new(message.task_id, is_guess=True)
        attempt = _retries(message) + 1
        run = self._run(ticket, message)
        kept = await self._tell(run.id, lambda active: _run_tracking.claim(active, run, attempt))
        if kept is not None and kept.is_finished and kept.status not in NOT_AGAIN:
            ticket = ticket.again()  # brought a second time, and executed again
            again = self._run(ticket, message)
            kept = await self._tell(
                again.id, lambda active: _run_tracking.claim(active, again, attempt)
            )
        elif kept is not None:
            ticket = ticket.of(kept)
        context = ticket.context(message.task_name, attempt)
        is_refused = kept is not None and kept.is_finished
        has_timeout = message.labels.get("timeout") is not None
        tracked = TrackedMessage(context, is_refused, enter_run(context), has_timeout)
        executed.set(tracked)  # Taskiq handles each message in a task, and so a context, of its own
        self._executing[message.task_id] = tracked
        if not is_refused and has_runtime():
            tracked.watching = asyncio.create_task(_watch(tracked))
        task = self.broker.find_task(message.task_name)
        if task is not None:
            task.original_func = guarded(task.original_func)
        return message

    async def on_error(
        self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException
    ) -> None:
        """Remember how it failed; others may take it out of the result and try again."""
        if (tracked := self._executing.get(message.task_id)) is not None:
            tracked.error = exception

    async def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """End the run of a message, or let it rest until the next attempt."""
        if (tracked := self._executing.pop(message.task_id, None)) is None:
            return
        leave_run(tracked.token)
        if tracked.watching is not None:
            tracked.watching.cancel()
        if tracked.is_refused:
            return
        lost = await self._flush(tracked.id)
        if lost is not None and not result.is_err:
            result.is_err, result.error, result.return_value = True, lost, None
        error = tracked.error or lost
        is_skipped = isinstance(error, NoResultError)  # the function wants no result
        if tracked.is_sent_again and error is not None:
            noted = error_of(error)
            await self._tell(
                tracked.id, lambda active: _run_tracking.note_error(active, tracked.id, noted)
            )
        elif isinstance(result.error, NoResultError) and not is_skipped:
            await self._rest(tracked.id, tracked.context.attempt + 1, tracked)  # sent again later
        else:
            await self._end(tracked, result, None if is_skipped else error)

    async def _end(
        self, tracked: TrackedMessage, result: TaskiqResult[Any], error: BaseException | None
    ) -> None:
        status, fields = "completed", {}
        if error is not None and is_only(error, RunCanceled):
            status = "canceled"
        elif tracked.is_timed_out(error):
            why = "it executed for longer than its label `timeout` allows"
            status, fields = "timed_out", {"error": error_of(why, "TimedOut")}
        elif error is not None:
            status, fields = "failed", {"error": error_of(error)}
        elif self._with_payloads:
            fields = {"output": _run_tracking.as_json(result.return_value)}
        await self._tell(
            tracked.id, lambda active: _run_tracking.end(active, tracked.id, status, **fields)
        )

    async def _rest(self, run_id: str, attempt: int, tracked: TrackedMessage | None) -> None:
        error = error_of(tracked.error) if tracked is not None and tracked.error else None
        await self._tell(
            run_id,
            lambda active: _run_tracking.rest(active, run_id, QUEUE, attempt=attempt, error=error),
        )

    async def _flush(self, run_id: str) -> Exception | None:
        if has_runtime():
            try:
                await runtime().flush(run_id, forget=True)
            except Exception as error:  # whatever it is, the run has to end
                return error
        return None

    # ---- telling ----

    async def _tell(self, run_id: str, work: Callable[[Runtime], Coroutine[Any, Any, Any]]) -> Any:
        """Change a run, and wait a little until it is done; Taskiq goes on if it is not.

        Returns:
            What the work returns; None if that is not known (yet).
        """
        telling = asyncio.create_task(self._do(run_id, work))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)
        telling.add_done_callback(self._has_come)
        if not self._is_late:
            await asyncio.wait({telling}, timeout=PATIENCE_S)
            if not telling.done():
                self._is_late = True
                _log.warning("run %s: no gateway has answered yet; the task goes on", run_id)
        is_known = telling.done() and not telling.cancelled() and telling.exception() is None
        return telling.result() if is_known else None

    async def _do(self, run_id: str, work: Callable[[Runtime], Coroutine[Any, Any, Any]]) -> Any:
        async with in_order(run_id):
            if not has_runtime():
                await self._is_ready.wait()
            return await _run_tracking.until_kept(runtime(), work, run_id)

    def _has_come(self, telling: asyncio.Task[Any]) -> None:
        if telling.cancelled():
            return
        if (error := telling.exception()) is None:
            self._is_late = False
        else:
            _log.warning("a run's change is lost: %s", error)


async def _watch(tracked: TrackedMessage) -> None:
    await _run_tracking.watch(runtime(), tracked.context)
    if tracked.context.is_canceled and tracked.task is not None:
        tracked.task.cancel()


def _ticket(message: TaskiqMessage) -> RunTicket | None:
    try:
        header = json.loads(message.labels.get(HEADER) or "null")
    except ValueError:
        return None
    return RunTicket.from_header(header, message.task_id)


def _retries(message: TaskiqMessage) -> int:
    return int(message.labels.get("_retries") or 0)
