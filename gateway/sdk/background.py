"""The runtime of programs without an event loop: it runs on a loop of its own, in a thread.

Synchronous code reaches it through `run_in_loop` and the functions that end with `_sync`, which
wait for a result. Task queues use `submit`, which does not wait: work for one run is done in order,
and is queued while no gateway answers. A process that has a runtime already (a gateway,
`connect()`) uses that one. A forked process connects anew. Runs that are triggered here execute in
this process, unless their runner is a queue.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from gateway import tokens
from gateway.errors import RealtimeError, StoreUnavailable
from gateway.sdk.runtime import Runtime, current_runtime, has_runtime, reset_after_fork
from gateway.sdk.session import connect_with
from gateway.settings import Settings
from gateway.stores.remote.store import RemoteStore

T = TypeVar("T")
Work = Callable[[Runtime], Awaitable[T]]

MAX_WAITING = 10_000  # pieces of work while no gateway answers; about 2 KB each
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
REFUSED_FOR_S = 10.0  # after a refusal, all work fails with the same error for this long
READY_S = 30.0  # for the store to open, while a caller waits
STOP_S = 15.0  # for accepted work to become durable when the process ends

_log = logging.getLogger("realtime.queues")
_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


def submit(work: Work[T], order: str | None = None) -> Future[T]:
    """Do some work with the process's runtime; starts a runtime if there is none.

    Args:
        work: Called with the runtime, on its event loop.
        order: Work with the same order is done one after the other; None: immediately.

    Returns:
        The outcome. Only plain threads may wait for it.

    Raises:
        StoreUnavailable: too much work waits for a gateway already.
    """
    if _background is None and has_runtime():
        runtime = current_runtime()

        async def do() -> T:
            async with serialized(order):
                return await work(runtime)

        return asyncio.run_coroutine_threadsafe(do(), runtime.loop)
    return start().submit(work, order)


def start() -> Background:
    """Start the background of this process, unless there is one; does not wait for it."""
    global _background
    with _starting:
        if _background is None:
            _background = Background()
        return _background


def connect_process() -> None:
    """Start the background and wait until the process has its runtime.

    Raises:
        RealtimeError: the store, or the gateway, cannot be used.
    """
    start().wait_until_ready()


def stop(timeout_s: float = STOP_S) -> None:
    """End the background, if there is one, after its accepted work or a timeout."""
    global _background
    if _background is not None:
        _background.stop(timeout_s)
        _background = None


class Background:
    """A thread with an event loop and, as soon as a store is open, the process's runtime."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready: asyncio.Future[Runtime] = self._loop.create_future()
        self._works: set[asyncio.Task[Any]] = set()
        self._waiting = 0
        self._stopping = asyncio.Event()
        self._retry = asyncio.Event()
        self._refused_at_s = 0.0
        self._serving: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="realtime", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T], order: str | None) -> Future[T]:
        """See `submit`."""
        if self._waiting >= MAX_WAITING:
            raise StoreUnavailable(f"{MAX_WAITING} changes wait for a gateway; no more are kept")
        self._waiting += 1
        future = asyncio.run_coroutine_threadsafe(self._do(work, order), self._loop)
        future.add_done_callback(self._on_done)
        return future

    def wait_until_ready(self, timeout_s: float = READY_S) -> None:
        """Wait in a plain thread until the process has its runtime.

        Raises:
            StoreUnavailable: there is no runtime yet; the log has the reason.
            RealtimeError: the store, or the gateway, cannot be used.
        """

        async def nothing(_: Runtime) -> None: ...

        future = self.submit(nothing, None)
        try:
            future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise StoreUnavailable(
                f"the store could not be opened within {timeout_s:g} s; the log says why"
            ) from None

    def stop(self, timeout_s: float) -> None:
        """See `stop`."""
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(timeout_s)

    def _on_done(self, _: Future[Any]) -> None:
        self._waiting -= 1

    async def _do(self, work: Work[T], order: str | None) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._works.add(task)
        self._retry_if_refused()
        try:
            async with serialized(order):
                return await work(await asyncio.shield(self._ready))
        finally:
            self._works.discard(task)

    def _retry_if_refused(self) -> None:
        """Open the store again: the reason of the refusal may be gone."""
        is_refused = self._ready.done() and self._ready.exception() is not None
        if is_refused and self._loop.time() - self._refused_at_s >= REFUSED_FOR_S:
            self._ready = self._loop.create_future()
            self._retry.set()

    def _stop(self) -> None:
        self._stopping.set()
        self._retry.set()
        if not self._ready.done() and self._serving is not None:
            self._serving.cancel()  # no store was opened, so waiting work is lost

    # ---- the thread ----

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        self._serving = asyncio.create_task(self._serve())
        await asyncio.gather(self._serving, return_exceptions=True)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:  # threads may wait for these tasks
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _cancel_works(self) -> None:
        for work in self._works:
            work.cancel()

    async def _serve(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                # open_s=0: calls and appends wait for an absent gateway, even before it has
                # answered for the first time.
                async with connect_with(Settings.from_env(), open_s=0) as runtime:
                    self._ready.set_result(runtime)
                    await self._stopping.wait()
                    if not _was_reached(runtime):
                        self._cancel_works()
                    elif self._works:
                        await asyncio.wait(self._works, timeout=STOP_S / 2)
                return
            except RealtimeError as error:
                _log.error("%s", error)
                if self._ready.done():
                    return
                if not error.retryable:  # fail all waiting work
                    self._refused_at_s = self._loop.time()
                    self._ready.set_exception(error)
                    await self._retry.wait()
                    if self._stopping.is_set():
                        return
                    self._retry.clear()
                    continue
            await asyncio.sleep(backoff_s)
            backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)


def _was_reached(runtime: Runtime) -> bool:
    return not isinstance(runtime.store, RemoteStore) or runtime.store.was_reached


def serialized(order: str | None) -> AbstractAsyncContextManager[Any]:
    """Return a block that runs after all blocks of the same order that were entered before."""
    # asyncio.Lock is fair: waiters acquire it in the order in which they came.
    if order is None:
        return nullcontext()
    lock = _locks.get(order)
    if lock is None:
        lock = _locks[order] = asyncio.Lock()
    return lock


def _after_fork() -> None:
    """Forget the parent's thread; the child starts its own when it needs one."""
    global _background, _starting
    _starting = threading.Lock()
    if _background is not None:
        _background = None
        _locks.clear()
        reset_after_fork()
        tokens.use(None)


_background: Background | None = None
_starting = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(stop)  # accepted work becomes durable even if the program does not call `stop`
