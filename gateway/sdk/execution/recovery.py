"""What becomes of the runs of a gateway or worker that is gone, in a store that others share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.errors import IllegalTransition, RunNotFound, StoreUnavailable
from gateway.model.runs import Run, may_retry_crash
from gateway.sdk.execution import interruption
from gateway.sdk.execution.heartbeat import LeaseHeartbeat, is_node
from gateway.sdk.execution.runner import Tasks, unfinished
from gateway.stores.base import system_clock_ms

TRY_AGAIN_S = 0.5  # after the store could not be asked


class RecoverySummary(NamedTuple):
    """How many of its runs were marked crashed, taken over here, and left for others."""

    crashed: int
    adopted: int
    left: int


async def settle(
    keeper: LeaseHeartbeat,
    owner: str,
    tasks: Tasks,
    *,
    is_last_try: bool,
    clock_ms: Callable[[], int] = system_clock_ms,
) -> RecoverySummary:
    """Judge the unfinished runs of an owner that is gone.

    If its task is known here, a run that a gateway had queued is taken over, and so is the next
    attempt of one that it executed, if there is one. What has no attempt left, and everything of a
    worker, is marked crashed. Any number of gateways may do this at once.

    Args:
        keeper: Of this process.
        owner: Who is gone.
        tasks: Those known here.
        is_last_try: Mark crashed what is known to nobody either.
        clock_ms: Gives the time.
    """
    crashed = adopted = left = 0
    for run in reversed([run async for run in unfinished(keeper.store, owner)]):  # oldest first
        if not (is_node(owner) and (run.is_queued or may_retry_crash(run))):
            crashed += await _crash(keeper, run, owner, _why(run, owner), clock_ms)
        elif tasks.is_known(run.task):
            taken = await _take(keeper, run, owner, clock_ms)
            if taken is None:
                continue  # another gateway has it
            if taken.is_queued:
                adopted += tasks.resume(taken)
            else:  # it had begun just before
                why = _why(taken, owner)
                crashed += await _crash(keeper, taken, keeper.owner, why, clock_ms)
        elif is_last_try:
            why = f"its owner is gone, and no gateway knows the task {run.task!r}"
            crashed += await _crash(keeper, run, owner, why, clock_ms)
        else:
            left += 1
    return RecoverySummary(crashed, adopted, left)


def _why(run: Run, owner: str) -> str:
    if is_node(owner):
        return "the gateway that executed it is gone"
    return "the worker that executed it is gone" + interruption.unused(run)


async def _take(
    keeper: LeaseHeartbeat, run: Run, owner: str, clock_ms: Callable[[], int]
) -> Run | None:
    """Make a run, or its next attempt, this process's; None if another one was first."""
    taken = await _patch(keeper, run, {"owner": keeper.owner}, owner)
    if taken is None or not may_retry_crash(taken):
        return taken
    why = _why(taken, owner)
    patch = interruption.next_patch(taken, interruption.died(why), clock_ms())
    again = await _patch(keeper, taken, patch, keeper.owner)
    if again is not None:
        interruption.log(again, why)
    return again


async def _patch(keeper: LeaseHeartbeat, run: Run, patch: dict[str, Any], owner: str) -> Run | None:
    while True:
        try:
            taken = await keeper.store.patch_own_run(run.id, patch, owner)
            if taken is None:  # perhaps by the attempt before, whose answer was lost
                taken = (await keeper.store.get_run(run.id)).run
            return taken if taken.owner == keeper.owner and not taken.is_finished else None
        except (IllegalTransition, RunNotFound):
            return None
        except StoreUnavailable:
            await asyncio.sleep(TRY_AGAIN_S)


async def _crash(
    keeper: LeaseHeartbeat, run: Run, owner: str, why: str, clock_ms: Callable[[], int]
) -> bool:
    patch = interruption.crash_patch(run, interruption.died(why), clock_ms())
    try:
        ended = await keeper.store.patch_own_run(run.id, patch, owner)
    except (IllegalTransition, RunNotFound):
        return False  # it has ended meanwhile
    if ended is not None:
        interruption.log(ended, why)
    return ended is not None
