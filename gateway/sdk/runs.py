"""Runs as a backend sees them: look one up, list, cancel."""

from __future__ import annotations

import builtins

from gateway.errors import IllegalTransition
from gateway.records import check_run_id
from gateway.runs import Run, iso_time
from gateway.sdk.runtime import runtime
from gateway.stores.base import RunQuery


async def retrieve(run_id: str) -> Run:
    """Return a run as it is now.

    Raises:
        RunNotFound: there is no such run.
    """
    return (await runtime().store.get_run(check_run_id(run_id))).run


async def list(
    *,
    status: tuple[str, ...] = (),
    tag: str | None = None,
    parent_id: str | None = None,
    batch_id: str | None = None,
    before: str | None = None,
    limit: int = 100,
) -> builtins.list[Run]:
    """Return runs, newest first.

    Args:
        status: Only these statuses.
        tag: Only runs with this tag.
        parent_id: Only children of this run.
        batch_id: Only runs of this batch.
        before: Only runs whose id sorts before this one: the last of the page before.
        limit: At most so many.
    """
    query = RunQuery(status, tag, parent_id, batch_id, None, before, limit)
    return await runtime().store.list_runs(query)


async def cancel(run_id: str) -> Run:
    """Ask for a run, and the runs below it, to be canceled.

    One that is queued is canceled at once. One that executes is asked: an async function gets
    `CancelledError` at its next await, a plain one `RunCanceled` at its next `append` or
    `current_run().raise_if_canceled()`.

    Returns:
        The run after the request; a run that has ended already stays as it is.

    Raises:
        RunNotFound: there is no such run.
    """
    run = await _cancel_one(check_run_id(run_id))
    for child in await list(parent_id=run_id, limit=1000):
        if not child.is_final:
            await cancel(child.id)
    return run


async def _cancel_one(run_id: str) -> Run:
    active = runtime()
    run = await retrieve(run_id)
    if run.is_final:
        return run
    now = iso_time(active.clock_ms())
    patch = {"cancel_requested_at": now}
    if run.status == "queued":
        patch |= {"status": "canceled", "finished_at": now}
    try:
        return await active.store.patch_run(run_id, patch)
    except IllegalTransition:  # it ended or started meanwhile
        return await _cancel_one(run_id)
