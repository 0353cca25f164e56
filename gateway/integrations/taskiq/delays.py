"""Runs whose time has not come: Taskiq's brokers know no delays, so a worker holds them until then.

It holds a run outside Taskiq's own counting of what it executes, and gives it back to the broker
when it is due, or when the worker stops: then another one holds it. The run's owner is the worker,
so that its death is noticed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from gateway.errors import IllegalTransition, QueueUnavailable, RealtimeError
from gateway.model.log import run_log
from gateway.model.runs import Run, time_ms
from gateway.sdk.execution.task_queues import TaskQueue, owner_of
from gateway.sdk.runtime import Runtime, runtime

AGAIN_S = 5.0  # after the broker took nothing, or the store did not answer

_log = logging.getLogger("realtime.queues")


class DelayedRuns:
    """The runs that one process holds.

    Args:
        queue: Gets them back.
    """

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._held: dict[str, asyncio.Task[None]] = {}
        self._is_closing = asyncio.Event()

    async def hold(self, run: Run) -> None:
        """Hold a run until it is due."""
        active = runtime()
        owner = active.runner.owner if active.runner is not None else ""
        try:
            await active.store.patch_run(run.id, {"owner": owner})
        except IllegalTransition:
            return  # canceled just now
        held = self._held[run.id] = asyncio.create_task(self._keep(run), name=f"hold {run.id}")
        held.add_done_callback(lambda _: self._held.pop(run.id, None))

    async def release(self) -> None:
        """Give all of them back."""
        self._is_closing.set()
        await asyncio.gather(*self._held.values(), return_exceptions=True)
        self._is_closing.clear()

    async def _keep(self, run: Run) -> None:
        active = runtime()
        due_ms = (time_ms(run.delay_until) if run.delay_until else None) or 0
        waits = {
            asyncio.create_task(active.sleep_until(due_ms)),
            asyncio.create_task(self._is_closing.wait()),
            asyncio.create_task(_until_final(active, run.id)),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        is_done = await self._give_back(active, run)
        while not is_done:
            await asyncio.sleep(AGAIN_S)
            is_done = await self._give_back(active, run)

    async def _give_back(self, active: Runtime, run: Run) -> bool:
        try:
            await active.store.patch_run(run.id, {"owner": owner_of(self._queue.name)})
            await self._queue.put(run)
        except IllegalTransition:
            pass  # it was canceled
        except QueueUnavailable as error:
            _log.error("%s; trying again", error)
            return self._is_closing.is_set()
        except RealtimeError as error:
            _log.error("run %s cannot be given back: %s", run.id, error)
            return self._is_closing.is_set()
        return True


async def _until_final(active: Runtime, run_id: str) -> None:
    async with aclosing(active.store.follow(run_log(run_id))) as pages:
        async for page in pages:
            if page.end is not None:
                return
