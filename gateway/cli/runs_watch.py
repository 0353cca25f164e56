"""`realtime runs watch`: the newest runs of a set, kept up to date."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson

from gateway.model.log import RunQuery
from gateway.model.patches import fold_change
from gateway.model.records import Record, RunSet
from gateway.model.runs import Run
from gateway.stores.base import Store, all_runs
from gateway.stores.run_lists import from_list

POLL_S = 1.0  # interval of polling all runs: unlike a set, they have no log to follow


async def watch_runs(
    store: Store, which: RunSet | None, limit: int
) -> AsyncGenerator[list[Run], None]:
    """Yield the newest runs, newest first, at the start and after each change.

    Args:
        store: An open store.
        which: The set, or None for all runs.
        limit: Maximum number of runs.
    """
    if which is None:
        async for runs in _poll(store, limit):
            yield runs
        return
    while True:  # after a gap or a reset of the set's log, start again with a snapshot
        state = await store.list_set_runs([which], limit)
        table = RunTable(which, limit, state.runs)
        yield table.runs
        async with aclosing(store.follow(which.log, state.positions[0])) as pages:
            async for page in pages:
                if page.gap is not None or page.reset is not None:
                    break
                if table.apply(page.records):
                    yield table.runs


async def _poll(store: Store, limit: int) -> AsyncGenerator[list[Run], None]:
    last: list[Run] | None = None
    while True:
        runs = await all_runs(store, RunQuery(limit=limit))
        if runs != last:
            yield runs
        last = runs
        await asyncio.sleep(POLL_S)


class RunTable:
    """The newest runs of a set, kept up to date from the set's log.

    Args:
        which: The set.
        limit: Maximum number of runs.
        runs: The runs of the snapshot.

    Source:
        PROTOCOL.md, section 6, "Sets of runs".
    """

    def __init__(self, which: RunSet, limit: int, runs: list[Run]) -> None:
        self._which = which
        self._limit = limit
        self._by_id = {run.id: run for run in runs}

    @property
    def runs(self) -> list[Run]:
        """The runs, newest first."""
        return [self._by_id[id] for id in sorted(self._by_id, reverse=True)]

    def apply(self, records: list[Record]) -> bool:
        """Apply changes of the set's log; return whether a run has changed."""
        before = dict(self._by_id)
        for record in records:
            change = orjson.loads(record.data)
            if "run" in change:
                self._by_id[change["id"]] = Run.from_wire(change["run"])
            elif change.get("deleted"):
                self._by_id.pop(change["id"], None)
            elif (run := self._by_id.get(change["id"])) is not None:
                self._patch(run, change["patch"])
        for id in sorted(self._by_id)[: -self._limit]:
            del self._by_id[id]
        return self._by_id != before

    def _patch(self, old: Run, patch: dict[str, object]) -> None:
        run = from_list(fold_change(old.to_wire(), patch))
        self._by_id[run.id] = run
        if self._which.kind == "tag" and self._which.id not in run.tags:
            del self._by_id[run.id]
