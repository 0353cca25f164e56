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

_WANTED = (
    'model.astream(...), graph.astream(..., stream_mode="messages") '
    'or astream_events(..., version="v2")'
)
_REASON_FIELDS = ("finish_reason", "stop_reason", "done_reason")


def from_langchain(stream: ModelStream) -> AsyncGenerator[Part, None]:
    """Read a stream of LangChain as parts.

    Takes `astream` of a chat model (also pairs of message and metadata, as a graph gives them) and
    `astream_events(version="v2")` of anything; there each answer of a model is a step, and tools
    come with their results. Every answer of a model gives a `finish` with its usage, so the last
    one counts, and an assembler adds the usage up. `retriever` and other events are passed over.
    A chain that ends in a parser gives its texts. What a graph gives in its other modes has no
    pieces of text: it ends with an error that names the mode to use.

    Args:
        stream: Messages or events.

    Yields:
        Parts; `error` before an exception.

    Raises:
        ModelStreamError: the stream is of a graph's mode `updates` or `values`, or of no answer.
        Exception: whatever the stream raises.
    """
    return read_parts(stream, _Reader(), _WANTED)


@dataclass
class _Answer:
    """One answer of a model, as its pieces come."""

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
        self._answers: dict[str, _Answer] = {}  # by the message's id, or the run's of an event
        self._called: set[str] = set()
        self._tools: dict[str, _Tool] = {}
        self._steps = 0
        self._by_tools: set[str] = set()  # calls that were given where their tool began
        self._unnamed = 0  # calls without an id
        self._understands = False
        self._odd: Any = None

    def take(self, event: Any) -> Iterator[Part]:
        if isinstance(event, tuple):
            # Message and metadata, a mode and such a pair, or a namespace before these. With
            # several modes, those that repeat the messages are skipped.
            self._odd = event if self._odd is None else self._odd
            for item in event:
                if isinstance(item, tuple) or _is_message(item):
                    yield from self.take(item)
        elif _is_message(event):
            self._understands = True
            yield from self._message(event)
        elif isinstance(event, dict) and "event" in event:
            self._understands = True
            yield from self._event(event)
        elif isinstance(event, str):  # a chain that ends in a parser
            self._understands = True
            answer = self._answers.setdefault("", _Answer())
            answer.has_begun = True
            yield from said(event)
        elif isinstance(event, dict) and "run_id" in event:
            self._odd = event  # an event without its name
        elif event and not self._understands:
            raise not_understood(event, _WANTED)

    def end(self) -> Iterator[Part]:
        if self._odd is not None and not self._understands:
            raise not_understood(self._odd, _WANTED)
        for answer in self._answers.values():
            yield from self._finish(answer)

    # Messages.

    def _message(self, message: Any) -> Iterator[Part]:
        kind = word(get(message, "type"))
        if kind == "tool":
            yield from self._tool_message(message)
        elif kind in ("ai", "AIMessageChunk"):
            id = word(get(message, "id"))
            answer = self._answers.setdefault(id, _Answer())
            if id and kind == "ai" and answer.has_begun:
                yield from self._finish(answer)  # the whole of what came in pieces
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
        for chunk in each(get(message, "tool_call_chunks")):
            answer.has_calls = True
            id, name, args = get(chunk, "id"), get(chunk, "name"), get(chunk, "args")
            prefix = word(get(message, "id")) or "call"
            yield from answer.inputs.take(get(chunk, "index"), id, name, args, prefix=prefix)
        answer.usage = add_usage(answer.usage, as_json(get(message, "usage_metadata")))
        for name in _REASON_FIELDS:
            reason = reason_of(get(get(message, "response_metadata"), name))
            answer.reason = reason.lower() or answer.reason

    def _whole_calls(self, answer: _Answer, message: Any) -> Iterator[Part]:
        for name in ("tool_calls", "invalid_tool_calls"):
            for call in each(get(message, name)):
                answer.has_calls = True
                yield from self._call(
                    word(get(call, "id")), word(get(call, "name")), get(call, "args", {})
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
        yield ToolCall(id, name, as_json(input))

    def _tool_message(self, message: Any, tool: _Tool | None = None) -> Iterator[Part]:
        id = word(get(message, "tool_call_id"))
        if tool is not None and id not in self._called:
            self._by_tools.add(id)
            yield from self._call(id, tool.name, tool.input)
        failed = get(message, "status") == "error"
        yield ToolResult(id, as_json(get(message, "content")), is_error=failed)

    # Events.

    def _event(self, event: dict[str, Any]) -> Iterator[Part]:
        id, data = word(get(event, "run_id")), get(event, "data", {})
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
            case "on_llm_stream":  # a model of plain text
                chunk = get(data, "chunk")
                yield from said(get(chunk, "text", chunk))
            case "on_tool_start":
                self._tools[id] = _tool(word(get(event, "name")), get(data, "input"))
            case "on_tool_end":
                yield from self._tool_end(id, get(data, "output"))
            case "on_tool_error":
                call_id = yield from self._tool_call(id, word(get(data, "tool_call_id")))
                yield ToolResult(call_id, as_json(get(data, "error", "failed")), is_error=True)

    def _model_end(self, answer: _Answer, output: Any) -> Iterator[Part]:
        if not answer.has_begun and output is not None:  # a model that cannot stream
            yield from self._said(answer, output)
        yield from self._finish(answer)

    def _tool_end(self, run_id: str, output: Any) -> Iterator[Part]:
        if get(output, "tool_call_id") is not None:
            yield from self._tool_message(output, self._tools.pop(run_id, None))
        else:
            call_id = yield from self._tool_call(run_id, "")
            yield ToolResult(call_id, as_json(output))

    def _tool_call(self, run_id: str, call_id: str) -> Generator[Part, None, str]:
        """Give the call of a tool if no model asked for it; return the id that joins its parts."""
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
        return _Tool(name, input.get("args"), word(input.get("id")))
    return _Tool(name, input, "")


def _blocks(message: Any) -> list[Any]:
    try:
        return each(message.content_blocks)
    except Exception:  # LangChain's own reading is strict
        return each(get(message, "content"))


def _block(block: Any) -> Iterator[Part]:
    kind = word(get(block, "type"))
    if kind == "text":
        yield from said(get(block, "text"))
        for annotation in each(get(block, "annotations")):
            if get(annotation, "type") == "citation":
                url = word(get(annotation, "url"))
                id = None if url else word(get(annotation, "id")) or None  # differs each time
                yield Source(id, url or None, word(get(annotation, "title")) or None)
    elif kind == "reasoning":
        yield from said(get(block, "reasoning"), ReasoningDelta)
    else:
        yield from said(block)


def _counted(usage: Any) -> dict[str, Any] | None:
    return counts(
        input_tokens=get(usage, "input_tokens"),
        output_tokens=get(usage, "output_tokens"),
        total_tokens=get(usage, "total_tokens"),
        cached_input_tokens=get(get(usage, "input_token_details"), "cache_read"),
        reasoning_tokens=get(get(usage, "output_token_details"), "reasoning"),
    )
