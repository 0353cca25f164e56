"""Tasks of this library on Celery workers: `@task(runner="celery")`.

Each task is a Celery task `realtime.<id>`, the name for Celery's routes, limits and monitors. The
message contains only the run's id, which is also the Celery task's id. The worker claims the run
and executes it like every runner. Between two attempts the run is in the queue again.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from gateway._internal.extras import needs
from gateway.errors import QueueUnavailable, RunFailed
from gateway.integrations import _run_tracking as tracking
from gateway.model.runs import Run, time_ms
from gateway.sdk import background, task_registry
from gateway.sdk.execution.outcome import to_run_error
from gateway.sdk.execution.task_queues import queue_owner
from gateway.sdk.runtime import Runtime

with needs("celery"):
    from billiard.exceptions import SoftTimeLimitExceeded
    from celery import Celery
    from celery.exceptions import Ignore, Retry
    from kombu.exceptions import OperationalError

PREFIX = "realtime."
NAME = "celery"


class CeleryQueue:
    """The task queue of a Celery application; see `TaskQueue`.

    Args:
        app: The application whose workers execute the runs.
    """

    name = NAME

    def __init__(self, app: Celery) -> None:
        self._app = app

    async def enqueue(self, run: Run) -> None:
        """See `TaskQueue.put`."""
        task = register(self._app, run.task)
        options: dict[str, Any] = {"task_id": run.id, "eta": _due(run)}
        try:
            await asyncio.to_thread(task.apply_async, (run.id,), **options)
        except (OperationalError, OSError) as error:
            raise QueueUnavailable(
                f"Celery's broker did not accept a run of {run.task}: {error}"
            ) from None


def register_all(app: Celery) -> None:
    """Register the tasks that are defined in this process with Celery."""
    for task in task_registry.defined():
        register(app, task.id)


def register(app: Celery, task_id: str) -> Any:
    """Return the Celery task that executes a task; register it if necessary."""
    name = PREFIX + task_id
    if name not in app.tasks:
        # The run has the attempts and the output, so Celery need not store them.
        app.task(name=name, bind=True, max_retries=None, ignore_result=True)(_execute)
    return app.tasks[name]


def _execute(self: Any, run_id: str) -> Any:
    """Execute a run, wait for it, and report its result to Celery."""
    run = _run_to_end(run_id)
    if run.is_queued:
        _requeue(self, run)
    if run.is_canceled or run.is_executing:  # by another worker, which is alive
        raise Ignore
    if not run.is_success:
        reason = f"{run.error.type}: {run.error.message}" if run.error else run.status
        raise RunFailed(f"run {run_id} of {run.task}: {reason}")
    return run.output


def _run_to_end(run_id: str) -> Run:
    done = background.submit(lambda _: task_registry.execute_queued(run_id, queue_owner(NAME)))
    try:
        return done.result()
    except SoftTimeLimitExceeded:

        async def time_out(runtime: Runtime) -> None:
            if runtime.runner is not None:
                runtime.runner.time_out(run_id)

        background.submit(time_out).result()
        return done.result()


def _requeue(task: Any, run: Run) -> None:
    """Let Celery execute the next attempt, on any worker, when it is due."""
    try:
        due = _due(run)
        raise task.retry(eta=due) if due is not None else task.retry(countdown=0)
    except Retry:
        raise
    except Exception as error:
        why = f"the next attempt could not be queued: {error}"
        lost = to_run_error(why, QueueUnavailable.__name__)
        ending = background.submit(
            lambda runtime: tracking.finish_run(runtime, run.id, "crashed", error=lost)
        )
        ending.result()
        raise


def _due(run: Run) -> datetime | None:
    due_ms = time_ms(run.delay_until) if run.status == "delayed" and run.delay_until else None
    return None if due_ms is None else datetime.fromtimestamp(due_ms / 1000, tz=UTC)
