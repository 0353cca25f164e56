"""Deletes expired and leftover logs in the background, a bounded number at a time.

A read or write of an expired stream fails immediately, and deletes it. This job deletes the expired
streams that no request touches, and the logs that deleted streams leave behind. Such a log stays,
empty and ended, until no request that began before the deletion can still append to it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.model.records import PATH_CONFIG, StreamKey, path_of
from gateway.server.durable_streams.path_streams import PathStreams

STEP_LOGS = 500  # checked in one step: two reads each
PAUSE_S = 10.0  # between steps
REMEMBERED_MS = 60_000  # how long a deleted stream keeps its configuration

_log = logging.getLogger("realtime.paths")

Sleep = Callable[[float], Awaitable[None]]


@asynccontextmanager
async def run_cleanup(paths: PathStreams, sleep: Sleep = asyncio.sleep) -> AsyncIterator[None]:
    """Clean up in the background while the context is open."""
    task = asyncio.create_task(_sweep(paths, sleep), name="sweeper of paths")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _sweep(paths: PathStreams, sleep: Sleep) -> None:
    after: StreamKey | None = None
    while True:
        await sleep(PAUSE_S)
        try:
            after = await cleanup_step(paths, after)
        except Exception:  # keep running after any error: otherwise the disk fills up unnoticed
            _log.exception("the sweeper of paths failed")


async def cleanup_step(
    paths: PathStreams, after: StreamKey | None, limit: int = STEP_LOGS
) -> StreamKey | None:
    """Check some logs of paths, and delete those that are not needed.

    Args:
        paths: The streams of paths.
        after: The last log of the previous step; None to start.
        limit: How many logs to check.

    Returns:
        The last log of this step; None after the last one of the store.
    """
    keys = await paths.store.list_path_logs(after, limit)
    for key in keys:
        if key.stream_id == PATH_CONFIG:
            await _collect(paths, key)
        else:
            await _drop_unused(paths, key)
    return keys[-1] if len(keys) == limit else None


async def _collect(paths: PathStreams, key: StreamKey) -> None:
    path = path_of(key)
    assert path is not None
    entry = await paths.collect(path)
    configuration = entry.configuration
    is_old = configuration.changed_ms + REMEMBERED_MS <= paths.now_ms()
    if configuration.state == "absent" and is_old:
        await paths.store.drop(key, entry.version)


async def _drop_unused(paths: PathStreams, key: StreamKey) -> None:
    path = path_of(key)
    assert path is not None
    entry = await paths.read(path)
    if entry.configuration.state != "absent" and entry.data == key:
        return
    position = (await paths.store.head(key)).position
    made_ms = int(position.epoch[:11], 16)  # a stream that is being created is not published yet
    if max(made_ms, entry.configuration.changed_ms) + REMEMBERED_MS <= paths.now_ms():
        await paths.store.drop(key, position)
