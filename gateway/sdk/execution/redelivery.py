"""Runs that a task queue delivers a second time: the first worker died, or is only slow.

A queue delivers a message again when its worker has died, or has not acknowledged it for some time.
The run is executed again only if the first worker is gone. To find out, the second worker writes
its name to the run as the owner. A live worker follows the run's log and writes its own name back.
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

ANSWER_S = 5.0  # time for a live worker to write its name back
LOST = "the worker that executed it was lost, and its queue brought it again"


async def take_over(runtime: Runtime, run: Run, owner: str) -> Run:
    """Queue a run that another worker began, unless that worker is alive.

    Args:
        runtime: Its store holds the run.
        run: Executing, with another owner.
        owner: This process.

    Returns:
        The run after that: queued for its next attempt, executing on a live worker, or ended.
    """
    store = runtime.store
    state = await store.get_run(run.id)
    try:
        await store.patch_run(run.id, {"owner": owner, "attempt": run.attempt})
        if (reclaimed := await _answer(runtime, run, owner, state.position)) is not None:
            return reclaimed
        taken = await store.patch_run(run.id, _patch(run, runtime.clock_ms()))
    except IllegalTransition:  # the run has ended, or another worker was faster
        return (await store.get_run(run.id)).run
    interruption.log(taken, LOST)
    return taken


async def _answer(runtime: Runtime, run: Run, owner: str, after: Position) -> Run | None:
    """Wait for the first worker to reclaim the run or to end it; None if it does not answer."""
    store, due_ms = runtime.store, runtime.clock_ms() + round(ANSWER_S * 1000)
    try:
        async with (
            runtime.deadline(due_ms),
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
        return interruption.next_patch(run, interruption.crash_error(LOST), now_ms)
    # The task sets no number of attempts: the queue's settings decide how often it delivers a run.
    return {"status": "queued", "queued_at": iso_time(now_ms)}
