"""What becomes of the runs of a gateway or worker that is gone, in a store that others share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from gateway.errors import IllegalTransition, RunNotFound, StoreUnavailable
from gateway.runs import Run, end_patch
from gateway.sdk.keeper import Keeper, is_node
from gateway.sdk.runner import died, unfinished
from gateway.stores.base import system_clock_ms

TRY_AGAIN_S = 0.5  # after the store could not be asked


class Tasks(Protocol):
    """The tasks of this process; the module `gateway.sdk.tasks` is one."""

    def is_known(self, task_id: str) -> bool:
        """Whether a task is defined here."""

    def resume(self, run: Run) -> bool:
        """Start a run that nobody executes."""


class Settled(NamedTuple):
    """How many of its runs were marked crashed, taken over here, and left for others."""

    crashed: int
    adopted: int
    left: int


async def settle(
    keeper: Keeper,
    owner: str,
    tasks: Tasks,
    *,
    is_last_try: bool,
    clock_ms: Callable[[], int] = system_clock_ms,
) -> Settled:
    """Judge the unfinished runs of an owner that is gone.

    What a gateway had queued is taken over here if its task is known here; what was executing, and
    everything of a worker, is marked crashed. Any number of gateways may do this at once.

    Args:
        keeper: Of this process.
        owner: Who is gone.
        tasks: Those known here.
        is_last_try: Mark crashed what is queued and known to nobody either.
        clock_ms: Gives the time.
    """
    crashed = adopted = left = 0
    for run in reversed([run async for run in unfinished(keeper.store, owner)]):  # oldest first
        if run.is_queued and is_node(owner) and tasks.is_known(run.task):
            taken = await _take(keeper, run, owner)
            if taken is None:
                continue  # another gateway has it
            if taken.is_queued:
                adopted += tasks.resume(taken)
                continue
            run, was = taken, keeper.owner  # it had begun just before
        elif run.is_queued and is_node(owner) and not is_last_try:
            left += 1
            continue
        else:
            was = owner
        crashed += await _crash(keeper, run, was, clock_ms)
    return Settled(crashed, adopted, left)


async def _take(keeper: Keeper, run: Run, owner: str) -> Run | None:
    """Make a run this process's; None if another one was first."""
    while True:
        try:
            taken = await keeper.store.patch_own_run(run.id, {"owner": keeper.owner}, owner)
            if taken is None:  # perhaps by the attempt before, whose answer was lost
                taken = (await keeper.store.get_run(run.id)).run
            return taken if taken.owner == keeper.owner and not taken.is_final else None
        except (IllegalTransition, RunNotFound):
            return None
        except StoreUnavailable:
            await asyncio.sleep(TRY_AGAIN_S)


async def _crash(keeper: Keeper, run: Run, owner: str, clock_ms: Callable[[], int]) -> bool:
    why = f"{'the gateway' if is_node(owner) else 'the worker'} that executed it is gone"
    if run.is_queued:
        why = f"its owner is gone, and no gateway knows the task {run.task!r}"
    patch = end_patch(run, "crashed", clock_ms(), error=died(why))
    try:
        return await keeper.store.patch_own_run(run.id, patch, owner) is not None
    except (IllegalTransition, RunNotFound):
        return False  # it has ended meanwhile
