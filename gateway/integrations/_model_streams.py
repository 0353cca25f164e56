"""What the adapters of model providers share.

An adapter is a reader: it takes a provider's events one by one and gives parts. Readers never
import the provider's package. They read events with `get`, `each` and `said`, which accept what
real servers send: a missing field, null, a list in place of a text, an object in place of a list.

An event that a reader cannot read is logged and skipped; it never ends the answer. A stream of
which no event was understood ends with an error that names the right stream.

How a failure shows: a stream that raises, that reports a failure, or that ends before the answer
does becomes an `error` part with the provider's own message, and then the exception goes on. So a
page sees why, and the task fails unless it catches the exception. Who reads the stream reads the
message too.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Iterator,
    Mapping,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

import pydantic_core

from gateway.sdk.part_limits import mended, pieces
from gateway.sdk.parts import (
    ErrorPart,
    Finish,
    Part,
    ReasoningDelta,
    TextDelta,
    ToolInputDelta,
)
from gateway.sdk.runtime import record_bytes
from gateway.sdk.values.equality import exact

ModelStream: TypeAlias = (
    AsyncIterable[Any]
    | Awaitable[AsyncIterable[Any]]
    | AbstractAsyncContextManager[AsyncIterable[Any]]
)
"""What the packages give: a stream, a coroutine of one, or a context manager around one."""

# Every provider has its own word; these are told apart without knowing the provider.
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool-calls",
    "tool_call": "tool-calls",
    "tool_use": "tool-calls",
    "function_call": "tool-calls",
    "content_filter": "content-filter",
    "refusal": "content-filter",
    "safety": "content-filter",
}

_log = logging.getLogger("realtime.model_streams")


class ModelStreamError(Exception):
    """A provider's stream failed, ended before the answer did, or is of another kind."""


class Reader(Protocol):
    """Takes the events of one stream."""

    def take(self, event: Any) -> Iterator[Part]:
        """Give the parts that an event makes."""

    def end(self) -> Iterator[Part]:
        """Give the parts that the end of the stream makes.

        Raises:
            ModelStreamError: the answer is not whole, or no event was understood.
        """


async def read_parts(
    stream: ModelStream, reader: Reader, wanted: str = "a model's stream"
) -> AsyncGenerator[Part, None]:
    """Read a provider's stream as parts, and close it however the reading ends.

    Args:
        stream: Not yet read from; where it is a coroutine or a context manager, its failure to
            start is told like a failure under way.
        reader: A fresh one.
        wanted: What the adapter reads, for the error of what is no stream.

    Yields:
        Parts; an `error` part before an exception.

    Raises:
        ModelStreamError: the stream reported that it failed, was cut off, or is of another kind.
        Exception: whatever the stream raises.
    """
    texts = _Texts()
    try:
        async with _opened(stream, wanted) as events:
            async for event in events:
                for part in _taken(reader, event):
                    for whole in texts.whole(part):
                        yield whole
        for part in reader.end():
            for whole in texts.whole(part):
                yield whole
        for part in texts.end():
            yield part
    except Exception as error:
        for part in texts.end():
            yield part
        yield ErrorPart(str(error) or type(error).__name__)
        raise


def not_understood(event: Any, wanted: str) -> ModelStreamError:
    """Make the error of a stream whose events are of another kind."""
    shown = type(event).__name__
    if isinstance(event, Mapping):
        keys = ", ".join(repr(str(key)[:40]) for key in list(event)[:3])
        shown = f"{shown} with the keys {keys or '(none)'}"
    return ModelStreamError(f"the stream gives {shown}, which is no model's answer: pass {wanted}")


def _taken(reader: Reader, event: Any) -> Iterator[Part]:
    try:
        yield from reader.take(event)
    except ModelStreamError:
        raise
    except Exception:
        # Readers accept every shape that is known; a new one must not end the answer either.
        _log.warning("a %s could not be read and is skipped", type(event).__name__, exc_info=True)


@asynccontextmanager
async def _opened(stream: Any, wanted: str) -> AsyncIterator[AsyncIterable[Any]]:
    opened: Any = await stream if inspect.isawaitable(stream) else stream
    if hasattr(opened, "__aenter__"):
        async with opened as events:
            yield events
        return
    if not hasattr(opened, "__aiter__"):
        raise ModelStreamError(
            f"a {type(opened).__name__} is no stream that `async for` can read: pass {wanted}"
        )
    try:
        yield opened
    finally:
        if hasattr(opened, "aclose"):
            await opened.aclose()


class _Texts:
    """Joins characters that were cut in two, and splits pieces that no record can carry.

    Servers that cut by UTF-16 units send half an emoji as a lone surrogate, which is no text. The
    half waits for the next piece of its kind; if none comes, U+FFFD takes its place.
    """

    def __init__(self) -> None:
        self._halves: dict[tuple[type[Any], str], str] = {}

    def whole(self, part: Part) -> Iterator[Part]:
        """Give a part with whole characters, and before it what it shows not to be continued."""
        match part:
            case TextDelta(text) | ReasoningDelta(text):
                for piece in self._joined((type(part), ""), text):
                    yield replace(part, text=piece)
            case ToolInputDelta(id, delta):
                for piece in self._joined((type(part), id), delta):
                    yield replace(part, delta=piece)
            case Finish() | ErrorPart():
                yield from self.end()
                yield part
            case _:
                yield part

    def end(self) -> Iterator[Part]:
        """Give what will not be continued any more."""
        for (kind, id), _ in self._halves.items():
            yield kind(id, "\ufffd") if kind is ToolInputDelta else kind("\ufffd")
        self._halves.clear()

    def _joined(self, key: tuple[type[Any], str], text: str) -> Iterator[str]:
        text = self._halves.pop(key, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._halves[key], text = text[-1], text[:-1]
        if text:
            yield from pieces(mended(text), record_bytes())


# What readers read events with.


def get(thing: Any, name: str, default: Any = None) -> Any:
    """Return a field of an object or a dict; the default where it is missing or null."""
    value = thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
    return default if value is None else value


def each(value: Any) -> list[Any]:
    """Return a list's items without nulls; of what is no list, itself as the only one."""
    if isinstance(value, list | tuple):
        return [item for item in value if item is not None]
    return [] if value is None else [value]


def word(value: Any) -> str:
    """Return an id, a name or a type as text; "" where there is none."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def key(value: Any) -> int | str | None:
    """Return an index or an item's id; None for what is neither."""
    return value if isinstance(value, int | str) else None


_NESTED = ("text", "content", "value", "refusal")
_WITH_TEXT = ("", "text", "output_text", "refusal", "thinking", "reasoning", "non_standard")


def said(content: Any, kind: type[TextDelta] | type[ReasoningDelta] = TextDelta) -> Iterator[Part]:
    """Give a content's text and reasoning: a text, a block, or a list of both."""
    for block in each(content):
        if isinstance(block, str):
            if block:
                yield kind(block)
        elif isinstance(block, int | float):
            if not isinstance(block, bool):
                yield kind(str(block))
        elif word(get(block, "type")) in _WITH_TEXT:
            yield from said(get(block, "thinking", get(block, "reasoning")), ReasoningDelta)
            for name in _NESTED:
                yield from said(get(block, name), kind)


def reason_of(value: Any) -> str:
    """Return why an answer ended in the words of `Finish`; a word that is not known as it is."""
    reason = word(value).strip()
    return _REASONS.get(reason.lower(), "stop" if reason.lower() == "stop" else reason)


def parse_json(text: str) -> tuple[bool, Any]:
    """Return whether a text is JSON, and its value."""
    try:
        return True, exact(pydantic_core.from_json(mended(text), allow_inf_nan=False))
    except ValueError:
        pass
    try:  # the other parser refuses half an emoji, which is no reason to give up the rest
        return True, as_json(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return False, None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def as_json(value: Any) -> Any:
    """Return a value as JSON has it; what JSON cannot hold, as text."""
    try:
        plain = pydantic_core.to_jsonable_python(value, bytes_mode="base64", fallback=_text_of)
        return exact(plain)
    except Exception:  # too deep, circular, or a part of it that fails when it is read
        return _text_of(value)


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def counts(**tokens: Any) -> dict[str, Any] | None:
    """Return those token counts that are known; None when none is."""
    known = {name: count for name, count in tokens.items() if _is_count(count)}
    return known or None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
