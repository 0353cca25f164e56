"""The stored state of a run that executes here: fenced writes, and takeover by other processes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Literal, TypeVar

import orjson

from gateway.errors import IllegalTransition, RealtimeError, RunNotFound
from gateway.model.log import run_log
from gateway.model.records import Position
from gateway.model.runs import Run
from gateway.sdk.execution.context import ExecutionContext
from gateway.sdk.execution.task_queues import is_process

RETRY_WATCH_S = 5.0  # pause after the run's own log could not be followed

T = TypeVar("T")
Log = logging.LoggerAdapter[logging.Logger]
StopReason = Literal["canceled", "timed_out", "stopped", "taken"]


class StoredRun:
    """A run as this process last stored it.

    Attributes:
        run: The run after the last successful write.
        is_working: Whether its function executes now.

    Args:
        run: The run in the store.
        context: Shared by the executions of the runner.
        log: For warnings.
        stop: Called if the run has to stop: canceled, or taken over by another process.
    """

    def __init__(
        self,
        run: Run,
        context: ExecutionContext,
        log: Log,
        stop: Callable[[StopReason], None],
    ) -> None:
        self.run = run
        self.is_working = False
        self._context = context
        self._store = context.runtime.store
        self._log = log
        self._stop = stop
        self._queued_at: str | None = None  # of the attempt that executes

    # ---- writes ----

    async def change(self, **patch: Any) -> bool:
        """Change the run; false if it has ended, or was deleted, meanwhile."""

        async def write() -> Run:
            try:
                return await self._patch(patch)
            except IllegalTransition:
                if not await self._restore():
                    raise
                return await self._patch(patch)

        try:
            self.run = await self.persist(lambda: asyncio.shield(write()))
        except (IllegalTransition, RunNotFound):
            return False
        return True

    async def persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Write to the store, and retry while it is unavailable."""
        try:
            return await self._context.persist_with_retry(write, self.run.id, self._log)
        except asyncio.CancelledError:
            # Code that cancels all tasks of the loop. The write may be in flight: repeating it is
            # safe.
            self._stop("stopped")
            return await write()

    async def reload(self) -> None:
        """Read the run as another process has changed it."""
        self.run = (await self.persist(lambda: self._store.get_run(self.run.id))).run

    async def _patch(self, patch: dict[str, Any]) -> Run:
        # The attempt makes the store refuse the patch if a later one has begun elsewhere.
        patch = {"attempt": self.run.attempt, **patch}
        fencing_store = self._context.fencing_store
        if fencing_store is None or self.run.owner != self._context.owner:
            return await self._store.patch_run(self.run.id, patch)
        run = await fencing_store.patch_run_if_owner(self.run.id, patch, self.run.owner)
        if run is None:
            raise IllegalTransition(f"run {self.run.id} was taken over by another gateway")
        return run

    async def _restore(self) -> bool:
        """Mark the run as executing again, if the store has lost that; false if it has not.

        A failover of Redis may lose changes that it acknowledged just before.
        """
        stored = (await self._store.get_run(self.run.id)).run
        is_ours = stored.owner == self.run.owner or not is_process(stored.owner)
        is_behind = stored.is_queued and stored.attempt <= self.run.attempt
        if not (self.is_working and is_ours and is_behind):
            return False
        self._log.warning("run %s: the store has lost that it executes", self.run.id)
        if stored.status == "delayed":
            await self._patch({"status": "queued"})
        started = {"started_at": self.run.started_at, "owner": self._context.owner}
        await self._patch({"status": "executing", **started})
        return True

    # ---- changes by other processes ----

    def begin_attempt(self) -> None:
        """Record which attempt executes, to recognize one that another process begins."""
        self._queued_at = self.run.queued_at

    async def watch(self) -> None:
        """Follow the run's log, to which a cancellation or a takeover is written."""
        after: Position | None = None
        while True:
            try:
                async with aclosing(self._store.follow(run_log(self.run.id), after)) as pages:
                    async for page in pages:
                        patches = [orjson.loads(record.data) for record in page.records]
                        if page.end or any(patch.get("cancel_requested_at") for patch in patches):
                            self._stop("canceled")
                            return
                        owners = [patch["owner"] for patch in patches if "owner" in patch]
                        if owners and owners[-1] != self._context.owner:
                            await self._reclaim()
                        after = page.position
            except RunNotFound:  # deleted before it was followed
                self._stop("canceled")
                return
            except RealtimeError as error:
                self._log.warning("run %s: its log cannot be followed: %s", self.run.id, error)
            await asyncio.sleep(RETRY_WATCH_S)

    async def _reclaim(self) -> None:
        """Write this process's name back, or stop if another process has begun to execute.

        The other process assumed that this one was dead, or its queue delivered the run to it too;
        see `redelivery`. It waits for the answer that is written here.
        """
        run = (await self._store.get_run(self.run.id)).run
        if run.owner == self._context.owner or run.is_finished:
            return  # a change from before this attempt
        try:
            if run.queued_at != self._queued_at:  # taken over in an attempt of the same number
                raise IllegalTransition(f"run {run.id} was begun anew by {run.owner}")
            await self._patch({"owner": self._context.owner})
        except IllegalTransition:
            self._stop("taken")
