"""Asking for runs, and all below them, to be canceled."""

from __future__ import annotations

from gateway.errors import IllegalTransition
from gateway.runs import Run, end_patch, iso_time
from gateway.sdk.runtime import Runtime
from gateway.stores.base import RunQuery

UNFINISHED = ("delayed", "queued", "executing", "waiting")
PAGE_RUNS = 1000


async def cancel(active: Runtime, run_id: str) -> Run:
    """Ask for a run, and the runs below it, to be canceled; see `runs.cancel`.

    Raises:
        RunNotFound: there is no such run.
    """
    run = await _cancel_one(active, run_id)
    await cancel_children(active, run_id)
    return run


async def cancel_children(active: Runtime, run_id: str) -> None:
    """Ask for the unfinished runs below a run to be canceled."""
    before: str | None = None
    while True:
        query = RunQuery(status=UNFINISHED, parent_id=run_id, before=before, limit=PAGE_RUNS)
        children = await active.store.list_runs(query)
        for child in children:
            await cancel(active, child.id)
        if len(children) < PAGE_RUNS:
            return
        before = children[-1].id


async def _cancel_one(active: Runtime, run_id: str) -> Run:
    run = (await active.store.get_run(run_id)).run
    if run.is_final:
        return run
    now_ms = active.clock_ms()
    patch = {"cancel_requested_at": iso_time(now_ms)}
    if run.is_queued:  # nothing executes that would have to be told
        patch |= end_patch(run, "canceled", now_ms)
    try:
        run = await active.store.patch_run(run_id, patch)
    except IllegalTransition:  # it has ended meanwhile
        return await _cancel_one(active, run_id)
    if run.is_final and active.runner is not None:
        active.runner.forget(run_id)
    return run
