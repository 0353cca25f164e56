"""Call the SDK from other event loops, such as `asyncio.run(…)` in a plain task.

Stores, locks and timers of the SDK belong to the runtime's event loop. These decorators run a
coroutine or an async generator of the SDK on that loop, with the caller's context variables. No
other module knows of two loops. Calls without `await` (`append`, `metadata.set`) need no bridge,
and receipts can be awaited on any loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from functools import wraps
from typing import Any, TypeVar, cast

from gateway.errors import RunCanceled
from gateway.sdk.context import current_run
from gateway.sdk.runtime import current_runtime, has_runtime

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])
G = TypeVar("G", bound=Callable[..., AsyncGenerator[Any, None]])

_END: Any = object()
_connect: Callable[[], None] | None = None


def set_connector(connect: Callable[[], None]) -> None:
    """Set the function that connects this process for synchronous code.

    `import gateway` sets `background.connect_process`, which cannot be imported here: it needs
    tasks, and tasks need this module.
    """
    global _connect
    _connect = connect


def run_on_sdk_loop(function: F) -> F:
    """Make a coroutine function awaitable on any event loop; it runs on the runtime's loop."""

    @wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await _run(function(*args, **kwargs))

    return cast(F, call)


def iterate_on_sdk_loop(function: G) -> G:
    """Make an async generator iterable on any event loop; it runs on the runtime's loop."""

    @wraps(function)
    def iterate(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        items = function(*args, **kwargs)
        return items if is_on_loop() else _each(items)

    return cast(G, iterate)


def run_in_loop(work: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
    """Run a coroutine of the SDK from a plain function's thread and return its result.

    Connects this process as `connect()` does, until it ends, unless a gateway or a block of
    `connect()` is open in it.

    Args:
        work: Such as `tokens.revoke(…)`; most functions have a synchronous twin, `…_sync`.
        timeout_s: How long to wait; then the coroutine is canceled. None: no limit.

    Raises:
        RuntimeError: called on the event loop itself; await the coroutine there.
        RunCanceled: the calling run was canceled before the coroutine began or meanwhile.
        TimeoutError: no result within `timeout_s`.
        RealtimeError: raised by the coroutine, or by connecting.
    """
    try:
        if is_on_loop():
            raise RuntimeError("run_in_loop is for plain threads; here, await the coroutine")
        start_runtime()
    except BaseException:
        work.close()
        raise
    future = _submit(work)
    try:
        return future.result(timeout_s)
    except CancelledError:
        _raise_if_canceled()
        raise
    except TimeoutError:
        if future.cancel():
            raise TimeoutError(f"no result came within {timeout_s:g} s") from None
        raise  # the coroutine's own TimeoutError
    except BaseException:  # Ctrl-C in this thread
        future.cancel()
        raise


def start_runtime() -> None:
    """Connect this process in the background, unless it has a runtime; for synchronous code.

    Raises:
        RealtimeError: the store, or the gateway, cannot be used.
    """
    if not has_runtime() and not is_in_coroutine():
        assert _connect is not None, "`import gateway` sets it"
        _connect()


async def _run(work: Coroutine[Any, Any, T]) -> T:
    if not has_runtime() or is_on_loop():
        return await work
    future = _submit(work)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if future.cancelled():
            _raise_if_canceled()
        raise


def _submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Start a coroutine on the runtime's loop; it is canceled together with the calling run."""
    context = current_run()
    try:
        runtime = current_runtime()
        runtime.raise_if_canceled()
        if not runtime.loop.is_running():
            raise RuntimeError(
                "the SDK's event loop does not run: it is the one in which `connect()` was entered "
                "or the gateway's app was started; keep it running, in another thread if need be"
            )
        future = asyncio.run_coroutine_threadsafe(work, runtime.loop)
    except BaseException:
        work.close()
        raise
    if context is not None:
        context.cancel_with_run(future)
    return future


def _raise_if_canceled() -> None:
    context = current_run()
    if context is not None and context.is_canceled:
        raise RunCanceled(f"run {context.id} is being canceled") from None


def is_on_loop() -> bool:
    """Whether the caller runs on the runtime's event loop."""
    return (
        has_runtime() and is_in_coroutine() and current_runtime().loop is asyncio.get_running_loop()
    )


def is_in_coroutine() -> bool:
    """Whether an event loop runs in the calling thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _each(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    # One step at a time: a canceled step may still be unwinding when the generator is closed.
    lock = asyncio.Lock()

    async def step() -> T:
        async with lock:
            return await anext(items, _END)

    async def close() -> None:
        async with lock:
            await items.aclose()

    try:
        while (item := await _run(step())) is not _END:
            yield item
    finally:
        await _run(close())
