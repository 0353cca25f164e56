"""What happens in Celery's workers: a run is claimed, executed and ended as its signals say.

In a prefork worker the functions are executed in child processes, each with a runtime of its own;
the parent process only learns of what its children cannot tell: that they were killed, or that a
message was revoked or came too late.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Token
from dataclasses import dataclass
from functools import wraps
from typing import Any
from weakref import WeakValueDictionary

from gateway._internal.extras import needs
from gateway.errors import RunCanceled
from gateway.integrations import _run_tracking
from gateway.integrations._run_tracking import HEADER, NOT_AGAIN, TAGS_HEADER, RunTicket
from gateway.integrations.celery.publisher import QUEUE, payload_of, tell
from gateway.integrations.celery.runner import PREFIX, register_all
from gateway.model.runs import Run
from gateway.sdk.execution.outcome import error_of, is_only
from gateway.sdk.loops import background
from gateway.sdk.loops.bridge import is_on_loop
from gateway.sdk.runtime import RunContext, Runtime, enter_run, has_runtime, leave_run, runtime

with needs("celery"):
    from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
    from celery import Celery, states
    from celery.app.trace import build_tracer
    from celery.exceptions import Ignore

_TRACKED = "_realtime_run"  # attribute of the request that is executed
_WRAPPED = "_realtime_wrapped"  # attribute of a task whose `run` is wrapped

_log = logging.getLogger("realtime.queues")


@dataclass(eq=False, slots=True)
class _Tracked:
    context: RunContext
    is_refused: bool
    token: Token[RunContext | None]
    watching: Future[None] | None
    has_ended: bool = False

    @property
    def id(self) -> str:
        return self.context.id


class Worker:
    """Receives the signals of the processes that work.

    Args:
        app: Whose tasks are executed.
        is_tracked: Whether tasks of a name get runs.
        with_payloads: Show results in the runs.
    """

    def __init__(self, app: Celery, is_tracked: Callable[[str], bool], with_payloads: bool) -> None:
        self._app = app
        self._is_tracked = is_tracked
        self._with_payloads = with_payloads
        # In the parent process: what it has received and not yet done with.
        self._requests: WeakValueDictionary[str, Any] = WeakValueDictionary()

    @property
    def receivers(self) -> dict[str, Callable[..., None]]:
        """By the names of Celery's signals."""
        return {
            "worker_init": self.start_worker,
            "worker_process_init": self.start_process,
            "worker_process_shutdown": self.stop,
            "worker_shutdown": self.stop,
            "task_received": self.receive,
            "task_prerun": self.begin,
            "task_success": self.succeed,
            "task_failure": self.fail,
            "task_retry": self.retry,
            "task_revoked": self.revoke,
            "task_postrun": self.leave,
        }

    # ---- processes ----

    def start_worker(self, **_: Any) -> None:
        """Prepare the tasks before the worker makes its child processes of itself."""
        self.wrap_all()
        register_all(self._app)

    def start_process(self, sender: Any = None, **_: Any) -> None:
        """Give a process that executes tasks its runtime."""
        self._requests.clear()  # the parent's
        register_all(self._app)
        for task in self.wrap_all():  # a process that was not forked has not got them yet
            task.__trace__ = build_tracer(task.name, task, self._app.loader, sender, app=self._app)
        background.start()

    def stop(self, **_: Any) -> None:
        """Let what was told be kept before the process ends."""
        background.stop()

    # ---- functions ----

    def wrap_all(self) -> list[Any]:
        """Have every task flush what it appended before Celery says that it succeeded.

        Returns:
            Those that were not wrapped before.
        """
        new = []
        for name, task in list(self._app._tasks.items()):
            if self._is_tracked(name) and not hasattr(task, _WRAPPED):
                task.run = _flushing(task)
                setattr(task, _WRAPPED, True)
                new.append(task)
        return new

    # ---- one execution ----

    def begin(self, sender: Any, task_id: str, args: Any, kwargs: Any, **_: Any) -> None:
        """Claim the run of a message, and make it the current one."""
        if not self._is_tracked(sender.name):
            return
        request = sender.request
        ticket = _ticket_of(request, task_id)
        attempt = request.retries + 1
        fields = self._fields(sender, (args, kwargs))
        run = ticket.run(QUEUE, sender.name, **fields)
        kept = tell(lambda active: _run_tracking.claim(active, run, attempt), order=run.id)
        if kept is not None and kept.is_finished and kept.status not in NOT_AGAIN:
            # Celery brings it a second time, and executes it again.
            ticket = ticket.again()
            again = ticket.run(QUEUE, sender.name, **fields)
            kept = tell(lambda active: _run_tracking.claim(active, again, attempt), order=again.id)
        elif kept is not None:
            ticket = ticket.of(kept)
        context = ticket.context(sender.name, attempt)
        is_refused = kept is not None and kept.is_finished
        watching = None if is_refused else _watch(context)
        tracked = _Tracked(context, is_refused, enter_run(context), watching)
        setattr(request, _TRACKED, tracked)

    def succeed(self, sender: Any, result: Any, **_: Any) -> None:
        """End a run as completed."""
        if (tracked := _tracked(sender)) is not None:
            output = _run_tracking.as_json(result) if self._with_payloads else None
            self._end(tracked, "completed", output=output)

    def fail(self, sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
        """End a run whose function failed, or whose process was lost."""
        status, error = _judge(exception)
        fields = {} if error is None else {"error": error}
        if (tracked := _tracked(sender)) is not None:
            self._end(tracked, status, **fields)
        else:
            self._end_elsewhere(sender, self._requests.get(task_id), status, fields)

    def retry(self, sender: Any, reason: Any, **_: Any) -> None:
        """Say why a run is tried again; that it is was said when its message was sent."""
        if (tracked := _tracked(sender)) is not None:
            tracked.has_ended = True  # here
            error = error_of(reason.exc if getattr(reason, "exc", None) else reason)
            run_id = tracked.id
            tell(lambda active: _run_tracking.note_error(active, run_id, error), order=run_id)

    def leave(self, sender: Any, state: str | None, **_: Any) -> None:
        """Let go of a run, however it went."""
        if (tracked := _tracked(sender)) is None:
            return
        leave_run(tracked.token)
        if tracked.watching is not None:
            tracked.watching.cancel()
        if state == states.IGNORED and not (tracked.has_ended or tracked.is_refused):
            self._end(tracked, "completed")  # the function says that its result is of no interest
        delattr(sender.request, _TRACKED)

    def _end(self, tracked: _Tracked, status: str, **fields: Any) -> None:
        tracked.has_ended = True
        run_id = tracked.id

        async def end(active: Runtime) -> None:
            try:
                await active.flush(run_id, forget=True)
            except Exception as error:  # whatever it is, the run has to end
                _log.warning("run %s: %s", run_id, error)
            await _run_tracking.end(active, run_id, status, **fields)

        tell(end, order=run_id)

    # ---- the parent process ----

    def receive(self, request: Any, **_: Any) -> None:
        """Remember a message: of a child that was killed Celery says only which one it had."""
        self._requests[request.id] = request

    def revoke(self, sender: Any, request: Any, expired: bool, **_: Any) -> None:
        """End a run that Celery does not execute, or no longer."""
        status = "expired" if expired else "canceled"
        fields = {"error": error_of("it had not started in time", "Expired")} if expired else {}
        self._end_elsewhere(sender, request, status, fields)

    def _end_elsewhere(
        self, sender: Any, request: Any, status: str, fields: dict[str, Any]
    ) -> None:
        """End the run of a message that no process executes; it may be faster than its sender."""
        if request is None:
            return
        run: str | Run = str(request.id)
        if not sender.name.startswith(PREFIX):
            headers = getattr(request, "request_dict", None) or vars(request)
            ticket = RunTicket.from_header(headers.get(HEADER), request.id)
            if ticket is None:
                return
            body = (request.args, request.kwargs)
            run = ticket.run(QUEUE, sender.name, **self._fields(sender, body))
        order = run if isinstance(run, str) else run.id
        tell(lambda active: _run_tracking.end(active, run, status, **fields), order=order)

    def _fields(self, task: Any, body: tuple[Any, Any]) -> dict[str, Any]:
        fields = {} if task.max_retries is None else {"max_attempts": task.max_retries + 1}
        return fields | ({"payload": payload_of(body)} if self._with_payloads else {})


def _ticket_of(request: Any, task_id: str) -> RunTicket:
    headers = {**(request.headers or {}), **vars(request)}
    ticket = RunTicket.from_header(headers.get(HEADER), task_id)
    if ticket is None:
        tags = headers.get(TAGS_HEADER) or ()
        ticket = RunTicket.new(task_id, tags=tags, is_guess=True)
    return ticket


def _tracked(task: Any) -> _Tracked | None:
    return getattr(task.request, _TRACKED, None)


def _watch(context: RunContext) -> Future[None] | None:
    if not has_runtime():
        return None
    return background.submit(lambda active: _run_tracking.watch(active, context))


def _judge(exception: BaseException) -> tuple[str, dict[str, str] | None]:
    """Say what a run ends as, and why."""
    if is_only(exception, RunCanceled):
        return "canceled", None
    if isinstance(exception, SoftTimeLimitExceeded | TimeLimitExceeded):
        return "timed_out", error_of("it executed for longer than its worker allows", "TimedOut")
    if isinstance(exception, WorkerLostError):
        return "crashed", error_of(exception, "ProcessDied")
    return "failed", error_of(exception)


def _flushing(task: Any) -> Callable[..., Any]:
    function = task.run

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        tracked = _tracked(task)
        if tracked is None:
            return function(*args, **kwargs)
        if tracked.is_refused:
            task.backend.mark_as_revoked(
                task.request.id, "its run was canceled", request=task.request
            )
            raise Ignore
        result = function(*args, **kwargs)
        if has_runtime() and not is_on_loop():
            active = runtime()
            flushing = active.flush(tracked.id)
            asyncio.run_coroutine_threadsafe(flushing, active.loop).result()
        return result

    return run
