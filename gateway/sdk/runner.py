"""Executes runs in this process: bounded concurrency, cancellation, statuses kept in the store."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import aclosing, asynccontextmanager
from threading import Thread
from typing import Any

import orjson

from gateway.errors import IllegalTransition, RealtimeError, RunCanceled
from gateway.runs import Run, iso_time
from gateway.sdk.runtime import Context, Runtime, executing
from gateway.stores.base import RunQuery, Store, run_log, system_clock_ms

EMBEDDED_OWNER = "embedded"  # runs of the process that owns the store
UNFINISHED = ("queued", "executing", "waiting")

MAX_ERROR_CHARACTERS = 2000

_log = logging.getLogger("realtime.runner")

Body = Callable[[Run], Coroutine[Any, Any, Any]]


class Runner:
    """Executes runs on the runtime's event loop, plain functions in threads.

    Args:
        runtime: Whose store keeps the runs.
        owner: Name under which this process executes runs.
        concurrency: Runs that execute at the same time; one that waits for its children counts as
            none.
    """

    def __init__(self, runtime: Runtime, *, owner: str, concurrency: int) -> None:
        self.owner = owner
        self._runtime = runtime
        self._slots = asyncio.Semaphore(concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._holding: set[str] = set()
        self._is_stopping = False

    async def recover(self) -> int:
        """Mark what this owner was executing when its process died as crashed.

        Returns:
            How many runs were marked.
        """
        return await mark_crashed(
            self._runtime.store, self.owner, "the process that executed it ended"
        )

    def start(self, run: Run, body: Body) -> None:
        """Execute a run as soon as there is room.

        Args:
            run: Queued in the store.
            body: Calls the task's function with the run's payload and returns the output.
        """
        task = asyncio.create_task(self._run(run, body), name=f"run {run.id}")
        self._tasks[run.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run.id, None))

    async def call_in_thread(self, function: Callable[[], Any]) -> Any:
        """Call a plain function in a thread, as the current run."""
        context = contextvars.copy_context()
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a thread cannot be canceled, only told

        def call() -> None:
            try:
                future.set_result(context.run(function))
            except BaseException as error:
                future.set_exception(error)

        # A thread each: in a pool, functions that wait for their children would hold what those
        # need. The slots bound how many execute. Daemons, because one that does not heed its
        # cancellation must not keep the process from ending.
        Thread(target=call, name="realtime-task", daemon=True).start()
        return await asyncio.wrap_future(future)

    async def stop(self) -> None:
        """Cancel what executes and wait until it has ended."""
        self._is_stopping = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @asynccontextmanager
    async def waiting(self, context: Context) -> AsyncIterator[None]:
        """Give the run's slot away while it waits for its children, and say so in its status."""
        if context.id not in self._holding:
            yield  # executed elsewhere, or waits already (two waits at once)
            return
        await self._runtime.store.patch_run(context.id, {"status": "waiting"})
        self._let_go(context.id)
        try:
            yield
        except asyncio.CancelledError:
            raise  # the run is being ended: it needs no slot for that
        except BaseException:
            await self._resume(context.id)
            raise
        else:
            await self._resume(context.id)

    async def _resume(self, run_id: str) -> None:
        await self._slots.acquire()
        self._holding.add(run_id)
        await self._runtime.store.patch_run(run_id, {"status": "executing"})

    def _let_go(self, run_id: str) -> None:
        if run_id in self._holding:
            self._holding.discard(run_id)
            self._slots.release()

    async def _run(self, run: Run, body: Body) -> None:
        await self._slots.acquire()
        self._holding.add(run.id)
        try:
            await self._execute(run, body)
        except asyncio.CancelledError:
            await self._end_canceled(run.id)
            raise
        except Exception:
            _log.exception("run %s (%s): its end could not be kept", run.id, run.task)
        finally:
            self._let_go(run.id)

    async def _execute(self, run: Run, body: Body) -> None:
        context = Context.of(run)
        try:
            run = await self._runtime.store.patch_run(
                run.id, {"status": "executing", "started_at": self._now()}
            )
        except IllegalTransition:
            return  # canceled while it was queued
        work = asyncio.create_task(self._call(run, context, body), name=f"task {run.id}")
        watch = asyncio.create_task(self._watch_for_cancel(run, context, work))
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            context.cancel()
            work.cancel()
            await asyncio.wait({work})
            raise
        finally:
            watch.cancel()
            await self._close(run, work)

    async def _call(self, run: Run, context: Context, body: Body) -> Any:
        try:
            async with executing(context):
                output = await body(run)
        except SystemExit as error:  # meant for a script; here it would end the whole process
            raise RuntimeError(f"the task called sys.exit({error.code!r})") from error
        await self._runtime.flush(run.id)
        return output

    async def _watch_for_cancel(self, run: Run, context: Context, work: asyncio.Task[Any]) -> None:
        """Follow the run's own log: whoever asks to cancel it, anywhere, writes that there."""
        store = self._runtime.store
        async with aclosing(store.follow(run_log(run.id))) as pages:
            async for page in pages:
                patches = (orjson.loads(record.data) for record in page.records)
                if any(patch.get("cancel_requested_at") for patch in patches):
                    context.cancel()
                    work.cancel()
                    return

    async def _close(self, run: Run, work: asyncio.Task[Any]) -> None:
        """Keep how it went; what was appended is durable first, however it went."""
        failure: BaseException | None = None
        try:
            await self._runtime.flush(run.id, forget=True)
        except RealtimeError as error:
            failure = error
        if work.cancelled() or isinstance(work.exception(), RunCanceled):
            await self._end_canceled(run.id)
            return
        failure = work.exception() or failure
        if failure is None:
            await self._end(run.id, "completed", output=work.result())
            return
        _log.error("run %s (%s) failed", run.id, run.task, exc_info=failure)
        await self._end(run.id, "failed", error=_error(type(failure).__name__, str(failure)))

    async def _end_canceled(self, run_id: str) -> None:
        if self._is_stopping:
            stopped = _error("ProcessStopped", "the process that executed it was stopped")
            await self._end(run_id, "crashed", error=stopped)
        else:
            await self._end(run_id, "canceled")

    async def _end(self, run_id: str, status: str, **fields: Any) -> None:
        patch = {"status": status, "finished_at": self._now(), **fields}
        try:
            await asyncio.shield(self._runtime.store.patch_run(run_id, patch))
        except IllegalTransition:
            _log.info("run %s had ended already; it stays so", run_id)

    def _now(self) -> str:
        return iso_time(self._runtime.clock_ms())


def _error(type_: str, message: str) -> dict[str, str]:
    return {"type": type_, "message": message[:MAX_ERROR_CHARACTERS]}


async def mark_crashed(
    store: Store, owner: str, message: str, clock_ms: Callable[[], int] = system_clock_ms
) -> int:
    """Mark the unfinished runs of an owner that is no more as crashed.

    Args:
        store: Where the runs are.
        owner: Who executed them.
        message: Why, for the run's error.
        clock_ms: Gives the time.

    Returns:
        How many runs were marked.
    """
    marked = 0
    while lost := await store.list_runs(RunQuery(status=UNFINISHED, owner=owner, limit=1000)):
        for run in lost:
            patch = {
                "status": "crashed",
                "finished_at": iso_time(clock_ms()),
                "error": _error("ProcessDied", message),
            }
            try:
                await store.patch_run(run.id, patch)
            except IllegalTransition:
                continue  # it has ended meanwhile
            marked += 1
    return marked
