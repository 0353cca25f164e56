"""The SDK in plain code: scripts, threads, views of Django and Flask, plain tasks.

Each function that a coroutine would await has a twin whose name ends with `_sync`, and so has each
that it would iterate with `async for`:

    handle = pack.trigger_sync(["tea", "cups"])
    for line in packed.read_sync(handle.id, timeout_s=30): ...

A twin blocks its thread. The first one connects this process, as `connect()` does, unless a block
of `connect()` or a gateway is open in it. For a coroutine without a twin there is `run_in_loop`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Coroutine, Generator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from gateway.sdk.bridge import is_in_coroutine, run_in_loop, start_runtime
from gateway.sdk.runtime import has_runtime

P = ParamSpec("P")
T = TypeVar("T")

_END: Any = object()


def in_plain_code(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make the twin of a coroutine function."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        begin(function.__name__)
        return run_in_loop(function(*args, **kwargs))

    return _named(call)


def iterated_in_plain_code(
    function: Callable[P, AsyncIterable[T]],
) -> Callable[P, Generator[T, None, None]]:
    """Make the twin of a function that returns something for `async for`."""

    @wraps(function)
    def iterate(*args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        begin(function.__name__)
        return _each(function(*args, **kwargs))

    return _named(iterate)


def begin(name: str) -> None:
    """Prepare a call of a twin: connect this process if nothing has.

    Args:
        name: Of the function that a coroutine would await.

    Raises:
        RuntimeError: called in a coroutine, whose event loop the twin would block.
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
        async with turn:  # a step that was interrupted may still be on its way out
            if (aclose := getattr(steps, "aclose", None)) is not None:
                await aclose()

    try:
        while (item := run_in_loop(step())) is not _END:
            yield item
    finally:
        if has_runtime():
            run_in_loop(close())
