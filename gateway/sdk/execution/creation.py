"""Creates a run: afterwards it is stored and started, or it does not exist."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.errors import RealtimeError, RunExists, RunNotFound
from gateway.model.runs import Run
from gateway.sdk.runtime import Runtime

ATTEMPTS = 4  # to create a run; about 0.4 s in all, in addition to the store's own retries
FIRST_RETRY_S = 0.1
REMOVE_TIMEOUT_S = 1.0  # how long an error waits for its run to be removed, before it is raised

_log = logging.getLogger("realtime.runner")


async def make(runtime: Runtime, run: Run, begin: Callable[[Run], Awaitable[None]]) -> Run:
    """Store a new run and start it, as one unit that a cancellation of the caller cannot divide.

    Args:
        runtime: Its store holds the run.
        run: New.
        begin: Starts a run; called with the stored one.

    Returns:
        The stored run. If the idempotency key was used before, the run that was created with it.

    Raises:
        RealtimeError: the store or the queue failed. If the run was created after all, it is
            removed as soon as the store answers.
    """
    return await runtime.shield(_make(runtime, run, begin))


async def _make(runtime: Runtime, run: Run, begin: Callable[[Run], Awaitable[None]]) -> Run:
    try:
        stored = await _create(runtime, run)
        await begin(stored)
    except BaseException:
        # Also CancelledError, from code that cancels all tasks: the run may have been created.
        removal = asyncio.ensure_future(runtime.shield(_remove(runtime, run)))
        await asyncio.wait({removal}, timeout=REMOVE_TIMEOUT_S)
        raise
    return stored


async def _create(runtime: Runtime, run: Run) -> Run:
    """Create a run. A retry after a lost reply uses the same id, so only one run can exist."""
    for attempt in range(ATTEMPTS):
        try:
            return await runtime.store.create_run(run)
        except RunExists:  # created by the previous attempt: an id cannot be guessed
            return (await runtime.store.get_run(run.id)).run
        except RealtimeError as error:
            if not error.retryable or attempt == ATTEMPTS - 1:
                raise
        await runtime.sleep(FIRST_RETRY_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


async def _remove(runtime: Runtime, run: Run) -> None:
    """Remove a run whose trigger failed, unless another trigger has started it."""

    async def remove() -> None:
        try:
            stored = (await runtime.store.get_run(run.id)).run
        except RunNotFound:
            return
        if stored.is_queued and not (runtime.runner is not None and runtime.runner.has(run.id)):
            await runtime.store.delete_run(run.id)

    try:
        runner = runtime.runner
        await (runner.persist_with_retry(remove, run.id) if runner else remove())
    except RealtimeError as error:
        _log.warning("run %s may have been created; nothing executes it: %s", run.id, error)
