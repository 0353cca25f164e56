"""Message streams of Anthropic's client as parts.

client = AsyncAnthropic()
await answer.pipe(from_anthropic(client.messages.create(..., stream=True)))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from gateway.integrations._model_streams import (
    ModelStream,
    ModelStreamError,
    as_json,
    counts,
    each,
    get,
    not_understood,
    read_parts,
    reason_of,
    said,
    word,
)
from gateway.integrations._tool_inputs import ToolInputs
from gateway.sdk.parts import Finish, Part, ReasoningDelta, Source, ToolResult

_WANTED = "AsyncAnthropic().messages.create(stream=True) or AsyncAnthropic().messages.stream()"
_COUNTED = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
)


def from_anthropic(stream: ModelStream) -> AsyncGenerator[Part, None]:
    """Read a message stream of Anthropic's client as parts.

    Takes `client.messages.create(stream=True)` and `client.messages.stream()`, also those of
    `client.beta`. Tools that Anthropic executes (search, code) come with their results; encrypted
    content is left out.

    Args:
        stream: The stream, the coroutine that `create` returns, or what `stream` returns.

    Yields:
        Parts; the last one is `finish`, or `error` before an exception.

    Raises:
        ModelStreamError: the answer was cut off.
        anthropic.APIError: as the client raises it, also for an error within the stream.
    """
    return read_parts(stream, _Reader(), _WANTED)


class _Reader:
    def __init__(self) -> None:
        self._inputs = ToolInputs()
        self._usage: dict[str, Any] = {}
        self._reason = ""
        self._stopped = False
        self._understands = False
        self._first: Any = None

    def take(self, event: Any) -> Iterator[Part]:
        type_ = word(get(event, "type"))
        self._first = event if self._first is None else self._first
        self._understands |= type_.startswith(("message_", "content_block_"))
        match type_:
            case "message_start":
                self._use(get(get(event, "message"), "usage"))
            case "content_block_start":
                yield from self._start(get(event, "index"), get(event, "content_block"))
            case "content_block_delta":
                yield from self._delta(get(event, "index"), get(event, "delta"))
            case "content_block_stop":
                yield from self._inputs.finish(get(event, "index"))
            case "message_delta":
                self._use(get(event, "usage"))
                reason = reason_of(get(get(event, "delta"), "stop_reason"))
                self._reason = reason or self._reason
            case "message_stop":
                self._stopped = True
            case "error":
                error = get(event, "error", event)
                raise ModelStreamError(word(get(error, "message", "the answer failed")))

    def end(self) -> Iterator[Part]:
        if self._first is not None and not self._understands:
            raise not_understood(self._first, _WANTED)
        # A proxy may leave out the event that only says that it is over.
        if not self._stopped and not self._reason:
            raise ModelStreamError("the stream ended before the answer was whole")
        reason = self._reason or "stop"
        yield from self._inputs.finish_all(reason)
        yield Finish(reason, _counted(self._usage))

    def _start(self, index: Any, block: Any) -> Iterator[Part]:
        type_ = word(get(block, "type"))
        if type_ in ("text", "thinking"):
            yield from said(block)
        elif type_.endswith("tool_use"):
            input = as_json(get(block, "input"))
            yield from self._inputs.start(index, get(block, "id"), get(block, "name"), input)
        elif type_.endswith("tool_result"):
            content = get(block, "content")
            failed = get(block, "is_error") is True or _is_error(content)
            id = word(get(block, "tool_use_id"))
            yield ToolResult(id, _readable(as_json(content)), is_error=failed)

    def _delta(self, index: Any, delta: Any) -> Iterator[Part]:
        yield from said(get(delta, "text"))
        yield from said(get(delta, "thinking"), ReasoningDelta)
        yield from self._inputs.add(index, get(delta, "partial_json"))
        for citation in each(get(delta, "citation")):
            yield from _source(as_json(citation))

    # The counts of a message's start are repeated and completed by those of its deltas.
    def _use(self, usage: Any) -> None:
        known = as_json(usage)
        if isinstance(known, dict):
            self._usage |= {name: count for name, count in known.items() if count is not None}


def _is_error(content: Any) -> bool:
    return word(get(content, "type")).endswith("_error")


def _readable(content: Any) -> Any:
    """Leave out what only Anthropic can read."""
    if isinstance(content, list):
        return [_readable(item) for item in content]
    if isinstance(content, dict):
        return {name: value for name, value in content.items() if not name.startswith("encrypted")}
    return content


def _source(citation: Any) -> Iterator[Part]:
    # A search result names its `source`; a document has only its place among those of the request.
    url = word(get(citation, "url")) or word(get(citation, "source"))
    title = word(get(citation, "title")) or word(get(citation, "document_title"))
    place = get(citation, "document_index")
    if url or place is not None:
        yield Source(None if url else f"document_{place}", url or None, title or None)


def _counted(usage: dict[str, Any]) -> dict[str, Any] | None:
    # Anthropic counts cached tokens apart from the others, and gives no sum.
    known = counts(**{name: usage.get(name) for name in _COUNTED})
    if known is None:
        return None
    cached = known.get("cache_read_input_tokens", 0)
    came_in = known.get("input_tokens", 0) + cached + known.get("cache_creation_input_tokens", 0)
    went_out = known.get("output_tokens", 0)
    return counts(
        input_tokens=came_in,
        output_tokens=went_out,
        total_tokens=came_in + went_out,
        cached_input_tokens=known.get("cache_read_input_tokens"),
        reasoning_tokens=get(usage.get("output_tokens_details"), "thinking_tokens"),
    )
