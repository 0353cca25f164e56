"""Signals of Celery workers: each run is claimed, executed and finished as the signals report.

In a prefork worker, child processes execute the functions, each with its own runtime. The parent
process handles what its children cannot report: a killed child, and a revoked or expired message.
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
from gateway.integrations import _run_tracking as tracking
from gateway.integrations._run_tracking import HEADER, SKIP_STATUSES, TAGS_HEADER, RunTicket
from gateway.integrations.celery.publisher import QUEUE, payload_of, submit_update
from gateway.integrations.celery.runner import PREFIX, register_all
from gateway.model.runs import Run
from gateway.sdk import background
from gateway.sdk.context import RunContext, pop_run, push_run
from gateway.sdk.execution.outcome import is_only, to_run_error
from gateway.sdk.loops.bridge import is_on_loop
from gateway.sdk.runtime import Runtime, current_runtime, has_runtime

with needs("celery"):
    from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
    from celery import Celery, states
    from celery.app.trace import build_tracer
    from celery.exceptions import Ignore

_REQUEST_KEY = "_realtime_run"  # attribute of the executing request
_WRAPPED_KEY = "_realtime_wrapped"  # attribute of a task with a wrapped `run`

_log = logging.getLogger("realtime.queues")


@dataclass(eq=False, slots=True)
class _TrackedRequest:
    context: RunContext
    is_skipped: bool
    token: Token[RunContext | None]
    watching: Future[None] | None
    has_ended: bool = False

    @property
    def id(self) -> str:
        return self.context.id


class Worker:
    """Receives the signals of processes that execute tasks.

    Args:
        app: The application whose tasks are executed.
        is_tracked: Whether to track tasks of a name.
        with_payloads: Store arguments and results in the runs.
    """

    def __init__(self, app: Celery, is_tracked: Callable[[str], bool], with_payloads: bool) -> None:
        self._app = app
        self._is_tracked = is_tracked
        self._with_payloads = with_payloads
        # In the parent process: received requests that are not finished.
        self._requests: WeakValueDictionary[str, Any] = WeakValueDictionary()

    @property
    def receivers(self) -> dict[str, Callable[..., None]]:
        """Receivers by the names of Celery's signals."""
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
        """Prepare the tasks before the worker forks its child processes."""
        self.wrap_all()
        register_all(self._app)

    def start_process(self, sender: Any = None, **_: Any) -> None:
        """Start the runtime of a process that executes tasks."""
        self._requests.clear()  # inherited from the parent process
        register_all(self._app)
        for task in self.wrap_all():  # a spawned process has not wrapped its tasks yet
            task.__trace__ = build_tracer(task.name, task, self._app.loader, sender, app=self._app)
        background.start()

    def stop(self, **_: Any) -> None:
        """Complete pending updates before the process ends."""
        background.stop()

    # ---- functions ----

    def wrap_all(self) -> list[Any]:
        """Wrap all tasks so that they flush appended records before Celery marks them as succeeded.

        Returns:
            The tasks that were not wrapped before.
        """
        new = []
        for name, task in list(self._app._tasks.items()):
            if self._is_tracked(name) and not hasattr(task, _WRAPPED_KEY):
                task.run = _with_flush(task)
                setattr(task, _WRAPPED_KEY, True)
                new.append(task)
        return new

    # ---- one execution ----

    def begin(self, sender: Any, task_id: str, args: Any, kwargs: Any, **_: Any) -> None:
        """Claim the run of a message and make it the current run."""
        if not self._is_tracked(sender.name):
            return
        request = sender.request
        ticket = _ticket_of(request, task_id)
        attempt = request.retries + 1
        fields = self._fields(sender, (args, kwargs))
        run = ticket.run(QUEUE, sender.name, **fields)
        stored = submit_update(lambda runtime: tracking.claim(runtime, run, attempt), order=run.id)
        if stored is not None and stored.is_finished and stored.status not in SKIP_STATUSES:
            # A redelivered message of a finished run executes again, as another run.
            ticket = ticket.for_new_run()
            new_run = ticket.run(QUEUE, sender.name, **fields)
            stored = submit_update(
                lambda runtime: tracking.claim(runtime, new_run, attempt), order=new_run.id
            )
        elif stored is not None:
            ticket = ticket.with_run(stored)
        context = ticket.context(sender.name, attempt)
        is_skipped = stored is not None and stored.is_finished
        watching = None if is_skipped else _watch(context)
        tracked = _TrackedRequest(context, is_skipped, push_run(context), watching)
        setattr(request, _REQUEST_KEY, tracked)

    def succeed(self, sender: Any, result: Any, **_: Any) -> None:
        """Finish a run as completed."""
        if (tracked := _tracked(sender)) is not None:
            output = tracking.to_json_value(result) if self._with_payloads else None
            self._end(tracked, "completed", output=output)

    def fail(self, sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
        """Finish a run whose function failed or whose process died."""
        status, error = _status_of(exception)
        fields = {} if error is None else {"error": error}
        if (tracked := _tracked(sender)) is not None:
            self._end(tracked, status, **fields)
        else:
            self._end_elsewhere(sender, self._requests.get(task_id), status, fields)

    def retry(self, sender: Any, reason: Any, **_: Any) -> None:
        """Record the error of a retried attempt. The retry is recorded when its message is sent."""
        if (tracked := _tracked(sender)) is not None:
            tracked.has_ended = True  # in this process
            error = to_run_error(reason.exc if getattr(reason, "exc", None) else reason)
            run_id = tracked.id
            submit_update(
                lambda runtime: tracking.record_error(runtime, run_id, error), order=run_id
            )

    def leave(self, sender: Any, state: str | None, **_: Any) -> None:
        """Release the current run, whatever its result."""
        if (tracked := _tracked(sender)) is None:
            return
        pop_run(tracked.token)
        if tracked.watching is not None:
            tracked.watching.cancel()
        if state == states.IGNORED and not (tracked.has_ended or tracked.is_skipped):
            self._end(tracked, "completed")  # the function raised Ignore: it has no result
        delattr(sender.request, _REQUEST_KEY)

    def _end(self, tracked: _TrackedRequest, status: str, **fields: Any) -> None:
        tracked.has_ended = True
        run_id = tracked.id

        async def end(current: Runtime) -> None:
            try:
                await current.flush(run_id, forget=True)
            except Exception as error:  # the run has to finish in any case
                _log.warning("run %s: %s", run_id, error)
            await tracking.finish_run(current, run_id, status, **fields)

        submit_update(end, order=run_id)

    # ---- the parent process ----

    def receive(self, request: Any, **_: Any) -> None:
        """Store a request, because Celery reports only the message id of a killed child."""
        self._requests[request.id] = request

    def revoke(self, sender: Any, request: Any, expired: bool, **_: Any) -> None:
        """Finish a run that Celery does not execute, or stopped executing."""
        status = "expired" if expired else "canceled"
        fields = {"error": to_run_error("it had not started in time", "Expired")} if expired else {}
        self._end_elsewhere(sender, request, status, fields)

    def _end_elsewhere(
        self, sender: Any, request: Any, status: str, fields: dict[str, Any]
    ) -> None:
        """Finish the run of a message that no process executes; create it if necessary."""
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
        submit_update(
            lambda runtime: tracking.finish_run(runtime, run, status, **fields), order=order
        )

    def _fields(self, task: Any, body: tuple[Any, Any]) -> dict[str, Any]:
        fields = {} if task.max_retries is None else {"max_attempts": task.max_retries + 1}
        return fields | ({"payload": payload_of(body)} if self._with_payloads else {})


def _ticket_of(request: Any, task_id: str) -> RunTicket:
    headers = {**(request.headers or {}), **vars(request)}
    ticket = RunTicket.from_header(headers.get(HEADER), task_id)
    if ticket is None:
        tags = headers.get(TAGS_HEADER) or ()
        ticket = RunTicket.new(task_id, tags=tags, is_synthetic=True)
    return ticket


def _tracked(task: Any) -> _TrackedRequest | None:
    return getattr(task.request, _REQUEST_KEY, None)


def _watch(context: RunContext) -> Future[None] | None:
    if not has_runtime():
        return None
    return background.submit(lambda runtime: tracking.watch_cancellation(runtime, context))


def _status_of(exception: BaseException) -> tuple[str, dict[str, str] | None]:
    """Return the final status, and the error, for an exception."""
    if is_only(exception, RunCanceled):
        return "canceled", None
    if isinstance(exception, SoftTimeLimitExceeded | TimeLimitExceeded):
        return "timed_out", to_run_error(
            "it executed for longer than its worker allows", "TimedOut"
        )
    if isinstance(exception, WorkerLostError):
        return "crashed", to_run_error(exception, "ProcessDied")
    return "failed", to_run_error(exception)


def _with_flush(task: Any) -> Callable[..., Any]:
    function = task.run

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        tracked = _tracked(task)
        if tracked is None:
            return function(*args, **kwargs)
        if tracked.is_skipped:
            task.backend.mark_as_revoked(
                task.request.id, "its run was canceled", request=task.request
            )
            raise Ignore
        result = function(*args, **kwargs)
        if has_runtime() and not is_on_loop():
            current = current_runtime()
            flushing = current.flush(tracked.id)
            asyncio.run_coroutine_threadsafe(flushing, current.loop).result()
        return result

    return run
