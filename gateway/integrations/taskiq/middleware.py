"""The Taskiq middleware: each message gets a ticket and a run, which is claimed and finished."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from gateway._internal.extras import needs
from gateway.errors import RealtimeError, RunCanceled
from gateway.integrations import _run_tracking as tracking
from gateway.integrations._handles import SentRuns
from gateway.integrations._run_tracking import HEADER, SKIP_STATUSES, TAGS_HEADER, RunTicket
from gateway.integrations.taskiq.cancellation import TrackedMessage, cancellable, current_message
from gateway.model.runs import Run
from gateway.sdk.background import serialized
from gateway.sdk.context import pop_run, push_run
from gateway.sdk.execution.outcome import is_only, to_run_error
from gateway.sdk.runtime import Runtime, current_runtime, has_runtime
from gateway.sdk.session import connect_with
from gateway.settings import Settings
from gateway.stores.remote.store import RemoteStore

with needs("taskiq"):
    from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult
    from taskiq.exceptions import NoResultError

QUEUE = "taskiq"
PREFIX = "realtime."  # prefix of the names of this library's tasks
UPDATE_TIMEOUT_S = 5.0  # wait for one update of a run; the queue continues without it
MAX_BACKOFF_S = 10.0

_log = logging.getLogger("realtime.queues")


class RealtimeMiddleware(TaskiqMiddleware):
    """Tracks messages as runs. Created by `install`.

    Args:
        is_tracked: Whether to track tasks of a name.
        with_payloads: Store arguments and results in the runs.
        register: Registers this library's tasks with the broker.
        release: Returns the delayed runs of this process to the queue.
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
        self._executing: dict[str, TrackedMessage] = {}  # by message id
        self._connecting: asyncio.Task[None] | None = None
        self._is_ready = asyncio.Event()
        self._is_stopping = asyncio.Event()
        self._gateway_is_slow = (
            False  # an update timed out: later ones do not wait until one succeeds
        )
        self._updates: set[asyncio.Task[Any]] = set()

    # ---- process ----

    async def startup(self) -> None:
        """Connect to the gateway, unless this process has a runtime."""
        self._register()
        if has_runtime():
            return
        self._connecting = asyncio.create_task(self._stay_connected(), name="realtime")
        ready = asyncio.create_task(self._is_ready.wait())
        done, _ = await asyncio.wait(
            {self._connecting, ready},
            timeout=UPDATE_TIMEOUT_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        ready.cancel()
        if self._connecting in done:
            self._connecting.result()  # raises the error of an invalid setting

    async def shutdown(self) -> None:
        """Return delayed runs, complete pending updates and disconnect."""
        await self._release()
        if self._updates:
            await asyncio.wait(self._updates, timeout=UPDATE_TIMEOUT_S)
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
                # Calls and appends wait for an unreachable gateway, even before it first connects.
                async with connect_with(Settings.from_env(), open_s=0) as current:
                    if isinstance(current.store, RemoteStore):
                        await current.store.reach()
                    self._is_ready.set()
                    await self._is_stopping.wait()
                return
            except RealtimeError as error:
                if not error.retryable:
                    raise
                _log.error("%s; trying again", error)
            await asyncio.sleep(backoff_s)
            backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)

    # ---- sending ----

    async def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Add a ticket to a new message. A message that is sent again keeps its ticket."""
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
            await self._requeue(ticket.run_id, _retries(message) + 1, tracked)
        return message

    async def post_send(self, message: TaskiqMessage) -> None:
        """Store the run of a message that the broker has accepted."""
        ticket = _ticket(message)
        if ticket is None or _retries(message) or not self._is_tracked(message.task_name):
            return
        self.sent.add(ticket)
        run = self._run(ticket, message)
        await self._submit_update(run.id, lambda runtime: tracking.ensure_run(runtime, run))

    def _run(self, ticket: RunTicket, message: TaskiqMessage) -> Run:
        shown = {"args": message.args, "kwargs": message.kwargs} if self._with_payloads else None
        return ticket.run(
            QUEUE,
            message.task_name,
            payload=tracking.to_json_value(shown),
            max_attempts=max(1, int(message.labels.get("max_retries") or 1)),
        )

    # ---- executing ----

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Claim the run of a message and make it the current run."""
        if not self._is_tracked(message.task_name):
            return message
        ticket = _ticket(message) or RunTicket.new(message.task_id, is_synthetic=True)
        attempt = _retries(message) + 1
        run = self._run(ticket, message)
        stored = await self._submit_update(
            run.id, lambda runtime: tracking.claim(runtime, run, attempt)
        )
        if stored is not None and stored.is_finished and stored.status not in SKIP_STATUSES:
            ticket = ticket.for_new_run()  # redelivered after its run finished: another run
            new_run = self._run(ticket, message)
            stored = await self._submit_update(
                new_run.id, lambda runtime: tracking.claim(runtime, new_run, attempt)
            )
        elif stored is not None:
            ticket = ticket.with_run(stored)
        context = ticket.context(message.task_name, attempt)
        is_canceled = stored is not None and stored.is_finished
        has_timeout = message.labels.get("timeout") is not None
        tracked = TrackedMessage(context, is_canceled, push_run(context), has_timeout)
        current_message.set(
            tracked
        )  # Taskiq handles each message in a separate asyncio task, with its own context
        self._executing[message.task_id] = tracked
        if not is_canceled and has_runtime():
            tracked.watching = asyncio.create_task(_watch(tracked))
        task = self.broker.find_task(message.task_name)
        if task is not None:
            task.original_func = cancellable(task.original_func)
        return message

    async def on_error(
        self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException
    ) -> None:
        """Record the error; other middlewares may remove it from the result and retry."""
        if (tracked := self._executing.get(message.task_id)) is not None:
            tracked.error = exception

    async def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Finish the run of a message, or requeue it for the next attempt."""
        if (tracked := self._executing.pop(message.task_id, None)) is None:
            return
        pop_run(tracked.token)
        if tracked.watching is not None:
            tracked.watching.cancel()
        if tracked.is_skipped:
            return
        lost = await self._flush(tracked.id)
        if lost is not None and not result.is_err:
            result.is_err, result.error, result.return_value = True, lost, None
        error = tracked.error or lost
        is_skipped = isinstance(error, NoResultError)  # the function raised it: it has no result
        if tracked.is_sent_again and error is not None:
            noted = to_run_error(error)
            await self._submit_update(
                tracked.id, lambda runtime: tracking.record_error(runtime, tracked.id, noted)
            )
        elif isinstance(result.error, NoResultError) and not is_skipped:
            await self._requeue(
                tracked.id, tracked.context.attempt + 1, tracked
            )  # Taskiq will send the message again
        else:
            await self._end(tracked, result, None if is_skipped else error)

    async def _end(
        self, tracked: TrackedMessage, result: TaskiqResult[Any], error: BaseException | None
    ) -> None:
        status, fields = "completed", {}
        if error is not None and is_only(error, RunCanceled):
            status = "canceled"
        elif tracked.is_timed_out(error):
            reason = "it executed for longer than its label `timeout` allows"
            status, fields = "timed_out", {"error": to_run_error(reason, "TimedOut")}
        elif error is not None:
            status, fields = "failed", {"error": to_run_error(error)}
        elif self._with_payloads:
            fields = {"output": tracking.to_json_value(result.return_value)}
        await self._submit_update(
            tracked.id,
            lambda runtime: tracking.finish_run(runtime, tracked.id, status, **fields),
        )

    async def _requeue(self, run_id: str, attempt: int, tracked: TrackedMessage | None) -> None:
        error = to_run_error(tracked.error) if tracked is not None and tracked.error else None
        await self._submit_update(
            run_id,
            lambda runtime: tracking.requeue(runtime, run_id, QUEUE, attempt=attempt, error=error),
        )

    async def _flush(self, run_id: str) -> Exception | None:
        if has_runtime():
            try:
                await current_runtime().flush(run_id, forget=True)
            except Exception as error:  # the run has to finish in any case
                return error
        return None

    # ---- updates ----

    async def _submit_update(
        self, run_id: str, work: Callable[[Runtime], Coroutine[Any, Any, Any]]
    ) -> Any:
        """Submit an update of a run and wait up to 5 s for it; Taskiq continues without its result.

        Returns:
            The result of the update; None if it failed or is still pending.
        """
        update = asyncio.create_task(self._apply(run_id, work))
        self._updates.add(update)
        update.add_done_callback(self._updates.discard)
        update.add_done_callback(self._update_done)
        if not self._gateway_is_slow:
            await asyncio.wait({update}, timeout=UPDATE_TIMEOUT_S)
            if not update.done():
                self._gateway_is_slow = True
                _log.warning("run %s: the gateway has not answered yet; the task continues", run_id)
        is_known = update.done() and not update.cancelled() and update.exception() is None
        return update.result() if is_known else None

    async def _apply(self, run_id: str, work: Callable[[Runtime], Coroutine[Any, Any, Any]]) -> Any:
        async with serialized(run_id):
            if not has_runtime():
                await self._is_ready.wait()
            return await tracking.persist_with_retry(current_runtime(), work, run_id)

    def _update_done(self, update: asyncio.Task[Any]) -> None:
        if update.cancelled():
            return
        if (error := update.exception()) is None:
            self._gateway_is_slow = False
        else:
            _log.warning("an update of a run is lost: %s", error)


async def _watch(tracked: TrackedMessage) -> None:
    await tracking.watch_cancellation(current_runtime(), tracked.context)
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
