"""What the adapters of model providers share.

An adapter is a reader: it takes a provider's events one by one and gives parts. Readers look at
the events' attributes and never import the provider's package.

How a failure shows: a stream that raises, that reports a failure, or that ends before the answer
does becomes an `error` part with the provider's own message, and then the exception goes on. So a
page sees why, and the task fails unless it catches the exception. Who reads the stream reads the
message too.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import pydantic_core

from gateway.sdk.parts import ErrorPart, Part, ToolCall, ToolInputDelta, ToolInputStart

ModelStream: TypeAlias = (
    AsyncIterable[Any]
    | Awaitable[AsyncIterable[Any]]
    | AbstractAsyncContextManager[AsyncIterable[Any]]
)
"""What the packages give: a stream, a coroutine of one, or a context manager around one."""

# An input that ends for one of these reasons has been cut off.
CUT_OFF = ("length", "content-filter")


class ModelStreamError(Exception):
    """A provider's stream reported that it failed, or ended before the answer did."""


class Reader(Protocol):
    """Takes the events of one stream."""

    def take(self, event: Any) -> Iterator[Part]:
        """Give the parts that an event makes."""

    def end(self) -> Iterator[Part]:
        """Give the parts that the end of the stream makes.

        Raises:
            ModelStreamError: the answer is not whole.
        """


async def read_parts(stream: ModelStream, reader: Reader) -> AsyncGenerator[Part, None]:
    """Read a provider's stream as parts, and close it however the reading ends.

    Args:
        stream: Not yet read from; where it is a coroutine or a context manager, its failure to
            start is told like a failure under way.
        reader: A fresh one.

    Yields:
        Parts; an `error` part before an exception.

    Raises:
        ModelStreamError: the stream reported that it failed, or was cut off.
        Exception: whatever the stream raises.
    """
    try:
        async with _opened(stream) as events:
            async for event in events:
                for part in reader.take(event):
                    yield part
        for part in reader.end():
            yield part
    except Exception as error:
        yield ErrorPart(str(error) or type(error).__name__)
        raise


@asynccontextmanager
async def _opened(stream: Any) -> AsyncIterator[AsyncIterable[Any]]:
    opened: Any = await stream if inspect.isawaitable(stream) else stream
    if hasattr(opened, "__aenter__"):
        async with opened as events:
            yield events
        return
    try:
        yield opened
    finally:
        if hasattr(opened, "aclose"):
            await opened.aclose()


@dataclass
class _Input:
    id: str
    name: str
    given: Any
    pieces: list[str] = field(default_factory=list)


class ToolInputs:
    """The inputs of tool calls, which come as pieces of JSON.

    Each call has a key, by which the provider names it in the stream.
    """

    def __init__(self) -> None:
        self._open: dict[Any, _Input] = {}
        self.count = 0
        """How many calls there were so far."""

    def start(self, key: Any, id: str, name: str, given: Any = None) -> Iterator[Part]:
        """Begin a call's input; `given` is what it is if no piece comes."""
        self._open[key] = _Input(id, name, {} if given is None else given)
        self.count += 1
        yield ToolInputStart(id, name)

    def add(self, key: Any, piece: str | None) -> Iterator[Part]:
        """Add a piece to a call's input."""
        call = self._open.get(key)
        if call is not None and piece:
            call.pieces.append(piece)
            yield ToolInputDelta(call.id, piece)

    def finish(self, key: Any) -> Iterator[Part]:
        """Give the call if its input is whole; else it stays open until `finish_all`."""
        call = self._open.get(key)
        if call is None:
            return
        text = "".join(call.pieces)
        whole, input = parse_json(text) if text else (True, call.given)
        if whole:
            del self._open[key]
            yield ToolCall(call.id, call.name, input)

    def finish_all(self, reason: str) -> Iterator[Part]:
        """Give the calls that are still open; those with broken JSON only if nothing cut it off."""
        for key in list(self._open):
            yield from self.finish(key)
        if reason not in CUT_OFF:
            for call in self._open.values():
                yield ToolCall(call.id, call.name, "".join(call.pieces))
        self._open.clear()


def parse_json(text: str) -> tuple[bool, Any]:
    """Return whether a text is JSON, and its value."""
    try:
        return True, pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError:
        return False, None


def as_json(value: Any) -> Any:
    """Return a value as JSON has it; what JSON cannot hold, as text."""
    return pydantic_core.to_jsonable_python(value, bytes_mode="base64", fallback=str)


def counts(**tokens: int | None) -> dict[str, Any] | None:
    """Return those token counts that are known; None when none is."""
    return {name: count for name, count in tokens.items() if count is not None} or None
