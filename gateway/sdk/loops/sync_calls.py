"""The SDK in synchronous code: scripts, threads, views of Django and Flask, plain tasks.

Each function that a coroutine awaits, or iterates with `async for`, has a synchronous twin whose
name ends with `_sync`:

    handle = pack.trigger_sync(["tea", "cups"])
    for line in packed.read_sync(handle.id, timeout_s=30): ...

A twin blocks its thread. The first call connects this process as `connect()` does, unless a
`connect()` block or a gateway is already open in it. `run_in_loop` runs a coroutine without a twin.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Coroutine, Generator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from gateway.sdk.loops.bridge import is_in_coroutine, run_in_loop, start_runtime
from gateway.sdk.runtime import has_runtime

P = ParamSpec("P")
T = TypeVar("T")

_END: Any = object()


def make_sync(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make the synchronous twin of a coroutine function."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        prepare_sync_call(function.__name__)
        return run_in_loop(function(*args, **kwargs))

    return _named(call)


def make_sync_iterator(
    function: Callable[P, AsyncIterable[T]],
) -> Callable[P, Generator[T, None, None]]:
    """Make the synchronous twin of a function that returns an asynchronous iterable."""

    @wraps(function)
    def iterate(*args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        prepare_sync_call(function.__name__)
        return _each(function(*args, **kwargs))

    return _named(iterate)


def prepare_sync_call(name: str) -> None:
    """Prepare the call of a twin: connect this process unless it is connected.

    Args:
        name: The name of the asynchronous function.

    Raises:
        RuntimeError: the caller is a coroutine, whose event loop the twin would block.
        RealtimeError: the store, or the gateway, cannot be used.
    """
    if is_in_coroutine():
        raise RuntimeError(
            f"{name}_sync blocks its thread, in which an event loop runs: use `{name}` there, with "
            f"`await` or `async for`, or call {name}_sync in a thread (asyncio.to_thread)"
        )
    start_runtime()


def _named(twin: Callable[P, T]) -> Callable[P, T]:
    name = twin.__name__
    twin.__name__ = f"{name}_sync"
    twin.__qualname__ = f"{twin.__qualname__}_sync"
    first = (twin.__doc__ or "").partition("\n")[0]
    twin.__doc__ = f"{first}\n\nThe twin of `{name}` for plain code; it blocks its thread."
    return twin


def _each(items: AsyncIterable[T]) -> Generator[T, None, None]:
    steps, turn = items.__aiter__(), asyncio.Lock()

    async def step() -> T:
        async with turn:
            return await anext(steps, _END)

    async def close() -> None:
        async with turn:  # an interrupted step may still be unwinding
            if (aclose := getattr(steps, "aclose", None)) is not None:
                await aclose()

    try:
        while (item := run_in_loop(step())) is not _END:
            yield item
    finally:
        if has_runtime():
            run_in_loop(close())
