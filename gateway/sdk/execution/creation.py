"""Making a run: in the end it is in the store and begun, or it is not there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gateway.errors import RealtimeError, RunExists, RunNotFound
from gateway.model.runs import Run
from gateway.sdk.runtime import Runtime

ATTEMPTS = 4  # to create a run; about 0.4 s in all, beside what the store itself waits
FIRST_REST_S = 0.1
GIVE_UP_S = 1.0  # how long an error waits for its run to be removed, before it is raised

_log = logging.getLogger("realtime.runner")


async def make(active: Runtime, run: Run, begin: Callable[[Run], Awaitable[None]]) -> Run:
    """Keep a new run and have it begun, as one unit that no cancellation of the caller divides.

    Args:
        active: Whose store keeps it.
        run: New.
        begin: Has a run executed; called with the one that is kept.

    Returns:
        The run as kept; of an idempotency key that was used, the run that was made with it.

    Raises:
        RealtimeError: the store or the queue failed. The run is removed as soon as the store
            answers, if it was created after all.
    """
    return await active.undivided(_make(active, run, begin))


async def _make(active: Runtime, run: Run, begin: Callable[[Run], Awaitable[None]]) -> Run:
    try:
        kept = await _create(active, run)
        await begin(kept)
    except BaseException:  # a cancellation of all tasks, too: whether it was created is not known
        giving_up = asyncio.ensure_future(active.undivided(_give_up(active, run)))
        await asyncio.wait({giving_up}, timeout=GIVE_UP_S)
        raise
    return kept


async def _create(active: Runtime, run: Run) -> Run:
    """Create a run, again under the same id when the answer was lost: there can be only one."""
    for attempt in range(ATTEMPTS):
        try:
            return await active.store.create_run(run)
        except RunExists:  # ids cannot be guessed: by the attempt before
            return (await active.store.get_run(run.id)).run
        except RealtimeError as error:
            if not error.retryable or attempt == ATTEMPTS - 1:
                raise
        await active.sleep(FIRST_REST_S * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


async def _give_up(active: Runtime, run: Run) -> None:
    """Remove a run that its caller was told was not made, unless another trigger has begun it."""

    async def remove() -> None:
        try:
            kept = (await active.store.get_run(run.id)).run
        except RunNotFound:
            return
        if kept.is_queued and not (active.runner is not None and active.runner.has(run.id)):
            await active.store.delete_run(run.id)

    try:
        await (active.runner.until_kept(remove, run.id) if active.runner else remove())
    except RealtimeError as error:
        _log.warning("run %s may have been created; nothing executes it: %s", run.id, error)
