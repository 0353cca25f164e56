"""Runs that a task queue brings a second time: their worker has died, or is only slow.

A queue brings a message again when it has not heard of its end for some time, or when its worker
has died. The run is executed again only if its worker is gone: whoever executes a run follows its
log, and takes it back when another one puts its name there.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from gateway.errors import IllegalTransition
from gateway.model.log import run_log
from gateway.model.records import Position
from gateway.model.runs import Run, iso_time
from gateway.sdk.execution import interruption
from gateway.sdk.runtime import Runtime

ANSWER_S = 5.0  # for a worker that is alive to say so
LOST = "the worker that executed it was lost, and its queue brought it again"


async def take_over(active: Runtime, run: Run, owner: str) -> Run:
    """Make a run that another worker began ready to be executed here, unless that one is alive.

    Args:
        active: The runtime.
        run: Executing, under another owner.
        owner: This process.

    Returns:
        The run as it is then: queued for its next attempt, executing under a worker that is alive,
        or ended.
    """
    store = active.store
    state = await store.get_run(run.id)
    try:
        await store.patch_run(run.id, {"owner": owner, "attempt": run.attempt})
        if (others := await _answer(active, run, owner, state.position)) is not None:
            return others
        taken = await store.patch_run(run.id, _patch(run, active.clock_ms()))
    except IllegalTransition:  # it has ended, or another one was faster
        return (await store.get_run(run.id)).run
    interruption.log(taken, LOST)
    return taken


async def _answer(active: Runtime, run: Run, owner: str, after: Position) -> Run | None:
    """Wait for the former worker to take the run back, or to end it; None if it is silent."""
    store, due_ms = active.store, active.clock_ms() + round(ANSWER_S * 1000)
    try:
        async with (
            active.deadline(due_ms),
            aclosing(store.follow(run_log(run.id), after)) as pages,
        ):
            async for _ in pages:
                now = (await store.get_run(run.id)).run
                if now.owner != owner or not now.is_executing:
                    return now
    except TimeoutError:
        pass
    return None


def _patch(run: Run, now_ms: int) -> dict[str, Any]:
    if run.max_attempts > 1 or not run.retry_on_crash:
        return interruption.next_patch(run, interruption.died(LOST), now_ms)
    # Nothing is said of attempts: the queue's own settings decide how often it brings a run.
    return {"status": "queued", "queued_at": iso_time(now_ms)}
