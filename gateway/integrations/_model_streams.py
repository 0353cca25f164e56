"""Common code of the adapters of model clients.

An adapter is a reader: it reads a provider's events one by one and yields parts. Readers never
import the provider's package. They access events by `get`, `items_of` and `text_parts`, which
accept the variations of real servers: a missing field, null, a list instead of a text, an object
instead of a list.

An event that a reader cannot read is logged and skipped; it never ends the answer. A stream without
any recognized event ends with an error that names a supported stream.

A stream that raises, reports a failure, or ends before its answer is complete yields an `error`
part with the provider's message. The exception then propagates, so the page shows the reason and
the task fails unless it catches the exception. Every reader of the stream can read the message.
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
"""What model clients return: a stream, a coroutine of one, or a context manager of one."""

# The words of all providers; no word means different reasons at different providers.
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
    """A provider's stream failed, ended before its answer was complete, or is unsupported."""


class Reader(Protocol):
    """Reads the events of one stream."""

    def read(self, event: Any) -> Iterator[Part]:
        """Yield the parts of an event."""

    def end(self) -> Iterator[Part]:
        """Yield the parts that the end of the stream completes.

        Raises:
            ModelStreamError: the answer is incomplete, or no event was recognized.
        """


async def read_parts(
    stream: ModelStream, reader: Reader, expected: str = "a model's stream"
) -> AsyncGenerator[Part, None]:
    """Read a provider's stream as parts, and close it in any case.

    Args:
        stream: An unread stream. If a coroutine or context manager fails to start it, the failure
            is reported like a failure of the stream.
        reader: A new reader.
        expected: What the adapter supports, for the error of an unsupported stream.

    Yields:
        Parts; an `error` part before an exception.

    Raises:
        ModelStreamError: the stream reported a failure, ended early, or is unsupported.
        Exception: any exception of the stream.
    """
    texts = _TextRepair()
    try:
        async with _opened(stream, expected) as events:
            async for event in events:
                for part in _read_event(reader, event):
                    for repaired in texts.repair(part):
                        yield repaired
        for part in reader.end():
            for repaired in texts.repair(part):
                yield repaired
        for part in texts.end():
            yield part
    except Exception as error:
        for part in texts.end():
            yield part
        yield ErrorPart(str(error) or type(error).__name__)
        raise


def unsupported_stream(event: Any, expected: str) -> ModelStreamError:
    """Return the error for a stream of unrecognized events."""
    shown = type(event).__name__
    if isinstance(event, Mapping):
        keys = ", ".join(repr(str(key)[:40]) for key in list(event)[:3])
        shown = f"{shown} with the keys {keys or '(none)'}"
    return ModelStreamError(
        f"the stream yields {shown}, which is not an answer of a model: pass {expected}"
    )


def _read_event(reader: Reader, event: Any) -> Iterator[Part]:
    try:
        yield from reader.read(event)
    except ModelStreamError:
        raise
    except Exception:
        # Readers accept every known form of event; an unknown form must not end the answer.
        _log.warning("skipping a %s that could not be read", type(event).__name__, exc_info=True)


@asynccontextmanager
async def _opened(stream: Any, expected: str) -> AsyncIterator[AsyncIterable[Any]]:
    opened: Any = await stream if inspect.isawaitable(stream) else stream
    if hasattr(opened, "__aenter__"):
        async with opened as events:
            yield events
        return
    if not hasattr(opened, "__aiter__"):
        raise ModelStreamError(f"{type(opened).__name__} is not an async iterable: pass {expected}")
    try:
        yield opened
    finally:
        if hasattr(opened, "aclose"):
            await opened.aclose()


class _TextRepair:
    """Joins characters that are split over two pieces, and splits pieces that exceed a record.

    Servers that split text by UTF-16 units send half an emoji as a lone surrogate, which is not
    valid text. The half waits for the next piece of the same kind; without one, U+FFFD replaces it.
    """

    def __init__(self) -> None:
        self._halves: dict[tuple[type[Any], str], str] = {}

    def repair(self, part: Part) -> Iterator[Part]:
        """Yield a part with complete characters, after any halves that it leaves incomplete."""
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
        """Yield U+FFFD for each half that remains."""
        for (kind, id), _ in self._halves.items():
            yield kind(id, "\ufffd") if kind is ToolInputDelta else kind("\ufffd")
        self._halves.clear()

    def _joined(self, key: tuple[type[Any], str], text: str) -> Iterator[str]:
        text = self._halves.pop(key, "") + text
        if text and "\ud800" <= text[-1] <= "\udbff":
            self._halves[key], text = text[-1], text[:-1]
        if text:
            yield from pieces(mended(text), record_bytes())


# Functions with which readers access events.


def get(thing: Any, name: str, default: Any = None) -> Any:
    """Return a field of an object or a mapping; the default if it is missing or null."""
    value = thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)
    return default if value is None else value


def items_of(value: Any) -> list[Any]:
    """Return the non-null items of a list; any other value is its own only item."""
    if isinstance(value, list | tuple):
        return [item for item in value if item is not None]
    return [] if value is None else [value]


def text_of(value: Any) -> str:
    """Return an id, name or type as text; "" for None."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def key(value: Any) -> int | str | None:
    """Return an index or an item's id; None for any other value."""
    return value if isinstance(value, int | str) else None


_NESTED = ("text", "content", "value", "refusal")
_WITH_TEXT = ("", "text", "output_text", "refusal", "thinking", "reasoning", "non_standard")


def text_parts(
    content: Any, kind: type[TextDelta] | type[ReasoningDelta] = TextDelta
) -> Iterator[Part]:
    """Yield the text and reasoning of a content: a text, a block, or a list of both."""
    for block in items_of(content):
        if isinstance(block, str):
            if block:
                yield kind(block)
        elif isinstance(block, int | float):
            if not isinstance(block, bool):
                yield kind(str(block))
        elif text_of(get(block, "type")) in _WITH_TEXT:
            yield from text_parts(get(block, "thinking", get(block, "reasoning")), ReasoningDelta)
            for name in _NESTED:
                yield from text_parts(get(block, name), kind)


def finish_reason(value: Any) -> str:
    """Return an end reason in the words of `Finish`; an unknown reason is unchanged."""
    reason = text_of(value).strip()
    return _REASONS.get(reason.lower(), "stop" if reason.lower() == "stop" else reason)


def parse_json(text: str) -> tuple[bool, Any]:
    """Return whether a text is JSON, and its value."""
    try:
        return True, exact(pydantic_core.from_json(mended(text), allow_inf_nan=False))
    except ValueError:
        pass
    try:  # unlike the first parser, this one accepts a lone surrogate
        return True, to_json(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return False, None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def to_json(value: Any) -> Any:
    """Return a value as JSON-compatible data; parts that JSON cannot represent become text."""
    try:
        plain = pydantic_core.to_jsonable_python(value, bytes_mode="base64", fallback=_text_of)
        return exact(plain)
    except Exception:  # too deep, circular, or with a property that raises
        return _text_of(value)


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def token_counts(**tokens: Any) -> dict[str, Any] | None:
    """Return the known token counts; None if no count is known."""
    known = {name: count for name, count in tokens.items() if _is_count(count)}
    return known or None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
