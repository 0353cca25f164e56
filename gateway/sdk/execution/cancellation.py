"""Requests the cancellation of runs and of all runs below them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from gateway.errors import FrameTooLarge, IllegalTransition, RunNotFound
from gateway.model.limits import LEAST_LISTED_RUNS
from gateway.model.log import RunQuery
from gateway.model.runs import Run, end_patch, iso_time
from gateway.sdk.runtime import Runtime

UNFINISHED = ("delayed", "queued", "executing", "waiting")
PAGE_RUNS = 1000
MAX_CONCURRENT = 32  # requests in flight: the store of a worker is a connection away

A = TypeVar("A")
B = TypeVar("B")


async def cancel(runtime: Runtime, run_id: str) -> Run:
    """Request the cancellation of a run and the runs below it; see `runs.cancel`.

    Raises:
        RunNotFound: there is no such run.
    """
    run = await _cancel_one(runtime, run_id)
    generation = [run_id]
    while generation:
        generation = [child.id for child in await _cancel_children_of(runtime, generation)]
    return run


async def cancel_children(runtime: Runtime, run_id: str) -> None:
    """Request the cancellation of the unfinished runs below a run that ends as canceled.

    A child that executes does the same for its own children when it ends. Requesting it here too
    would cost n² requests for a chain of n runs.
    """
    generation = [run_id]
    while generation:
        children = await _cancel_children_of(runtime, generation)
        generation = [child.id for child in children if child.is_finished]


async def _cancel_children_of(runtime: Runtime, parents: Sequence[str]) -> list[Run]:
    """Request the cancellation of unfinished children; return those that may have children."""
    groups = await _each(parents, partial(_unfinished_children, runtime))
    ids = [id for group in groups for id in group]
    children = await _each(ids, partial(_cancel_child, runtime))
    return [child for child in children if child is not None and child.started_at is not None]


async def _each(items: Sequence[A], work: Callable[[A], Awaitable[B]]) -> list[B]:
    done: list[B] = []
    for start in range(0, len(items), MAX_CONCURRENT):
        some = items[start : start + MAX_CONCURRENT]
        done += await asyncio.gather(*(work(item) for item in some))
    return done


async def _unfinished_children(runtime: Runtime, run_id: str) -> list[str]:
    children: list[str] = []
    before, limit = None, PAGE_RUNS
    while True:
        query = RunQuery(status=UNFINISHED, parent_id=run_id, before=before, limit=limit)
        try:
            page = await runtime.store.list_runs(query)
        except FrameTooLarge:  # large payloads exceed the frame limit of a worker's connection
            if limit == 1:
                raise
            limit //= 10
            continue
        children += [child.id for child in page]
        if len(page) < min(limit, LEAST_LISTED_RUNS):
            return children
        before = page[-1].id


async def _cancel_child(runtime: Runtime, run_id: str) -> Run | None:
    try:
        return await _cancel_one(runtime, run_id)
    except RunNotFound:  # deleted meanwhile
        return None


async def _cancel_one(runtime: Runtime, run_id: str) -> Run:
    # Read the run now, not when it was listed: a run that has begun since must be asked to end, not
    # marked as ended.
    while not (run := (await runtime.store.get_run(run_id)).run).is_finished:
        now_ms = runtime.clock_ms()
        patch = {"cancel_requested_at": iso_time(now_ms)}
        if run.is_queued:  # no process executes it, so it ends here
            patch |= end_patch(run, "canceled", now_ms)
        try:
            run = await runtime.store.patch_run(run_id, patch)
        except IllegalTransition:  # it has ended meanwhile
            continue
        if run.is_finished and runtime.runner is not None:
            runtime.runner.cancel_pending(run_id)
        break
    return run
