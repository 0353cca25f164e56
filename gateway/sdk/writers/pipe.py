"""Appends a whole iterable, or many single values, to one typed stream."""

from __future__ import annotations

import asyncio
import contextvars
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import Future
from contextlib import aclosing
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from gateway.errors import WriterFull
from gateway.sdk.definitions import StreamDefinition
from gateway.sdk.writers.stream_writer import Receipt, StreamWriter

T = TypeVar("T")

PIPE_WINDOW = 256  # records in flight before the pipe waits for the last of them
_END: Any = object()


class Writer(Generic[T]):
    """Appends to one stream; made by `Stream.writer`."""

    def __init__(self, stream: StreamDefinition[T], writer: StreamWriter) -> None:
        self._stream = stream
        self._writer = writer

    def append(self, value: T) -> Receipt:
        """See `Stream.append`."""
        return self._writer.put(self._stream.encode(value))

    async def flush(self) -> None:
        """Wait until all records are durable.

        Raises:
            RealtimeError: the first failure that has reached no caller.
        """
        await self._writer.flush()

    async def __aenter__(self) -> Writer[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.flush()


class Pipe(Generic[T]):
    """An iterable whose values are appended to a stream and passed on; made by `Stream.pipe`."""

    def __init__(
        self,
        stream: StreamDefinition[T],
        writer: StreamWriter,
        values: AsyncIterable[T] | Iterable[T],
    ) -> None:
        self._stream = stream
        self._writer = writer
        self._values = values
        self._has_begun = False

    def __del__(self) -> None:
        if not getattr(self, "_has_begun", True):
            message = (
                f"a pipe into stream {self._stream.id!r} was never awaited, so nothing was "
                "appended: use `await`, `async for`, or `for` in a plain function"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=2, source=self)

    def __await__(self) -> Generator[Any, None, list[T]]:
        return self._collect().__await__()

    async def _collect(self) -> list[T]:
        return [value async for value in self]

    async def __aiter__(self) -> AsyncIterator[T]:
        self._has_begun = True
        in_flight = 0
        receipt: Receipt | None = None
        async with aclosing(_each(self._values)) as values:
            async for value in values:
                receipt = await self._put(value)
                in_flight += 1
                if in_flight >= PIPE_WINDOW:
                    await receipt
                    in_flight = 0
                yield value
        if receipt is not None:
            await receipt

    async def _put(self, value: T) -> Receipt:
        data = self._stream.encode(value)
        while True:
            try:
                return self._writer.put(data)
            except WriterFull:  # large records, or other code of the run that appends here too
                await self._writer.drain()

    def __iter__(self) -> Iterator[T]:
        self._has_begun = True
        if isinstance(self._values, AsyncIterable):
            raise TypeError("this pipe's values are async: use `async for` or `await`")
        self._writer.ensure_not_on_loop("`for` over a pipe is for plain functions; use `async for`")
        receipt: Receipt | None = None
        for value in self._values:
            receipt = self._writer.put(self._stream.encode(value))
            yield value
        if receipt is not None:
            receipt.wait()


async def _each(values: AsyncIterable[T] | Iterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(values, AsyncIterable):
        async for value in values:
            yield value
    elif isinstance(values, Sequence):
        for value in values:
            yield value
    else:
        async with aclosing(_in_thread(values)) as pulled:
            async for value in pulled:
                yield value


async def _in_thread(values: Iterable[T]) -> AsyncGenerator[T, None]:
    """Yield the values of an iterable that may block, such as a client that waits for the network.

    The iterable gets a thread of its own. In a pool, blocked iterables would occupy the threads
    that others need. The next value is read only when it is requested.
    """
    requests: SimpleQueue[Future[Any] | None] = SimpleQueue()
    context = contextvars.copy_context()

    def read() -> None:
        iterator: Any = None
        while (future := requests.get()) is not None:
            try:
                iterator = context.run(iter, values) if iterator is None else iterator
                future.set_result(context.run(next, iterator, _END))
            except BaseException as error:
                future.set_exception(error)

    try:
        Thread(target=read, name="realtime-pipe", daemon=True).start()
        while True:
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()  # a thread cannot be canceled
            requests.put(future)
            value = await asyncio.wrap_future(future)
            if value is _END:
                return
            yield value
    finally:
        requests.put(None)
