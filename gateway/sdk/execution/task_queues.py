"""Who executes the runs that this process triggers: the process, or workers of a task queue.

A queue delivers a run's id to a worker, which claims the run and executes it. Until then the queue
is the run's `owner`, so that the death of a worker does not affect the run.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import ConfigurationError
from gateway.model.runs import Run
from gateway.sdk.options import IN_PROCESS

OWNER_PREFIX = "queue:"  # of the owner of runs that wait for a worker

_queues: dict[str, TaskQueue] = {}


class TaskQueue(Protocol):
    """A task queue that delivers runs to workers; the integrations implement it.

    Attributes:
        name: As in `@task(runner=…)`.
    """

    name: str

    async def enqueue(self, run: Run) -> None:
        """Publish a stored run to the workers.

        Args:
            run: Queued or delayed; a delayed run is not begun before its time.

        Raises:
            QueueUnavailable: the message cannot be published.
        """


def register(queue: TaskQueue) -> None:
    """Make a queue available by its name; it replaces another queue of that name."""
    _queues[queue.name] = queue


def get(name: str) -> TaskQueue | None:
    """Return the queue of a name; None: this process executes.

    Raises:
        ConfigurationError: this process has no queue of that name.
    """
    if name == IN_PROCESS:
        return None
    if name not in _queues:
        known = ", ".join((IN_PROCESS, *_queues))
        raise ConfigurationError(
            f"the runner {name!r} is not set up in this process (there is: {known}): call "
            f"gateway.integrations.{name}.install(…) before anything is triggered"
        )
    return _queues[name]


def queue_owner(queue: str) -> str:
    """Return the owner of runs that wait for a queue's workers."""
    return OWNER_PREFIX + queue


def is_process(owner: str) -> bool:
    """Whether an owner is a process, which holds a lease, and not a queue."""
    return not owner.startswith(OWNER_PREFIX)
