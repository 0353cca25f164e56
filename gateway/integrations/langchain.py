"""Streams of LangChain's models, agents and chains as parts.

await answer.pipe(from_langchain(model.astream(question)))
await answer.pipe(from_langchain(agent.astream_events(question, version="v2")))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.integrations._model_streams import (
    ModelStream,
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
from gateway.sdk.assembler import add_usage
from gateway.sdk.parts import (
    Finish,
    Part,
    ReasoningDelta,
    Source,
    Step,
    ToolCall,
    ToolResult,
)

_EXPECTED = (
    'model.astream(...), graph.astream(..., stream_mode="messages") '
    'or astream_events(..., version="v2")'
)
_REASON_FIELDS = ("finish_reason", "stop_reason", "done_reason")


def from_langchain(stream: ModelStream) -> AsyncGenerator[Part, None]:
    """Read a stream of LangChain as parts.

    Supports `astream` of a chat model, including a graph's pairs of message and metadata, and
    `astream_events(version="v2")`. With events, each answer of a model is a step, tools are
    included with their results, and other events, such as `retriever`, are skipped. Each answer of
    a model yields a `finish` with its usage: the last reason counts, and an assembler sums the
    usage. A chain that ends with a parser yields its texts. A graph's other modes contain no pieces
    of text; they end with an error that names the supported mode.

    Args:
        stream: Messages or events.

    Yields:
        Parts; `error` before an exception.

    Raises:
        ModelStreamError: the stream has a graph's mode `updates` or `values`, or contains no
            answer.
        Exception: any exception of the stream.
    """
    return read_parts(stream, _Reader(), _EXPECTED)


@dataclass
class _Answer:
    """The state of one answer of a model."""

    inputs: ToolInputs = field(default_factory=ToolInputs)
    reason: str = ""
    usage: dict[str, Any] | None = None
    has_begun: bool = False
    has_calls: bool = False
    is_over: bool = False
    step: int | None = None


@dataclass
class _Tool:
    name: str
    input: Any
    call_id: str


class _Reader:
    def __init__(self) -> None:
        self._answers: dict[str, _Answer] = {}  # by message id, or by the run id of an event
        self._called: set[str] = set()
        self._tools: dict[str, _Tool] = {}
        self._steps = 0
        self._by_tools: set[str] = set()  # calls reported at the start of their tool
        self._unnamed = 0  # number of calls without an id
        self._is_recognized = False
        self._unrecognized: Any = None

    def read(self, event: Any) -> Iterator[Part]:
        if isinstance(event, tuple):
            # A pair of message and metadata, a mode with such a pair, or a namespace with these.
            # With several modes, the modes that repeat the messages are skipped.
            self._unrecognized = event if self._unrecognized is None else self._unrecognized
            for item in event:
                if isinstance(item, tuple) or _is_message(item):
                    yield from self.read(item)
        elif _is_message(event):
            self._is_recognized = True
            yield from self._message(event)
        elif isinstance(event, dict) and "event" in event:
            self._is_recognized = True
            yield from self._event(event)
        elif isinstance(event, str):  # from a chain that ends with a parser
            self._is_recognized = True
            answer = self._answers.setdefault("", _Answer())
            answer.has_begun = True
            yield from text_parts(event)
        elif isinstance(event, dict) and "run_id" in event:
            self._unrecognized = event  # an event without `event`
        elif event and not self._is_recognized:
            raise unsupported_stream(event, _EXPECTED)

    def end(self) -> Iterator[Part]:
        if self._unrecognized is not None and not self._is_recognized:
            raise unsupported_stream(self._unrecognized, _EXPECTED)
        for answer in self._answers.values():
            yield from self._finish(answer)

    # ---- messages ----

    def _message(self, message: Any) -> Iterator[Part]:
        kind = text_of(get(message, "type"))
        if kind == "tool":
            yield from self._tool_message(message)
        elif kind in ("ai", "AIMessageChunk"):
            id = text_of(get(message, "id"))
            answer = self._answers.setdefault(id, _Answer())
            if id and kind == "ai" and answer.has_begun:
                yield from self._finish(answer)  # the complete message after its pieces
                return
            if answer.is_over:
                answer = self._answers[id] = _Answer()
            yield from self._said(answer, message)
            if kind == "ai" or get(message, "chunk_position") == "last":
                yield from self._finish(answer)

    def _said(self, answer: _Answer, message: Any) -> Iterator[Part]:
        answer.has_begun = True
        for block in _blocks(message):
            yield from _block(block)
        if get(message, "tool_call_chunks") is None:
            yield from self._whole_calls(answer, message)
        for chunk in items_of(get(message, "tool_call_chunks")):
            answer.has_calls = True
            id, name, args = get(chunk, "id"), get(chunk, "name"), get(chunk, "args")
            prefix = text_of(get(message, "id")) or "call"
            yield from answer.inputs.feed(get(chunk, "index"), id, name, args, prefix=prefix)
        answer.usage = add_usage(answer.usage, to_json(get(message, "usage_metadata")))
        for name in _REASON_FIELDS:
            reason = finish_reason(get(get(message, "response_metadata"), name))
            answer.reason = reason.lower() or answer.reason

    def _whole_calls(self, answer: _Answer, message: Any) -> Iterator[Part]:
        for name in ("tool_calls", "invalid_tool_calls"):
            for call in items_of(get(message, name)):
                answer.has_calls = True
                yield from self._call(
                    text_of(get(call, "id")), text_of(get(call, "name")), get(call, "args", {})
                )

    def _finish(self, answer: _Answer) -> Iterator[Part]:
        if answer.is_over:
            return
        answer.is_over = True
        reason = answer.reason or "stop"
        for part in answer.inputs.finish_all(reason):
            if isinstance(part, ToolCall):
                self._called.add(part.id)
                if part.id in self._by_tools:
                    self._by_tools.discard(part.id)
                    continue
            yield part
        if reason == "stop" and answer.has_calls:
            reason = "tool-calls"
        if answer.step is not None:
            yield Step(answer.step, "finish")
        yield Finish(reason, _counted(answer.usage))

    def _call(self, id: str, name: str, input: Any) -> Iterator[Part]:
        if not id:
            id, self._unnamed = f"call-{self._unnamed}", self._unnamed + 1
        self._called.add(id)
        yield ToolCall(id, name, to_json(input))

    def _tool_message(self, message: Any, tool: _Tool | None = None) -> Iterator[Part]:
        id = text_of(get(message, "tool_call_id"))
        if tool is not None and id not in self._called:
            self._by_tools.add(id)
            yield from self._call(id, tool.name, tool.input)
        failed = get(message, "status") == "error"
        yield ToolResult(id, to_json(get(message, "content")), is_error=failed)

    # ---- events ----

    def _event(self, event: dict[str, Any]) -> Iterator[Part]:
        id, data = text_of(get(event, "run_id")), get(event, "data", {})
        match event["event"]:
            case "on_chat_model_start":
                self._answers[id] = _Answer(step=self._steps)
                yield Step(self._steps, "start")
                self._steps += 1
            case "on_chat_model_stream":
                chunk = get(data, "chunk")
                if chunk is not None:
                    yield from self._said(self._answers.setdefault(id, _Answer()), chunk)
            case "on_chat_model_end":
                answer = self._answers.setdefault(id, _Answer())
                yield from self._model_end(answer, get(data, "output"))
            case "on_llm_stream":  # a text completion model
                chunk = get(data, "chunk")
                yield from text_parts(get(chunk, "text", chunk))
            case "on_tool_start":
                self._tools[id] = _tool(text_of(get(event, "name")), get(data, "input"))
            case "on_tool_end":
                yield from self._tool_end(id, get(data, "output"))
            case "on_tool_error":
                call_id = yield from self._tool_call(id, text_of(get(data, "tool_call_id")))
                yield ToolResult(call_id, to_json(get(data, "error", "failed")), is_error=True)

    def _model_end(self, answer: _Answer, output: Any) -> Iterator[Part]:
        if not answer.has_begun and output is not None:  # a model without streaming
            yield from self._said(answer, output)
        yield from self._finish(answer)

    def _tool_end(self, run_id: str, output: Any) -> Iterator[Part]:
        if get(output, "tool_call_id") is not None:
            yield from self._tool_message(output, self._tools.pop(run_id, None))
        else:
            call_id = yield from self._tool_call(run_id, "")
            yield ToolResult(call_id, to_json(output))

    def _tool_call(self, run_id: str, call_id: str) -> Generator[Part, None, str]:
        """Yield the call of a tool unless a model requested it; return the id of its parts."""
        tool = self._tools.pop(run_id, _Tool("", {}, ""))
        call_id = call_id or tool.call_id or run_id
        if call_id not in self._called:
            self._by_tools.add(call_id)
            yield from self._call(call_id, tool.name, tool.input)
        return call_id


def _is_message(event: Any) -> bool:
    return hasattr(event, "content") and hasattr(event, "type")


def _tool(name: str, input: Any) -> _Tool:
    if isinstance(input, dict) and input.get("type") == "tool_call":
        return _Tool(name, input.get("args"), text_of(input.get("id")))
    return _Tool(name, input, "")


def _blocks(message: Any) -> list[Any]:
    try:
        return items_of(message.content_blocks)
    except Exception:  # LangChain's own parser raises on unknown blocks
        return items_of(get(message, "content"))


def _block(block: Any) -> Iterator[Part]:
    kind = text_of(get(block, "type"))
    if kind == "text":
        yield from text_parts(get(block, "text"))
        for annotation in items_of(get(block, "annotations")):
            if get(annotation, "type") == "citation":
                url = text_of(get(annotation, "url"))
                id = None if url else text_of(get(annotation, "id")) or None  # a new id each time
                yield Source(id, url or None, text_of(get(annotation, "title")) or None)
    elif kind == "reasoning":
        yield from text_parts(get(block, "reasoning"), ReasoningDelta)
    else:
        yield from text_parts(block)


def _counted(usage: Any) -> dict[str, Any] | None:
    return token_counts(
        input_tokens=get(usage, "input_tokens"),
        output_tokens=get(usage, "output_tokens"),
        total_tokens=get(usage, "total_tokens"),
        cached_input_tokens=get(get(usage, "input_token_details"), "cache_read"),
        reasoning_tokens=get(get(usage, "output_token_details"), "reasoning"),
    )
