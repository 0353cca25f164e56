"""Streams of OpenAI's client, and of every server that speaks its chat completions, as parts.

client = AsyncOpenAI()
await answer.pipe(from_openai(client.responses.create(model=..., input=..., stream=True)))
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
    parse_json,
    read_parts,
)
from gateway.sdk.parts import (
    Finish,
    Part,
    ReasoningDelta,
    Source,
    TextDelta,
    ToolApproval,
    ToolCall,
    ToolResult,
)

_REASONS = {
    "tool_calls": "tool-calls",
    "content_filter": "content-filter",
    "max_output_tokens": "length",
}


def from_openai(stream: ModelStream) -> AsyncGenerator[Part, None]:
    """Read a stream of OpenAI's client as parts.

    Takes both of its APIs: `client.responses.create(stream=True)` and
    `client.chat.completions.create(stream=True)` (for the usage there, ask with
    `stream_options={"include_usage": True}`), and what their `.stream()` gives. Of several choices
    the first is read.

    Args:
        stream: The stream, or the coroutine that `create` returns.

    Yields:
        Parts; the last one is `finish`, or `error` before an exception.

    Raises:
        ModelStreamError: the API reported a failure, or the answer was cut off.
        openai.APIError: as the client raises it.
    """
    return read_parts(stream, _Reader())


class _Reader:
    """Tells the two APIs apart by their events."""

    def __init__(self) -> None:
        self._reader: _Chat | _Responses | None = None

    def take(self, event: Any) -> Iterator[Part]:
        event = event.chunk if getattr(event, "type", None) == "chunk" else event
        if self._reader is None and hasattr(event, "choices"):
            self._reader = _Chat()
        elif self._reader is None and event.type.startswith(("response.", "error")):
            self._reader = _Responses()
        if self._reader is not None:
            yield from self._reader.take(event)

    def end(self) -> Iterator[Part]:
        if self._reader is None or self._reader.finish is None:
            raise ModelStreamError("the stream ended before the answer was whole")
        yield self._reader.finish


class _Chat:
    """Chat completions: choices whose deltas are to be put together by index."""

    def __init__(self) -> None:
        self._inputs = ToolInputs()
        self._keys: dict[int, tuple[int, str | None]] = {}  # of the calls now written, by index
        self._reason: str | None = None
        self._usage: dict[str, Any] | None = None

    @property
    def finish(self) -> Finish | None:
        return None if self._reason is None else Finish(self._reason, self._usage)

    def take(self, chunk: Any) -> Iterator[Part]:
        # Also the helper's own events come here; they repeat what the chunks say.
        self._usage = _chat_usage(getattr(chunk, "usage", None)) or self._usage
        for choice in getattr(chunk, "choices", ()):
            if choice.index == 0:
                if choice.delta is not None:
                    yield from self._delta(choice.delta, chunk.id)
                if choice.finish_reason:
                    yield from self._finished(choice.finish_reason)

    def _delta(self, delta: Any, answer_id: str) -> Iterator[Part]:
        # Not OpenAI's own: reasoning as vLLM, DeepSeek and OpenRouter send it.
        reasoning = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
        if isinstance(reasoning, str) and reasoning:
            yield ReasoningDelta(reasoning)
        for text in (delta.content, delta.refusal):
            if text:
                yield TextDelta(text)
        for call in delta.tool_calls or ():
            yield from self._call(call, answer_id)
        for annotation in getattr(delta, "annotations", None) or ():
            cited = as_json(annotation).get("url_citation")
            if cited:
                yield Source(url=cited.get("url"), title=cited.get("title"))

    def _call(self, call: Any, answer_id: str) -> Iterator[Part]:
        # The id and the name come once, the arguments in pieces. Some servers leave out the index,
        # or send 0 for every call: then a new id is a new call. Some leave out the id.
        index, function = call.index or 0, call.function
        key = self._keys.get(index)
        if key is None or (call.id and call.id != key[1]):
            number = self._inputs.count
            key = self._keys[index] = (number, call.id)
            name = (function.name if function else None) or ""
            yield from self._inputs.start(key, call.id or f"{answer_id}-{number}", name)
        if function:
            yield from self._inputs.add(key, function.arguments)

    def _finished(self, reason: str) -> Iterator[Part]:
        # With a forced tool choice the API says `stop`.
        called = reason == "stop" and self._inputs.count > 0
        self._reason = "tool-calls" if called else _REASONS.get(reason, reason)
        yield from self._inputs.finish_all(self._reason)


def _chat_usage(usage: Any) -> dict[str, Any] | None:
    if usage is None:
        return None
    return counts(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cached_input_tokens=getattr(usage.prompt_tokens_details, "cached_tokens", None),
        reasoning_tokens=getattr(usage.completion_tokens_details, "reasoning_tokens", None),
    )


_RESULT_FIELDS = ("output", "outputs", "results", "result", "error")
_OTHER_FIELDS = ("id", "call_id", "type", "status", "name", "approval_request_id")


class _Responses:
    """The Responses API: typed events about output items."""

    def __init__(self) -> None:
        self._inputs = ToolInputs()
        self._has_text = False
        self._awaited: set[str] = set()  # the calls that the caller has to answer
        self.finish: Finish | None = None

    def take(self, event: Any) -> Iterator[Part]:
        match event.type:
            case "response.output_text.delta" | "response.refusal.delta":
                self._has_text = True
                yield TextDelta(event.delta)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                yield ReasoningDelta(event.delta)
            case "response.reasoning_summary_part.added" if event.summary_index > 0:
                yield ReasoningDelta("\n\n")
            case "response.output_text.annotation.added":
                yield from _source(as_json(event.annotation))
            case "response.output_item.added":
                yield from self._item_added(event.item)
            case "response.output_item.done":
                yield from self._item_done(event.item)
            case (
                "response.function_call_arguments.delta"
                | "response.custom_tool_call_input.delta"
                | "response.mcp_call_arguments.delta"
                | "response.code_interpreter_call_code.delta"
            ):
                yield from self._inputs.add(event.item_id, event.delta)
            case "response.completed" | "response.incomplete":
                yield from self._over(event.response)
            case "response.failed":
                error = event.response.error
                raise ModelStreamError(error.message if error else "the response failed")
            case "error":
                raise ModelStreamError(event.message)

    def _item_added(self, item: Any) -> Iterator[Part]:
        if item.type == "message" and self._has_text:
            yield TextDelta("\n\n")  # a second message
        elif item.type.endswith("_call"):
            yield from self._inputs.start(item.id, _call_id(item), _name(item))

    def _item_done(self, item: Any) -> Iterator[Part]:
        if item.type in ("function_call", "custom_tool_call"):
            self._awaited.add(item.call_id)
            yield from self._called(item)
        elif item.type.endswith("_call"):
            yield from _hosted_call(item)
            if _is_for_caller(item):
                self._awaited.add(item.call_id)
        elif item.type.endswith("_call_output"):
            self._awaited.discard(item.call_id)
            yield ToolResult(item.call_id, as_json(item.output))
        elif item.type == "mcp_approval_request":
            self._awaited.add(item.id)
            yield ToolCall(item.id, item.name, _input(item.arguments))
            yield ToolApproval(item.id, "requested")

    def _called(self, item: Any) -> Iterator[Part]:
        is_custom = item.type == "custom_tool_call"
        whole, input = (True, item.input) if is_custom else parse_json(item.arguments or "{}")
        # A call that was cut off stays one whose input never became whole.
        if whole or item.status != "incomplete":
            yield ToolCall(item.call_id, item.name, input if whole else item.arguments)

    def _over(self, response: Any) -> Iterator[Part]:
        details = response.incomplete_details
        reason = "tool-calls" if self._awaited else "stop"
        if details is not None and details.reason:
            reason = _REASONS.get(details.reason, details.reason)
        self.finish = Finish(reason, _usage(response.usage))
        yield from ()


def _call_id(item: Any) -> str:
    # What was asked for approval as one item is called as another.
    ids = (getattr(item, name, None) for name in ("call_id", "approval_request_id", "id"))
    return next(str(id) for id in ids if id)


def _name(item: Any) -> str:
    return getattr(item, "name", None) or str(item.type).removesuffix("_call")


def _is_for_caller(item: Any) -> bool:
    # Without an id for its answer, the provider has executed it.
    return bool(getattr(item, "call_id", None))


def _input(arguments: str | None) -> Any:
    whole, input = parse_json(arguments or "{}")
    return input if whole else arguments


def _hosted_call(item: Any) -> Iterator[Part]:
    """Give the call of a tool that the provider knows, and its result if it executed it."""
    fields = {name: value for name, value in as_json(item).items() if value is not None}
    if item.type == "image_generation_call":
        fields.pop("result", None)  # the whole image, larger than a record may be
    results = {name: fields.pop(name) for name in _RESULT_FIELDS if name in fields}
    input = {name: value for name, value in fields.items() if name not in _OTHER_FIELDS}
    yield ToolCall(
        _call_id(item), _name(item), _input(input["arguments"]) if "arguments" in input else input
    )
    if not _is_for_caller(item):
        output = next(iter(results.values())) if len(results) == 1 else results or None
        failed = "error" in results or fields.get("status") == "failed"
        yield ToolResult(_call_id(item), output, is_error=failed)


def _source(annotation: dict[str, Any]) -> Iterator[Part]:
    url, file_id = annotation.get("url"), annotation.get("file_id")
    if url or file_id:
        yield Source(file_id, url, annotation.get("title") or annotation.get("filename"))


def _usage(usage: Any) -> dict[str, Any] | None:
    if usage is None:
        return None
    return counts(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.total_tokens,
        cached_input_tokens=getattr(usage.input_tokens_details, "cached_tokens", None),
        reasoning_tokens=getattr(usage.output_tokens_details, "reasoning_tokens", None),
    )
