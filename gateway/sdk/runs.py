"""Runs as a backend sees them: look one up, follow it, list, cancel, start anew."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

from gateway.errors import InvalidValue
from gateway.model.log import RunQuery
from gateway.model.records import check_run_id, shown
from gateway.model.runs import Run, check_statuses
from gateway.sdk import task_registry
from gateway.sdk.execution import cancellation
from gateway.sdk.loops.bridge import run_on_sdk_loop
from gateway.sdk.loops.sync_calls import make_sync, make_sync_iterator
from gateway.sdk.options import again
from gateway.sdk.results import RunHandle
from gateway.sdk.run_subscription import RunSubscription
from gateway.sdk.runtime import current_runtime
from gateway.stores.base import all_runs, whole_run


@run_on_sdk_loop
async def retrieve(run_id: str) -> Run:
    """Return a run as it is now.

    Raises:
        RunNotFound: there is no such run.
    """
    return (await current_runtime().store.get_run(check_run_id(run_id))).run


def subscribe(run_id: str) -> RunSubscription:
    """Follow a run: yield it as it is now, then after each change, until it has ended.

    async for run in runs.subscribe(run_id):
        print(run.status, run.metadata)

    `subscribe(run_id).with_streams(progress, answer)` follows streams in the same loop, and
    `.with_streams()` all that the run has or gets.

    Raises:
        InvalidId: not a run's id.
        RunNotFound: (when the loop begins) there is no such run.
    """
    return RunSubscription(check_run_id(run_id))


@run_on_sdk_loop
async def list(
    *,
    status: str | Sequence[str] | None = (),
    tag: str | None = None,
    parent_id: str | None = None,
    batch_id: str | None = None,
    before: str | None = None,
    limit: int = 100,
    whole: bool = False,
) -> builtins.list[Run]:
    """Return runs, newest first.

    Payloads, outputs, metadata and errors over 64 KiB are left out, so that a list of large runs
    costs little: `run.omitted` names them, with their sizes in bytes, and `retrieve` has them.

    Args:
        status: Only this status, or these; empty: all.
        tag: Only runs with this tag.
        parent_id: Only children of this run.
        batch_id: Only runs of this batch.
        before: Only runs whose id sorts before this one: the last of the page before.
        limit: At most so many.
        whole: Leave nothing out. All of them are then in memory at once.

    Raises:
        InvalidValue: a status is none, or the limit is no whole number from 0.
    """
    if not isinstance(limit, int) or limit < 0:
        raise InvalidValue(f"limit is {shown(limit)}; it is a whole number from 0")
    query = RunQuery(check_statuses(status), tag, parent_id, batch_id, None, before, limit)
    store = current_runtime().store
    found = await all_runs(store, query)
    if not whole:
        return found
    wholes = [await whole_run(store, run) for run in found]
    return [run for run in wholes if run is not None]


@run_on_sdk_loop
async def cancel(run_id: str) -> Run:
    """Ask for a run, and the runs below it, to be canceled.

    One that is delayed or queued, or rests between two attempts, is canceled at once. One that
    executes or waits is asked: an async function gets `CancelledError` at its next await, a plain
    one `RunCanceled` at its next `append` or `current_run().raise_if_canceled()`. Its `finally`
    blocks have 10 s; then it is marked canceled all the same.

    Returns:
        The run after the request; a run that has ended already stays as it is.

    Raises:
        RunNotFound: there is no such run.
    """
    return await cancellation.cancel(current_runtime(), check_run_id(run_id))


@run_on_sdk_loop
async def replay(run_id: str) -> RunHandle[Any]:
    """Start a new run of the same task, with the same payload, tags and metadata.

    Returns:
        A handle of the new run.

    Raises:
        RunNotFound: there is no such run.
        TaskNotFound: its task is not defined in this process.
        InvalidValue: the task takes no such payload any more.
    """
    run = await retrieve(run_id)
    task = task_registry.find_task(run.task)
    return await task.with_options(again(run, task.defaults)).trigger(**run.payload)


retrieve_sync = make_sync(retrieve)
subscribe_sync = make_sync_iterator(subscribe)
list_sync = make_sync(list)
cancel_sync = make_sync(cancel)
replay_sync = make_sync(replay)
