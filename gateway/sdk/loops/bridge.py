"""The SDK on other event loops than its own: in `asyncio.run(…)` of a plain task or of a view.

Stores, locks and timers of the SDK belong to the runtime's event loop. So whatever of the SDK is
awaited does its work there: these decorators carry it over, with the context variables of the
caller, and are the only place that knows of two loops. What is called without `await` (`append`,
`metadata.set`) needs none of this, and receipts can be awaited anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from functools import wraps
from typing import Any, TypeVar, cast

from gateway.errors import RunCanceled
from gateway.sdk.runtime import current_run, has_runtime, runtime

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Coroutine[Any, Any, Any]])
G = TypeVar("G", bound=Callable[..., AsyncGenerator[Any, None]])

_END: Any = object()


def on_its_loop(function: F) -> F:
    """Let a coroutine function be awaited on any event loop; its work is done on the runtime's."""

    @wraps(function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await _carried(function(*args, **kwargs))

    return cast(F, call)


def iterated_on_its_loop(function: G) -> G:
    """Let an async generator be iterated on any event loop; its work is done on the runtime's."""

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
        work: Such as `tokens.revoke(…)`; most functions have a twin ending with `_sync` instead.
        timeout_s: How long to wait; None: as long as it takes. Then the work is canceled.

    Raises:
        RuntimeError: called on the event loop itself; await the coroutine there.
        RunCanceled: the calling run is being canceled, before the coroutine began or meanwhile.
        TimeoutError: it took longer.
        RealtimeError: what the coroutine, or connecting, raises.
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
        raise  # the coroutine's own
    except BaseException:  # Ctrl-C in this thread
        future.cancel()
        raise


def start_runtime() -> None:
    """Connect this process, in the background, unless it has a runtime; for plain code.

    Raises:
        RealtimeError: the store, or the gateway, cannot be used.
    """
    if not has_runtime() and not is_in_coroutine():
        from gateway.sdk.loops import background  # which needs tasks, and these this module

        background.start().wait_until_ready()


async def _carried(work: Coroutine[Any, Any, T]) -> T:
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
    """Begin work on the runtime's loop; it is canceled with the calling run."""
    context = current_run()
    try:
        active = runtime()
        active.raise_if_canceled()
        if not active.loop.is_running():
            raise RuntimeError(
                "the SDK's event loop does not run: it is the one in which `connect()` was entered "
                "or the gateway's app was started; keep it running, in another thread if need be"
            )
        future = asyncio.run_coroutine_threadsafe(work, active.loop)
    except BaseException:
        work.close()
        raise
    if context is not None:
        context.cancels(future)
    return future


def _raise_if_canceled() -> None:
    context = current_run()
    if context is not None and context.is_canceled:
        raise RunCanceled(f"run {context.id} is being canceled") from None


def is_on_loop() -> bool:
    """Whether the caller runs on the runtime's event loop."""
    return has_runtime() and is_in_coroutine() and runtime().loop is asyncio.get_running_loop()


def is_in_coroutine() -> bool:
    """Whether an event loop runs in the calling thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _each(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    turn = asyncio.Lock()  # a step that is canceled may still be on its way out

    async def step() -> T:
        async with turn:
            return await anext(items, _END)

    async def close() -> None:
        async with turn:
            await items.aclose()

    try:
        while (item := await _carried(step())) is not _END:
            yield item
    finally:
        await _carried(close())
