"""Tasks of this library on Celery's workers: `@task(runner="celery")`.

Each task is a Celery task `realtime.<id>`, so that Celery's routes, limits and monitors know it by
name; its message is the run's id, which is the Celery task's id too. The worker claims the run and
executes it as every runner does; between two attempts the run is back in the queue.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from gateway._internal.extras import needs
from gateway.errors import QueueUnavailable, RunFailed
from gateway.integrations import _run_tracking
from gateway.model.runs import Run, time_ms
from gateway.sdk import tasks
from gateway.sdk.execution.outcome import error_of
from gateway.sdk.execution.task_queues import owner_of
from gateway.sdk.loops import background
from gateway.sdk.runtime import Runtime

with needs("celery"):
    from billiard.exceptions import SoftTimeLimitExceeded
    from celery import Celery
    from celery.exceptions import Ignore, Retry
    from kombu.exceptions import OperationalError

PREFIX = "realtime."
NAME = "celery"


class CeleryQueue:
    """See `TaskQueue`.

    Args:
        app: Whose workers execute.
    """

    name = NAME

    def __init__(self, app: Celery) -> None:
        self._app = app

    async def put(self, run: Run) -> None:
        """See `TaskQueue.put`."""
        task = register(self._app, run.task)
        options: dict[str, Any] = {"task_id": run.id, "eta": _due(run)}
        try:
            await asyncio.to_thread(task.apply_async, (run.id,), **options)
        except (OperationalError, OSError) as error:
            raise QueueUnavailable(f"Celery's broker took no run of {run.task}: {error}") from None


def register_all(app: Celery) -> None:
    """Make the tasks that are defined in this process known to Celery."""
    for task in tasks.defined():
        register(app, task.id)


def register(app: Celery, task_id: str) -> Any:
    """Return the Celery task that executes a task, and make it if there is none yet."""
    name = PREFIX + task_id
    if name not in app.tasks:
        # The run counts the attempts and has the output; Celery need not.
        app.task(name=name, bind=True, max_retries=None, ignore_result=True)(_execute)
    return app.tasks[name]


def _execute(self: Any, run_id: str) -> Any:
    """Execute a run, wait for it, and tell Celery how it went."""
    run = _carry_out(run_id)
    if run.is_queued:
        _send_again(self, run)
    if run.is_canceled or run.is_executing:  # by another worker, which is alive
        raise Ignore
    if not run.is_success:
        why = f"{run.error.type}: {run.error.message}" if run.error else run.status
        raise RunFailed(f"run {run_id} of {run.task}: {why}")
    return run.output


def _carry_out(run_id: str) -> Run:
    done = background.submit(lambda _: tasks.carry_out(run_id, owner_of(NAME)))
    try:
        return done.result()
    except SoftTimeLimitExceeded:

        async def time_out(active: Runtime) -> None:
            if active.runner is not None:
                active.runner.time_out(run_id)

        background.submit(time_out).result()
        return done.result()


def _send_again(task: Any, run: Run) -> None:
    """Have the next attempt made, by whichever worker is free when it is due."""
    try:
        due = _due(run)
        raise task.retry(eta=due) if due is not None else task.retry(countdown=0)
    except Retry:
        raise
    except Exception as error:
        why = f"the next attempt could not be queued: {error}"
        lost = error_of(why, QueueUnavailable.__name__)
        ending = background.submit(
            lambda active: _run_tracking.end(active, run.id, "crashed", error=lost)
        )
        ending.result()
        raise


def _due(run: Run) -> datetime | None:
    due_ms = time_ms(run.delay_until) if run.status == "delayed" and run.delay_until else None
    return None if due_ms is None else datetime.fromtimestamp(due_ms / 1000, tz=UTC)
