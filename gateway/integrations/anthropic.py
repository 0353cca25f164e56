"""Message streams of Anthropic's client as parts.

client = AsyncAnthropic()
await answer.pipe(from_anthropic(client.messages.create(..., stream=True)))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from gateway.integrations.model_streams import (
    ModelStream,
    ModelStreamError,
    ToolInputs,
    as_json,
    counts,
    read_parts,
)
from gateway.sdk.parts import Finish, Part, ReasoningDelta, Source, TextDelta, ToolResult

_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool-calls",
    "refusal": "content-filter",
}


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
    return read_parts(stream, _Reader())


class _Reader:
    def __init__(self) -> None:
        self._inputs = ToolInputs()
        self._usage: dict[str, Any] = {}
        self._reason: str | None = None
        self._stopped = False

    def take(self, event: Any) -> Iterator[Part]:
        match event.type:
            case "message_start":
                self._use(event.message.usage)
            case "content_block_start":
                yield from self._start(event.index, event.content_block)
            case "content_block_delta":
                yield from self._delta(event.index, event.delta)
            case "content_block_stop":
                yield from self._inputs.finish(event.index)
            case "message_delta":
                self._use(event.usage)
                if event.delta.stop_reason:
                    reason = event.delta.stop_reason
                    self._reason = _REASONS.get(reason, reason)
            case "message_stop":
                self._stopped = True
                yield from self._inputs.finish_all(self._reason or "stop")

    def end(self) -> Iterator[Part]:
        if not self._stopped:
            raise ModelStreamError("the stream ended before the answer was whole")
        yield Finish(self._reason or "stop", _counted(self._usage))

    def _start(self, index: int, block: Any) -> Iterator[Part]:
        if block.type == "text" and block.text:
            yield TextDelta(block.text)
        elif block.type == "thinking" and block.thinking:
            yield ReasoningDelta(block.thinking)
        elif block.type.endswith("tool_use"):
            yield from self._inputs.start(index, block.id, block.name, as_json(block.input))
        elif block.type.endswith("tool_result"):
            failed = getattr(block, "is_error", False) or _is_error(block.content)
            yield ToolResult(block.tool_use_id, _readable(as_json(block.content)), is_error=failed)

    def _delta(self, index: int, delta: Any) -> Iterator[Part]:
        match delta.type:
            case "text_delta":
                yield TextDelta(delta.text)
            case "thinking_delta":
                yield ReasoningDelta(delta.thinking)
            case "input_json_delta":
                yield from self._inputs.add(index, delta.partial_json)
            case "citations_delta":
                yield from _source(as_json(delta.citation))

    # The counts of a message's start are repeated and completed by those of its deltas.
    def _use(self, usage: Any) -> None:
        known = as_json(usage) if usage is not None else {}
        self._usage |= {name: count for name, count in known.items() if count is not None}


def _is_error(content: Any) -> bool:
    return str(getattr(content, "type", "")).endswith("_error")


def _readable(content: Any) -> Any:
    """Leave out what only Anthropic can read."""
    if isinstance(content, list):
        return [_readable(item) for item in content]
    if isinstance(content, dict):
        return {name: value for name, value in content.items() if not name.startswith("encrypted")}
    return content


def _source(citation: dict[str, Any]) -> Iterator[Part]:
    # A search result names its `source`; a document has only its place among those of the request.
    url = citation.get("url") or citation.get("source")
    title = citation.get("title") or citation.get("document_title")
    place = citation.get("document_index")
    if url or place is not None:
        yield Source(None if url else f"document_{place}", url, title)


def _counted(usage: dict[str, Any]) -> dict[str, Any] | None:
    # Anthropic counts cached tokens apart from the others, and gives no sum.
    if not usage:
        return None
    cached = usage.get("cache_read_input_tokens", 0)
    came_in = usage.get("input_tokens", 0) + cached + usage.get("cache_creation_input_tokens", 0)
    went_out = usage.get("output_tokens", 0)
    details = usage.get("output_tokens_details") or {}
    return counts(
        input_tokens=came_in,
        output_tokens=went_out,
        total_tokens=came_in + went_out,
        cached_input_tokens=usage.get("cache_read_input_tokens"),
        reasoning_tokens=details.get("thinking_tokens"),
    )
