"""Recovers, in a shared store, the unfinished runs of a gateway or worker that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.errors import IllegalTransition, RunNotFound, StoreUnavailable
from gateway.model.runs import Run, may_retry_crash
from gateway.sdk.execution import interruption
from gateway.sdk.execution.heartbeat import is_node
from gateway.sdk.execution.ownership import Tasks, unfinished
from gateway.sdk.runtime import LeaseRenewer
from gateway.stores.base import system_clock_ms

RETRY_S = 0.5  # pause after the store was unavailable


class RecoverySummary(NamedTuple):
    """How many runs were marked crashed, taken over here, and left for other gateways."""

    crashed: int
    adopted: int
    left: int


async def recover_runs(
    heartbeat: LeaseRenewer,
    owner: str,
    tasks: Tasks,
    *,
    is_last_try: bool,
    clock_ms: Callable[[], int] = system_clock_ms,
) -> RecoverySummary:
    """Take over, or mark as crashed, the unfinished runs of an owner that is gone.

    A run of a gateway is taken over if its task is known here and the run was queued, or has an
    attempt left. All runs of a worker, and runs without an attempt left, are marked crashed. Any
    number of gateways may call this at the same time.

    Args:
        heartbeat: Of this process.
        owner: The owner that is gone.
        tasks: The tasks that are known here.
        is_last_try: Also mark crashed the runs whose task no gateway knows.
        clock_ms: Returns the time.
    """
    crashed = adopted = left = 0
    for run in reversed([run async for run in unfinished(heartbeat.store, owner)]):  # oldest first
        if not (is_node(owner) and (run.is_queued or may_retry_crash(run))):
            crashed += await _crash(heartbeat, run, owner, _reason(run, owner), clock_ms)
        elif tasks.is_known(run.task):
            taken = await _adopt(heartbeat, run, owner, clock_ms)
            if taken is None:
                continue  # another gateway was faster
            if taken.is_queued:
                adopted += tasks.resume(taken)
            else:  # it began to execute just before its owner died, and has no attempt left
                reason = _reason(taken, owner)
                crashed += await _crash(heartbeat, taken, heartbeat.owner, reason, clock_ms)
        elif is_last_try:
            reason = f"its owner is gone, and no gateway knows the task {run.task!r}"
            crashed += await _crash(heartbeat, run, owner, reason, clock_ms)
        else:
            left += 1
    return RecoverySummary(crashed, adopted, left)


def _reason(run: Run, owner: str) -> str:
    if is_node(owner):
        return "the gateway that executed it is gone"
    return "the worker that executed it is gone" + interruption.unused_attempts(run)


async def _adopt(
    heartbeat: LeaseRenewer, run: Run, owner: str, clock_ms: Callable[[], int]
) -> Run | None:
    """Make this process the owner of a run, or of its next attempt; None if another was first."""
    taken = await _patch(heartbeat, run, {"owner": heartbeat.owner}, owner)
    if taken is None or not may_retry_crash(taken):
        return taken
    reason = _reason(taken, owner)
    patch = interruption.next_patch(taken, interruption.crash_error(reason), clock_ms())
    requeued = await _patch(heartbeat, taken, patch, heartbeat.owner)
    if requeued is not None:
        interruption.log(requeued, reason)
    return requeued


async def _patch(
    heartbeat: LeaseRenewer, run: Run, patch: dict[str, Any], owner: str
) -> Run | None:
    while True:
        try:
            taken = await heartbeat.store.patch_run_if_owner(run.id, patch, owner)
            if taken is None:  # perhaps taken by an earlier try of ours whose reply was lost
                taken = (await heartbeat.store.get_run(run.id)).run
            return taken if taken.owner == heartbeat.owner and not taken.is_finished else None
        except (IllegalTransition, RunNotFound):
            return None
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S)


async def _crash(
    heartbeat: LeaseRenewer, run: Run, owner: str, reason: str, clock_ms: Callable[[], int]
) -> bool:
    patch = interruption.crash_patch(run, interruption.crash_error(reason), clock_ms())
    try:
        ended = await heartbeat.store.patch_run_if_owner(run.id, patch, owner)
    except (IllegalTransition, RunNotFound):
        return False  # it has ended meanwhile
    if ended is not None:
        interruption.log(ended, reason)
    return ended is not None
