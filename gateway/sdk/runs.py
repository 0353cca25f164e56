"""The runs API of a backend: retrieve, subscribe, list, cancel, replay."""

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
from gateway.sdk.options import replay_options
from gateway.sdk.results import RunHandle
from gateway.sdk.run_subscription import RunSubscription
from gateway.sdk.runtime import current_runtime
from gateway.stores.base import all_runs, whole_run


@run_on_sdk_loop
async def retrieve(run_id: str) -> Run:
    """Return a run in its current state.

    Raises:
        RunNotFound: there is no such run.
    """
    return (await current_runtime().store.get_run(check_run_id(run_id))).run


def subscribe(run_id: str) -> RunSubscription:
    """Follow a run: yield its current state, then its state after each change, until it has ended.

    async for run in runs.subscribe(run_id):
        print(run.status, run.metadata)

    `subscribe(run_id).with_streams(progress, answer)` follows streams in the same loop.
    `.with_streams()` follows all streams of the run, including future ones.

    Raises:
        InvalidId: not a run's id.
        RunNotFound: (from the loop) there is no such run.
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

    Payloads, outputs, metadata and errors over 64 KiB are left out, which keeps lists of large runs
    cheap. `run.omitted` has the names and sizes in bytes of the omitted fields; `retrieve` returns
    them.

    Args:
        status: Only runs with this status, or one of these; empty: all.
        tag: Only runs with this tag.
        parent_id: Only children of this run.
        batch_id: Only runs of this batch.
        before: Only runs whose id sorts before this one: the last id of the previous page.
        limit: The largest number of runs to return.
        whole: Omit no field. All runs are then in memory together.

    Raises:
        InvalidValue: a status does not exist, or the limit is no whole number from 0.
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
    """Request the cancellation of a run and the runs below it.

    A run that is delayed or queued is canceled immediately, also between two attempts. In a run
    that executes or waits, an async function gets `CancelledError` at its next await, and a plain
    function `RunCanceled` at its next `append` or `current_run().raise_if_canceled()`. Its
    `finally` blocks have 10 s. After that the run is marked canceled in any case.

    Returns:
        The run after the request. A run that has ended already is not changed.

    Raises:
        RunNotFound: there is no such run.
    """
    return await cancellation.cancel(current_runtime(), check_run_id(run_id))


@run_on_sdk_loop
async def replay(run_id: str) -> RunHandle[Any]:
    """Start a new run of the same task, with the same payload, tags and metadata.

    Returns:
        A handle for the new run.

    Raises:
        RunNotFound: there is no such run.
        TaskNotFound: this process does not define its task.
        InvalidValue: the task no longer accepts the payload.
    """
    run = await retrieve(run_id)
    task = task_registry.find_task(run.task)
    return await task.with_options(replay_options(run, task.defaults)).trigger(**run.payload)


retrieve_sync = make_sync(retrieve)
subscribe_sync = make_sync_iterator(subscribe)
list_sync = make_sync(list)
cancel_sync = make_sync(cancel)
replay_sync = make_sync(replay)
