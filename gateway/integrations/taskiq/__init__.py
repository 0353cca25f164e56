"""Taskiq's tasks as runs, and this library's tasks on Taskiq's workers.

    broker = RedisStreamBroker("redis://…")
    install(broker)                     # that is all: workers and senders have runs from now on

A function that Taskiq calls by itself (`@broker.task`) gets a run with each message: its status
follows the message, its parent is the run that sent it, and `append`, `metadata`, `trigger` and
`current_run` work inside. What was appended is durable before Taskiq has the result. A run has no
payload and no output unless `with_payloads` is set, because a page that may read the run would see
them.

`@task(runner="taskiq")` puts a task of this library on Taskiq's workers: `trigger`, waits, retries
and cancellation are those of every other task. Until a run is due, a worker holds it.

Workers reach the gateway at `REALTIME_URL`. While it is away Taskiq goes on working: what became of
the runs is told when it is back.

    cancellation  functions of Taskiq as runs that can be canceled
    delays        holds delayed runs until they are due
    middleware    each message carries a ticket; its run is claimed, executed and ended
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
from gateway.sdk import tasks
from gateway.sdk.execution import task_queues
from gateway.sdk.runtime import runtime

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
    """Give a broker's tasks runs, and make `runner="taskiq"` mean this broker.

    Call it where the broker is made, before other middlewares are added, so that every process that
    sends or works has it. What sends has to await `broker.startup()`, as Taskiq says.

    Args:
        broker: The broker.
        with_payloads: Show arguments and results in the runs, to all who may read them.
        tracks: Whether the tasks of a name get runs.
    """
    queue = TaskiqQueue(broker)
    task_queues.use(queue)
    if any(isinstance(each, RealtimeMiddleware) for each in broker.middlewares):
        return

    def is_tracked(name: str) -> bool:
        return not name.startswith(PREFIX) and tracks(name)

    broker.add_middlewares(
        RealtimeMiddleware(is_tracked, with_payloads, queue.register_all, queue.holder.release)
    )


class TaskiqQueue:
    """See `TaskQueue`.

    Args:
        broker: Whose workers execute.
    """

    name = QUEUE

    def __init__(self, broker: AsyncBroker) -> None:
        self._broker = broker
        self.holder = DelayedRuns(self)

    async def put(self, run: Run) -> None:
        """See `TaskQueue.put`."""
        self.register(run.task)  # for a broker that executes in this process
        name = PREFIX + run.task
        kicker: AsyncKicker[Any, Any] = AsyncKicker(name, self._broker, _LABELS.copy())
        try:
            await kicker.with_task_id(run.id).kiq(run.id)
        except SendTaskError as error:
            why = error.__cause__ or error
            raise QueueUnavailable(f"Taskiq's broker took no run of {run.task}: {why}") from None

    def register_all(self) -> None:
        """Make the tasks that are defined in this process known to the broker."""
        for task in tasks.defined():
            self.register(task.id)

    def register(self, task_id: str) -> None:
        """Make a task known to the broker, unless it is."""
        name = PREFIX + task_id
        if self._broker.find_task(name) is not None:
            return

        async def execute(run_id: str) -> Any:
            return await self._execute(run_id)

        self._broker.register_task(execute, task_name=name, **_LABELS)

    async def _execute(self, run_id: str) -> Any:
        """Execute a run that is due, and tell Taskiq how it went."""
        active = runtime()
        run = (await active.store.get_run(run_id)).run
        if not _is_early(run, active.clock_ms()):
            run = await tasks.carry_out(run_id, task_queues.owner_of(QUEUE))
        if run.is_queued:
            await self.holder.hold(run)
            return None
        if run.is_executing:
            raise NoResultError  # another worker executes it, and has its result
        if not run.is_success:
            why = f"{run.error.type}: {run.error.message}" if run.error else run.status
            raise RunFailed(f"run {run_id} of {run.task}: {why}")
        return run.output


_LABELS = {"retry_on_error": False}  # the run knows its attempts


def _is_early(run: Run, now_ms: int) -> bool:
    due_ms = time_ms(run.delay_until) if run.delay_until is not None else None
    return run.status == "delayed" and due_ms is not None and due_ms > now_ms


def handle_of(sent: AsyncTaskiqTask[Any], broker: AsyncBroker) -> Handle:
    """Return the run of a task that this process has sent, and a token for a page.

    Args:
        sent: What `kiq` returned.
        broker: With which it was sent.

    Raises:
        RunNotFound: it was sent by another process, too long ago, or is not tracked.
    """
    for each in broker.middlewares:
        if isinstance(each, RealtimeMiddleware):
            return each.sent.handle(sent.task_id)
    raise RunNotFound("this broker's tasks have no runs: call install(broker) first")
