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
    finish_reason,
    get,
    items_of,
    read_parts,
    text_of,
    text_parts,
    to_json,
    token_counts,
    unsupported_stream,
)
from gateway.integrations._tool_inputs import ToolInputs
from gateway.sdk.parts import Finish, Part, ReasoningDelta, Source, ToolResult

_EXPECTED = "AsyncAnthropic().messages.create(stream=True) or AsyncAnthropic().messages.stream()"
_COUNT_FIELDS = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
)


def from_anthropic(stream: ModelStream) -> AsyncGenerator[Part, None]:
    """Read a message stream of Anthropic's client as parts.

    Supports `client.messages.create(stream=True)` and `client.messages.stream()`, and both of
    `client.beta`. Tools that Anthropic executes (search, code) are included with their results;
    encrypted content is omitted.

    Args:
        stream: The stream, the coroutine of `create`, or the return value of `stream`.

    Yields:
        Parts; the last one is `finish`, or `error` before an exception.

    Raises:
        ModelStreamError: the answer is incomplete.
        anthropic.APIError: raised by the client, or for an error event of the stream.
    """
    return read_parts(stream, _Reader(), _EXPECTED)


class _Reader:
    def __init__(self) -> None:
        self._inputs = ToolInputs()
        self._usage: dict[str, Any] = {}
        self._reason = ""
        self._stopped = False
        self._is_recognized = False
        self._first: Any = None

    def read(self, event: Any) -> Iterator[Part]:
        type_ = text_of(get(event, "type"))
        self._first = event if self._first is None else self._first
        self._is_recognized |= type_.startswith(("message_", "content_block_"))
        match type_:
            case "message_start":
                self._update_usage(get(get(event, "message"), "usage"))
            case "content_block_start":
                yield from self._start(get(event, "index"), get(event, "content_block"))
            case "content_block_delta":
                yield from self._delta(get(event, "index"), get(event, "delta"))
            case "content_block_stop":
                yield from self._inputs.finish(get(event, "index"))
            case "message_delta":
                self._update_usage(get(event, "usage"))
                reason = finish_reason(get(get(event, "delta"), "stop_reason"))
                self._reason = reason or self._reason
            case "message_stop":
                self._stopped = True
            case "error":
                error = get(event, "error", event)
                raise ModelStreamError(text_of(get(error, "message", "the answer failed")))

    def end(self) -> Iterator[Part]:
        if self._first is not None and not self._is_recognized:
            raise unsupported_stream(self._first, _EXPECTED)
        # Some proxies omit the final event, which has no content.
        if not self._stopped and not self._reason:
            raise ModelStreamError("the stream ended before the answer was complete")
        reason = self._reason or "stop"
        yield from self._inputs.finish_all(reason)
        yield Finish(reason, _usage_of(self._usage))

    def _start(self, index: Any, block: Any) -> Iterator[Part]:
        type_ = text_of(get(block, "type"))
        if type_ in ("text", "thinking"):
            yield from text_parts(block)
        elif type_.endswith("tool_use"):
            input = to_json(get(block, "input"))
            yield from self._inputs.start(index, get(block, "id"), get(block, "name"), input)
        elif type_.endswith("tool_result"):
            content = get(block, "content")
            failed = get(block, "is_error") is True or _is_error(content)
            id = text_of(get(block, "tool_use_id"))
            yield ToolResult(id, _without_encrypted(to_json(content)), is_error=failed)

    def _delta(self, index: Any, delta: Any) -> Iterator[Part]:
        yield from text_parts(get(delta, "text"))
        yield from text_parts(get(delta, "thinking"), ReasoningDelta)
        yield from self._inputs.add(index, get(delta, "partial_json"))
        for citation in items_of(get(delta, "citation")):
            yield from _source(to_json(citation))

    # Deltas repeat and complete the counts of `message_start`.
    def _update_usage(self, usage: Any) -> None:
        known = to_json(usage)
        if isinstance(known, dict):
            self._usage |= {name: count for name, count in known.items() if count is not None}


def _is_error(content: Any) -> bool:
    return text_of(get(content, "type")).endswith("_error")


def _without_encrypted(content: Any) -> Any:
    """Return content without the fields that only Anthropic can read."""
    if isinstance(content, list):
        return [_without_encrypted(item) for item in content]
    if isinstance(content, dict):
        return {name: value for name, value in content.items() if not name.startswith("encrypted")}
    return content


def _source(citation: Any) -> Iterator[Part]:
    # A search result has a `source`; a document has only its index in the request.
    url = text_of(get(citation, "url")) or text_of(get(citation, "source"))
    title = text_of(get(citation, "title")) or text_of(get(citation, "document_title"))
    index = get(citation, "document_index")
    if url or index is not None:
        yield Source(None if url else f"document_{index}", url or None, title or None)


def _usage_of(usage: dict[str, Any]) -> dict[str, Any] | None:
    # Anthropic counts cached tokens separately and has no total.
    known = token_counts(**{name: usage.get(name) for name in _COUNT_FIELDS})
    if known is None:
        return None
    cached = known.get("cache_read_input_tokens", 0)
    input_tokens = (
        known.get("input_tokens", 0) + cached + known.get("cache_creation_input_tokens", 0)
    )
    output_tokens = known.get("output_tokens", 0)
    return token_counts(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=input_tokens + output_tokens,
        cached_input_tokens=known.get("cache_read_input_tokens"),
        reasoning_tokens=get(usage.get("output_tokens_details"), "thinking_tokens"),
    )
