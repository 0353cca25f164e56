"""Who executes a run: its `owner`. Finds the unfinished runs of an owner and marks them crashed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from gateway.errors import IllegalTransition
from gateway.model.log import RunQuery
from gateway.model.runs import Run
from gateway.sdk.execution import interruption
from gateway.sdk.execution.cancellation import UNFINISHED
from gateway.stores.base import Store, system_clock_ms

EMBEDDED_OWNER = "embedded"  # owns the runs of the only process of a store


class Tasks(Protocol):
    """The tasks of this process; the module `gateway.sdk.task_registry` implements it."""

    def is_known(self, task_id: str) -> bool:
        """Whether a task is defined here."""

    def resume(self, run: Run) -> bool:
        """Start a queued run that no process executes; false if its task is not known here."""


async def unfinished(store: Store, owner: str) -> AsyncIterator[Run]:
    """Yield the unfinished runs of an owner, newest first."""
    before: str | None = None
    while page := await store.list_runs(
        RunQuery(status=UNFINISHED, owner=owner, before=before, limit=1000)
    ):
        for run in page:
            yield run
        before = page[-1].id


async def mark_crashed(
    store: Store, owner: str, message: str, clock_ms: Callable[[], int] = system_clock_ms
) -> int:
    """Mark the unfinished runs of a lost worker as crashed, including those with attempts left.

    No other process executes a worker's runs. A task queue must deliver a run again before its
    worker counts as lost.

    Args:
        store: Where the runs are.
        owner: The worker.
        message: The reason, for the run's error.
        clock_ms: Returns the time.

    Returns:
        How many runs were marked.
    """
    marked = 0
    for run in [run async for run in unfinished(store, owner)]:
        reason = message + interruption.unused_attempts(run)
        marked += await mark_run_crashed(store, run, reason, clock_ms)
    return marked


async def mark_run_crashed(
    store: Store, run: Run, reason: str, clock_ms: Callable[[], int]
) -> bool:
    """Mark a run as crashed; false if it has ended meanwhile, or executes again."""
    try:
        patch = interruption.crash_patch(run, interruption.crash_error(reason), clock_ms())
        interruption.log(await store.patch_run(run.id, patch), reason)
    except IllegalTransition:
        return False
    return True
