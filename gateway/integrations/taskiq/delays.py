"""Delayed runs on Taskiq workers.

Taskiq's brokers have no delays, so a worker holds a run until it is due. The held run does not
count as a task that Taskiq executes. The worker returns it to the broker when it is due, or when
the worker stops; another worker then holds it. The worker is the run's owner, so the worker's death
is detected.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from gateway.errors import IllegalTransition, QueueUnavailable, RealtimeError
from gateway.model.log import run_log
from gateway.model.runs import Run, time_ms
from gateway.sdk.execution.task_queues import TaskQueue, queue_owner
from gateway.sdk.runtime import Runtime, current_runtime

RETRY_S = 5.0  # pause after the broker or the store has failed

_log = logging.getLogger("realtime.queues")


class DelayedRuns:
    """The runs that this process holds until they are due.

    Args:
        queue: The queue to which due runs return.
    """

    def __init__(self, queue: TaskQueue) -> None:
        self._queue = queue
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_closing = asyncio.Event()

    async def hold(self, run: Run) -> None:
        """Hold a run until it is due."""
        current = current_runtime()
        owner = current.runner.owner if current.runner is not None else ""
        try:
            await current.store.patch_run(run.id, {"owner": owner})
        except IllegalTransition:
            return  # the run has just been canceled
        task = self._tasks[run.id] = asyncio.create_task(
            self._wait_and_return(run), name=f"hold {run.id}"
        )
        task.add_done_callback(lambda _: self._tasks.pop(run.id, None))

    async def release(self) -> None:
        """Return all held runs to the queue."""
        self._is_closing.set()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._is_closing.clear()

    async def _wait_and_return(self, run: Run) -> None:
        current = current_runtime()
        due_ms = (time_ms(run.delay_until) if run.delay_until else None) or 0
        waits = {
            asyncio.create_task(current.sleep_until(due_ms)),
            asyncio.create_task(self._is_closing.wait()),
            asyncio.create_task(_until_final(current, run.id)),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        is_done = await self._return_to_queue(current, run)
        while not is_done:
            await asyncio.sleep(RETRY_S)
            is_done = await self._return_to_queue(current, run)

    async def _return_to_queue(self, current: Runtime, run: Run) -> bool:
        try:
            await current.store.patch_run(run.id, {"owner": queue_owner(self._queue.name)})
            await self._queue.enqueue(run)
        except IllegalTransition:
            pass  # the run was canceled
        except QueueUnavailable as error:
            _log.error("%s; trying again", error)
            return self._is_closing.is_set()
        except RealtimeError as error:
            _log.error("run %s cannot be returned to its queue: %s", run.id, error)
            return self._is_closing.is_set()
        return True


async def _until_final(current: Runtime, run_id: str) -> None:
    async with aclosing(current.store.follow(run_log(run_id))) as pages:
        async for page in pages:
            if page.end is not None:
                return
