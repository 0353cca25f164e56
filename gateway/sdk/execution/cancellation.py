"""Asking for runs, and all below them, to be canceled."""

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
AT_ONCE = 32  # requests under way: a worker's store is a connection away

A = TypeVar("A")
B = TypeVar("B")


async def cancel(active: Runtime, run_id: str) -> Run:
    """Ask for a run, and the runs below it, to be canceled; see `runs.cancel`.

    Raises:
        RunNotFound: there is no such run.
    """
    run = await _cancel_one(active, run_id)
    generation = [run_id]
    while generation:
        generation = [child.id for child in await _cancel_children_of(active, generation)]
    return run


async def cancel_children(active: Runtime, run_id: str) -> None:
    """Ask for the unfinished runs below a run that ends as canceled to be canceled.

    A child that executes asks those below it as it ends. Asking them here too, at the end of each
    run of a chain, would cost n² requests for a chain of n.
    """
    generation = [run_id]
    while generation:
        children = await _cancel_children_of(active, generation)
        generation = [child.id for child in children if child.is_finished]


async def _cancel_children_of(active: Runtime, parents: Sequence[str]) -> list[Run]:
    """Ask for the unfinished children of some runs, and return those that may have children."""
    lots = await _each(parents, partial(_unfinished_children, active))
    children = await _each([id for lot in lots for id in lot], partial(_cancel_child, active))
    return [child for child in children if child is not None and child.started_at is not None]


async def _each(items: Sequence[A], work: Callable[[A], Awaitable[B]]) -> list[B]:
    done: list[B] = []
    for at in range(0, len(items), AT_ONCE):
        done += await asyncio.gather(*(work(item) for item in items[at : at + AT_ONCE]))
    return done


async def _unfinished_children(active: Runtime, run_id: str) -> list[str]:
    children: list[str] = []
    before, limit = None, PAGE_RUNS
    while True:
        query = RunQuery(status=UNFINISHED, parent_id=run_id, before=before, limit=limit)
        try:
            page = await active.store.list_runs(query)
        except FrameTooLarge:  # for a worker's connection: their payloads are large
            if limit == 1:
                raise
            limit //= 10
            continue
        children += [child.id for child in page]
        if len(page) < min(limit, LEAST_LISTED_RUNS):
            return children
        before = page[-1].id


async def _cancel_child(active: Runtime, run_id: str) -> Run | None:
    try:
        return await _cancel_one(active, run_id)
    except RunNotFound:  # deleted meanwhile
        return None


async def _cancel_one(active: Runtime, run_id: str) -> Run:
    # Looked up just before, not when it was listed: one that has begun since is not ended at once.
    while not (run := (await active.store.get_run(run_id)).run).is_finished:
        now_ms = active.clock_ms()
        patch = {"cancel_requested_at": iso_time(now_ms)}
        if run.is_queued:  # nothing executes that would have to be told
            patch |= end_patch(run, "canceled", now_ms)
        try:
            run = await active.store.patch_run(run_id, patch)
        except IllegalTransition:  # it has ended meanwhile
            continue
        if run.is_finished and active.runner is not None:
            active.runner.forget(run_id)
        break
    return run
