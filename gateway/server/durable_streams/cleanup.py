"""Forgets what has expired or was deleted, a bounded number of logs at a time.

Whoever reads or writes a stream whose time is over finds it gone at once. What nobody asks for any
more is found here, and what deleted streams leave behind: their logs stay, empty and ended, for as
long as a request that began before may still come to append to them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.model.records import PATH_CONFIG, StreamKey, path_of
from gateway.server.durable_streams.path_streams import Paths

STEP_LOGS = 500  # looked at in one step: two reads each
PAUSE_S = 10.0  # between steps
REMEMBERED_MS = 60_000  # what is deleted stays known as deleted

_log = logging.getLogger("realtime.paths")

Sleep = Callable[[float], Awaitable[None]]


@asynccontextmanager
async def sweeping_paths(paths: Paths, sleep: Sleep = asyncio.sleep) -> AsyncIterator[None]:
    """Sweep in the background for as long as the context is open."""
    task = asyncio.create_task(_sweep(paths, sleep), name="sweeper of paths")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _sweep(paths: Paths, sleep: Sleep) -> None:
    after: StreamKey | None = None
    while True:
        await sleep(PAUSE_S)
        try:
            after = await sweep_step(paths, after)
        except Exception:  # the sweeper outlives its faults: else a disk fills up in silence
            _log.exception("the sweeper of paths failed")


async def sweep_step(
    paths: Paths, after: StreamKey | None, limit: int = STEP_LOGS
) -> StreamKey | None:
    """Look at some logs of paths, and forget what may be forgotten.

    Args:
        paths: The streams of paths.
        after: Where the last step came to; None to begin.
        limit: How many logs.

    Returns:
        Where this step came to; None after the last log.
    """
    keys = await paths.store.list_path_logs(after, limit)
    for key in keys:
        if key.stream_id == PATH_CONFIG:
            await _tidy(paths, key)
        else:
            await _drop_unused(paths, key)
    return keys[-1] if len(keys) == limit else None


async def _tidy(paths: Paths, key: StreamKey) -> None:
    path = path_of(key)
    assert path is not None
    entry = await paths.tidy(path)
    configuration = entry.configuration
    is_old = configuration.changed_ms + REMEMBERED_MS <= paths.now_ms()
    if configuration.state == "absent" and is_old:
        await paths.store.drop(key, entry.version)


async def _drop_unused(paths: Paths, key: StreamKey) -> None:
    path = path_of(key)
    assert path is not None
    entry = await paths.read(path)
    if entry.configuration.state != "absent" and entry.data == key:
        return
    position = (await paths.store.head(key)).position
    made_ms = int(position.epoch[:11], 16)  # one that is being created is not published yet
    if max(made_ms, entry.configuration.changed_ms) + REMEMBERED_MS <= paths.now_ms():
        await paths.store.drop(key, position)
