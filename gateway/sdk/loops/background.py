"""The SDK in programs without an event loop: its runtime lives on one of its own, in a thread.

Plain code reaches it by `run_in_loop` and the functions that end with `_sync`, which wait for a
result. `submit`, of task queues, does not: its work is done in order for each run, and waits while
no gateway answers. A process that has a runtime already (a gateway, `connect()`) uses that; a
forked process connects anew. What is triggered is executed in this process unless its runner is a
queue.
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
from gateway.sdk.runtime import Runtime, forget_runtime, has_runtime, runtime
from gateway.sdk.session import connected
from gateway.settings import Settings
from gateway.stores.remote.store import RemoteStore

T = TypeVar("T")
Work = Callable[[Runtime], Awaitable[T]]

MAX_WAITING = 10_000  # pieces of work while no gateway answers; about 2 KB each
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 10.0
AGAIN_S = 10.0  # after a refusal; until then whatever is asked for is told the same
READY_S = 30.0  # for the store to open, where a caller waits for it
STOP_S = 15.0  # for what was accepted to become durable when the process ends

_log = logging.getLogger("realtime.queues")
_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


def submit(work: Work[T], order: str | None = None) -> Future[T]:
    """Do something with the process's runtime; starts one if there is none.

    Args:
        work: Is given the runtime, on its event loop.
        order: Pieces of work with the same order are done one after the other; None: at once.

    Returns:
        How it went; to be waited for in plain threads only.

    Raises:
        StoreUnavailable: too much waits for a gateway already.
    """
    if _background is None and has_runtime():
        active = runtime()

        async def do() -> T:
            async with in_order(order):
                return await work(active)

        return asyncio.run_coroutine_threadsafe(do(), active.loop)
    return start().submit(work, order)


def start() -> Background:
    """Start the background of this process, unless there is one; returns at once."""
    global _background
    with _starting:
        if _background is None:
            _background = Background()
        return _background


def stop(timeout_s: float = STOP_S) -> None:
    """End the background, if there is one, once all that it accepted is done or time is up."""
    global _background
    if _background is not None:
        _background.stop(timeout_s)
        _background = None


class Background:
    """A thread with an event loop and, once a store is reached, the process's runtime."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready: asyncio.Future[Runtime] = self._loop.create_future()
        self._works: set[asyncio.Task[Any]] = set()
        self._waiting = 0
        self._stopping = asyncio.Event()
        self._again = asyncio.Event()
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
        future.add_done_callback(self._one_less)
        return future

    def wait_until_ready(self, timeout_s: float = READY_S) -> None:
        """Wait in a plain thread until the process has its runtime.

        Raises:
            StoreUnavailable: it has none yet; the log says why.
            RealtimeError: it cannot have one.
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

    def _one_less(self, _: Future[Any]) -> None:
        self._waiting -= 1

    async def _do(self, work: Work[T], order: str | None) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._works.add(task)
        self._try_again_if_refused()
        try:
            async with in_order(order):
                return await work(await asyncio.shield(self._ready))
        finally:
            self._works.discard(task)

    def _try_again_if_refused(self) -> None:
        """Open the store anew: the process that owned it, or what was wrong, may be gone."""
        is_refused = self._ready.done() and self._ready.exception() is not None
        if is_refused and self._loop.time() - self._refused_at_s >= AGAIN_S:
            self._ready = self._loop.create_future()
            self._again.set()

    def _stop(self) -> None:
        self._stopping.set()
        self._again.set()
        if not self._ready.done() and self._serving is not None:
            self._serving.cancel()  # no store was opened; what waits is lost

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
        finally:
            self._loop.close()

    async def _live(self) -> None:
        self._serving = asyncio.create_task(self._serve())
        await asyncio.gather(self._serving, return_exceptions=True)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:  # threads may wait for them
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _cancel_works(self) -> None:
        for work in self._works:
            work.cancel()

    async def _serve(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                # Calls and appends wait for a gateway that is away, also before the first answer.
                async with connected(Settings.from_env(), open_s=0) as active:
                    self._ready.set_result(active)
                    await self._stopping.wait()
                    if not _was_reached(active):
                        self._cancel_works()
                    elif self._works:
                        await asyncio.wait(self._works, timeout=STOP_S / 2)
                return
            except RealtimeError as error:
                _log.error("%s", error)
                if self._ready.done():
                    return
                if not error.retryable:  # every piece of work is told
                    self._refused_at_s = self._loop.time()
                    self._ready.set_exception(error)
                    await self._again.wait()
                    if self._stopping.is_set():
                        return
                    self._again.clear()
                    continue
            await asyncio.sleep(backoff_s)
            backoff_s = min(MAX_BACKOFF_S, 2 * backoff_s)


def _was_reached(active: Runtime) -> bool:
    return not isinstance(active.store, RemoteStore) or active.store.was_reached


def in_order(order: str | None) -> AbstractAsyncContextManager[Any]:
    """Do a block after those that were entered before with the same order."""
    # Locks are fair: those who wait have it in the order in which they came.
    if order is None:
        return nullcontext()
    lock = _locks.get(order)
    if lock is None:
        lock = _locks[order] = asyncio.Lock()
    return lock


def _after_fork() -> None:
    """In a child process the thread is not there; the child starts its own when it needs one."""
    global _background, _starting
    _starting = threading.Lock()
    if _background is not None:
        _background = None
        _locks.clear()
        forget_runtime()
        tokens.use(None)


_background: Background | None = None
_starting = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(stop)  # for a program that does not stop it: what was accepted becomes durable
