"""Sets of runs as they change: the inside of `realtime runs watch`."""

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

LOOK_S = 1.0  # between two looks at all runs, which have no log of their own


async def watch_runs(
    store: Store, which: RunSet | None, limit: int
) -> AsyncGenerator[list[Run], None]:
    """Yield the newest runs, newest first, whenever they have changed.

    Args:
        store: Open.
        which: The set; None: all runs.
        limit: How many.
    """
    if which is None:
        async for runs in _looking(store, limit):
            yield runs
        return
    while True:  # a set's log that was lost, or is too far ahead, begins anew
        state = await store.get_set([which], limit)
        held = RunTable(which, limit, state.runs)
        yield held.runs
        async with aclosing(store.follow(which.log, state.positions[0])) as pages:
            async for page in pages:
                if page.gap is not None or page.reset is not None:
                    break
                if held.take(page.records):
                    yield held.runs


async def _looking(store: Store, limit: int) -> AsyncGenerator[list[Run], None]:
    last: list[Run] | None = None
    while True:
        runs = await all_runs(store, RunQuery(limit=limit))
        if runs != last:
            yield runs
        last = runs
        await asyncio.sleep(LOOK_S)


class RunTable:
    """The newest runs of a set, kept up to date by its log.

    Args:
        which: The set.
        limit: How many.
        runs: As they are.

    Source:
        PROTOCOL.md, section 6, "Sets of runs".
    """

    def __init__(self, which: RunSet, limit: int, runs: list[Run]) -> None:
        self._which = which
        self._limit = limit
        self._by_id = {run.id: run for run in runs}

    @property
    def runs(self) -> list[Run]:
        """Newest first."""
        return [self._by_id[id] for id in sorted(self._by_id, reverse=True)]

    def take(self, records: list[Record]) -> bool:
        """Take changes; whether any of the runs has changed."""
        before = dict(self._by_id)
        for record in records:
            change = orjson.loads(record.data)
            if "run" in change:
                self._by_id[change["id"]] = Run.from_wire(change["run"])
            elif change.get("deleted"):
                self._by_id.pop(change["id"], None)
            elif (held := self._by_id.get(change["id"])) is not None:
                self._patch(held, change["patch"])
        for id in sorted(self._by_id)[: -self._limit]:
            del self._by_id[id]
        return self._by_id != before

    def _patch(self, held: Run, patch: dict[str, object]) -> None:
        run = from_list(fold_change(held.to_wire(), patch))
        self._by_id[run.id] = run
        if self._which.kind == "tag" and self._which.id not in run.tags:
            del self._by_id[run.id]
