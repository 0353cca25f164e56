"""Taskiq tasks as runs, and `@task` on Taskiq workers.

    broker = RedisStreamBroker("redis://…")
    install(broker)                     # workers and senders now create runs

A function that Taskiq calls by itself (`@broker.task`) gets a run for each message. The run's
status follows the message, its parent is the run that sent the message, and `append`, `metadata`,
`trigger` and `current_run` work inside. Appended records are durable before Taskiq has the result.
A run has no payload and no output unless `with_payloads` is set, because every page that may read
the run would see them.

`@task(runner="taskiq")` executes a task of this library on Taskiq workers. `trigger`, waits,
retries and cancellation work as for any other task. A worker holds a run that is not yet due.

Workers connect to the gateway at `REALTIME_URL`. While it is unreachable, Taskiq continues to work,
and the updates of runs are sent later.

    cancellation  tracked functions that a cancellation can stop
    delays        runs that are held until they are due
    middleware    the middleware: each message gets a ticket; its run is claimed and finished
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway._internal.extras import needs
from gateway.errors import QueueUnavailable, RunFailed, RunNotFound
from gateway.integrations._handles import Handle
from gateway.integrations.taskiq.delays import DelayedRuns
from gateway.integrations.taskiq.middleware import PREFIX, QUEUE, RealtimeMiddleware
from gateway.model.runs import Run, time_ms
from gateway.sdk import task_registry
from gateway.sdk.execution import task_queues
from gateway.sdk.runtime import current_runtime

with needs("taskiq"):
    from taskiq import AsyncBroker, AsyncTaskiqTask
    from taskiq.exceptions import NoResultError, SendTaskError
    from taskiq.kicker import AsyncKicker


def install(
    broker: AsyncBroker,
    *,
    with_payloads: bool = False,
    tracks: Callable[[str], bool] = lambda name: True,
) -> None:
    """Track a broker's tasks as runs, and use it for `runner="taskiq"`.

    Call it in the module that creates the broker, before other middlewares are added, so that it is
    called in every sender and worker. A sender has to await `broker.startup()`, as Taskiq requires.

    Args:
        broker: The broker.
        with_payloads: Store arguments and results in the runs, visible to every reader of a run.
        tracks: Whether to track tasks of a name.
    """
    queue = TaskiqQueue(broker)
    task_queues.register(queue)
    if any(isinstance(each, RealtimeMiddleware) for each in broker.middlewares):
        return

    def is_tracked(name: str) -> bool:
        return not name.startswith(PREFIX) and tracks(name)

    broker.add_middlewares(
        RealtimeMiddleware(is_tracked, with_payloads, queue.register_all, queue.delayed.release)
    )


class TaskiqQueue:
    """The task queue of a Taskiq broker; see `TaskQueue`.

    Args:
        broker: The broker whose workers execute the runs.
    """

    name = QUEUE

    def __init__(self, broker: AsyncBroker) -> None:
        self._broker = broker
        self.delayed = DelayedRuns(self)

    async def enqueue(self, run: Run) -> None:
        """See `TaskQueue.put`."""
        self.register(run.task)  # required by a broker that executes in this process
        name = PREFIX + run.task
        kicker: AsyncKicker[Any, Any] = AsyncKicker(name, self._broker, _LABELS.copy())
        try:
            await kicker.with_task_id(run.id).kiq(run.id)
        except SendTaskError as error:
            reason = error.__cause__ or error
            raise QueueUnavailable(
                f"Taskiq's broker did not accept a run of {run.task}: {reason}"
            ) from None

    def register_all(self) -> None:
        """Register the tasks that are defined in this process with the broker."""
        for task in task_registry.defined():
            self.register(task.id)

    def register(self, task_id: str) -> None:
        """Register a task with the broker unless it is registered."""
        name = PREFIX + task_id
        if self._broker.find_task(name) is not None:
            return

        async def execute(run_id: str) -> Any:
            return await self._execute(run_id)

        self._broker.register_task(execute, task_name=name, **_LABELS)

    async def _execute(self, run_id: str) -> Any:
        """Execute a run that is due, and report its result to Taskiq."""
        current = current_runtime()
        run = (await current.store.get_run(run_id)).run
        if not _is_early(run, current.clock_ms()):
            run = await task_registry.execute_queued(run_id, task_queues.queue_owner(QUEUE))
        if run.is_queued:
            await self.delayed.hold(run)
            return None
        if run.is_executing:
            raise NoResultError  # another worker executes the run and reports its result
        if not run.is_success:
            reason = f"{run.error.type}: {run.error.message}" if run.error else run.status
            raise RunFailed(f"run {run_id} of {run.task}: {reason}")
        return run.output


_LABELS = {"retry_on_error": False}  # the run counts its attempts


def _is_early(run: Run, now_ms: int) -> bool:
    due_ms = time_ms(run.delay_until) if run.delay_until is not None else None
    return run.status == "delayed" and due_ms is not None and due_ms > now_ms


def handle_of(sent: AsyncTaskiqTask[Any], broker: AsyncBroker) -> Handle:
    """Return the run of a task that this process has sent, with a token for a page.

    Args:
        sent: The return value of `kiq`.
        broker: The broker that sent it.

    Raises:
        RunNotFound: the task was sent by another process, too long ago, or is not tracked.
    """
    for each in broker.middlewares:
        if isinstance(each, RealtimeMiddleware):
            return each.sent.handle(sent.task_id)
    raise RunNotFound("this broker's tasks have no runs: call install(broker) first")
