"""Who executes what this process triggers: the process itself, or workers behind a task queue.

A queue carries a run's id to a worker, which claims the run and executes it. Until then the run
belongs to the queue (its `owner`), and no worker's death concerns it.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import ConfigurationError
from gateway.model.runs import Run

HERE = "process"  # the name of no queue: this process executes
OWNER_PREFIX = "queue:"  # of runs that wait for a worker

_queues: dict[str, TaskQueue] = {}


class TaskQueue(Protocol):
    """A task queue that brings runs to workers; the integrations make them.

    Attributes:
        name: As in `@task(runner=…)`.
    """

    name: str

    async def put(self, run: Run) -> None:
        """Tell the workers of a run that the store keeps.

        Args:
            run: Queued or delayed; one that is delayed is not begun before its time.

        Raises:
            QueueUnavailable: they cannot be told.
        """


def use(queue: TaskQueue) -> None:
    """Make a queue known by its name; it takes the place of another one of that name."""
    _queues[queue.name] = queue


def find(name: str) -> TaskQueue | None:
    """Return the queue of a name; None: this process executes.

    Raises:
        ConfigurationError: nothing of this name was set up in this process.
    """
    if name == HERE:
        return None
    if name not in _queues:
        known = ", ".join((HERE, *_queues))
        raise ConfigurationError(
            f"the runner {name!r} is not set up in this process (there is: {known}): call "
            f"gateway.integrations.{name}.install(…) before anything is triggered"
        )
    return _queues[name]


def owner_of(queue: str) -> str:
    """Name the owner of runs that wait for a queue's workers."""
    return OWNER_PREFIX + queue


def has_lease(owner: str) -> bool:
    """Whether it can be told that an owner is gone: it is a process, and not a queue."""
    return not owner.startswith(OWNER_PREFIX)
