"""A SQLite store of a million runs: appends stay fast while it lists, deletes and sweeps runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from gateway.model.log import RunQuery
from gateway.model.records import StreamKey
from gateway.model.retention import Retention
from gateway.server.ops.retention_job import STEP_S
from gateway.stores.sqlite.store import SqliteStore
from tests.support.faults.history import Verdict
from tests.support.faults.scenarios import Log, no_log
from tests.support.gateways import new_run
from tests.support.large_sqlite import make_large_store

MAX_STALL_S = 3.0  # per append; measured: 0.03 on an idle machine, up to 0.75 on a busy one
RECORD = b'"%s"' % (b"x" * 100_000)
SWEEP_S = 20.0  # how long the sweep of finished runs is observed; it takes longer


async def large(folder: Path, *, runs: int, stream_mb: int, log: Log = no_log) -> Verdict:
    """List, delete and sweep in a large store, and check the duration of concurrent appends."""
    path = folder / "large.db"
    await asyncio.to_thread(make_large_store, path, runs)
    log(f"{runs} runs, {path.stat().st_size >> 20} MiB")
    store = SqliteStore(path, durability="normal", retention=Retention(run_ttl_s=1))
    await store.open()
    verdict, appends = Verdict(), _Appends(store)
    try:
        doomed = StreamKey((await store.create_run(new_run())).id, "s")
        for _ in range(stream_mb):
            await store.append(doomed, [RECORD] * 10)
        await appends.start()

        async def checked(what: str, work: Awaitable[Any]) -> None:
            appends.longest_s = 0.0
            began_s = time.monotonic()
            await work
            took_s = time.monotonic() - began_s
            log(f"{what}: {took_s:.2f} s; the longest append {appends.longest_s * 1000:.0f} ms")
            if appends.longest_s > MAX_STALL_S:
                stall = f"{what}: an append took {appends.longest_s:.1f} s"
                verdict.count("contradictions", stall)

        for query in (
            RunQuery(status=("executing", "waiting")),
            RunQuery(status=("failed",)),
            RunQuery(status=("completed",), tag="t07"),
        ):
            await checked(f"list {query.status} {query.tag or ''}", store.list_runs(query))
        await checked(f"delete a stream of {stream_mb} MB", store.delete(doomed))
        await checked("sweep", _sweep(store))
        await appends.stop()
        verdict.records = appends.count
    finally:
        await store.close()
    return verdict


async def _sweep(store: SqliteStore) -> None:
    began_s = time.monotonic()
    while time.monotonic() - began_s < SWEEP_S:
        if not (await store.sweep()).has_more:
            return
        await asyncio.sleep(STEP_S)


class _Appends:
    """Sequential appends, and the duration of the longest one."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._is_stopped = False
        self.count = 0
        self.longest_s = 0.0

    async def start(self) -> None:
        key = StreamKey((await self._store.create_run(new_run())).id, "live")
        self._task = asyncio.create_task(self._append(key))

    async def _append(self, key: StreamKey) -> None:
        while not self._is_stopped:
            began_s = time.monotonic()
            await self._store.append(key, [b"1"])
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)
            self.count += 1

    async def stop(self) -> None:
        self._is_stopped = True
        await self._task
