"""Streams of LangChain's models, agents and chains as parts.

await answer.pipe(from_langchain(model.astream(question)))
await answer.pipe(from_langchain(agent.astream_events(question, version="v2")))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.integrations.model_streams import (
    ModelStream,
    ToolInputs,
    as_json,
    counts,
    read_parts,
)
from gateway.sdk.assembler import add_usage
from gateway.sdk.parts import (
    Finish,
    Part,
    ReasoningDelta,
    Source,
    Step,
    TextDelta,
    ToolCall,
    ToolResult,
)

# Every provider has its own word; these are told apart without knowing the provider.
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "tool_calls": "tool-calls",
    "tool_use": "tool-calls",
    "content_filter": "content-filter",
    "refusal": "content-filter",
    "safety": "content-filter",
}
_REASON_FIELDS = ("finish_reason", "stop_reason", "done_reason")


def from_langchain(stream: ModelStream) -> AsyncGenerator[Part, None]:
    """Read a stream of LangChain as parts.

    Takes `astream` of a chat model (also pairs of message and metadata, as a graph gives them) and
    `astream_events(version="v2")` of anything; there each answer of a model is a step, and tools
    come with their results. Every answer of a model gives a `finish` with its usage, so the last
    one counts, and an assembler adds the usage up. `retriever` and other events are passed over.

    Args:
        stream: Messages or events.

    Yields:
        Parts; `error` before an exception.

    Raises:
        Exception: whatever the stream raises.
    """
    return read_parts(stream, _Reader())


@dataclass
class _Answer:
    """One answer of a model, as its pieces come."""

    inputs: ToolInputs = field(default_factory=ToolInputs)
    reason: str | None = None
    usage: dict[str, Any] | None = None
    has_begun: bool = False
    has_calls: bool = False
    is_over: bool = False
    step: int | None = None


@dataclass
class _Tool:
    name: str
    input: Any
    call_id: str | None


class _Reader:
    def __init__(self) -> None:
        self._answers: dict[str, _Answer] = {}  # by the message's id, or the run's of an event
        self._called: set[str] = set()
        self._tools: dict[str, _Tool] = {}
        self._steps = 0

    def take(self, event: Any) -> Iterator[Part]:
        if isinstance(event, dict):
            yield from self._event(event)
        elif isinstance(event, tuple):
            for item in event:  # message and metadata, or a mode and such a pair
                if isinstance(item, tuple) or hasattr(item, "content"):
                    yield from self.take(item)
        else:
            yield from self._message(event)

    def end(self) -> Iterator[Part]:
        for answer in self._answers.values():
            yield from self._finish(answer)

    # Messages.

    def _message(self, message: Any) -> Iterator[Part]:
        kind = getattr(message, "type", None)
        if kind == "tool":
            yield from self._tool_message(message)
        elif kind in ("ai", "AIMessageChunk"):
            answer = self._answers.setdefault(message.id or "", _Answer())
            if answer.is_over:
                answer = self._answers[message.id or ""] = _Answer()
            yield from self._said(answer, message)
            if kind == "ai" or getattr(message, "chunk_position", None) == "last":
                yield from self._finish(answer)

    def _said(self, answer: _Answer, message: Any) -> Iterator[Part]:
        answer.has_begun = True
        for block in message.content_blocks:
            yield from _block(block)
        chunks = getattr(message, "tool_call_chunks", None)
        if chunks is None:
            yield from self._whole_calls(answer, message)
        for chunk in chunks or ():
            yield from self._chunk(answer, chunk)
        answer.usage = add_usage(answer.usage, message.usage_metadata)
        reasons = (message.response_metadata.get(name) for name in _REASON_FIELDS)
        answer.reason = next((str(reason) for reason in reasons if reason), answer.reason)

    def _whole_calls(self, answer: _Answer, message: Any) -> Iterator[Part]:
        for call in (*message.tool_calls, *message.invalid_tool_calls):
            answer.has_calls = True
            yield from self._call(call["id"] or "", call["name"] or "", call["args"])

    def _chunk(self, answer: _Answer, chunk: Any) -> Iterator[Part]:
        # The id and the name come once, the arguments in pieces, joined by the index.
        index = chunk.get("index")
        if chunk.get("id"):
            answer.has_calls = True
            yield from answer.inputs.start(index, chunk["id"], chunk.get("name") or "")
        yield from answer.inputs.add(index, chunk.get("args"))

    def _finish(self, answer: _Answer) -> Iterator[Part]:
        if answer.is_over:
            return
        answer.is_over = True
        reason = (answer.reason or "stop").lower()
        reason = _REASONS.get(reason, reason)
        for call in answer.inputs.finish_all(reason):
            if isinstance(call, ToolCall):
                yield from self._call(call.id, call.name, call.input)
        if reason == "stop" and answer.has_calls:
            reason = "tool-calls"
        if answer.step is not None:
            yield Step(answer.step, "finish")
        yield Finish(reason, _counted(answer.usage))

    def _call(self, id: str, name: str, input: Any) -> Iterator[Part]:
        self._called.add(id)
        yield ToolCall(id, name, as_json(input))

    def _tool_message(self, message: Any, tool: _Tool | None = None) -> Iterator[Part]:
        id = message.tool_call_id
        if id not in self._called and tool is not None:
            yield from self._call(id, tool.name, tool.input)
        failed = getattr(message, "status", None) == "error"
        yield ToolResult(id, as_json(message.content), is_error=failed)

    # Events.

    def _event(self, event: dict[str, Any]) -> Iterator[Part]:
        id, data = event.get("run_id", ""), event.get("data", {})
        match event.get("event"):
            case "on_chat_model_start":
                self._answers[id] = _Answer(step=self._steps)
                yield Step(self._steps, "start")
                self._steps += 1
            case "on_chat_model_stream":
                yield from self._said(self._answers.setdefault(id, _Answer()), data["chunk"])
            case "on_chat_model_end":
                yield from self._model_end(self._answers.setdefault(id, _Answer()), data["output"])
            case "on_tool_start":
                self._tools[id] = _tool(event["name"], data.get("input"))
            case "on_tool_end":
                yield from self._tool_end(id, data.get("output"))
            case "on_tool_error":
                call_id = yield from self._tool_call(id, data.get("tool_call_id"))
                yield ToolResult(call_id, str(data["error"]), is_error=True)

    def _model_end(self, answer: _Answer, output: Any) -> Iterator[Part]:
        if not answer.has_begun:  # a model that cannot stream
            yield from self._said(answer, output)
        yield from self._finish(answer)

    def _tool_end(self, run_id: str, output: Any) -> Iterator[Part]:
        if hasattr(output, "tool_call_id"):
            yield from self._tool_message(output, self._tools.pop(run_id, None))
        else:
            call_id = yield from self._tool_call(run_id, None)
            yield ToolResult(call_id, as_json(output))

    def _tool_call(self, run_id: str, call_id: str | None) -> Generator[Part, None, str]:
        """Give the call of a tool if no model asked for it; return the id that joins its parts."""
        tool = self._tools.pop(run_id, _Tool("", {}, None))
        call_id = call_id or tool.call_id or run_id
        if call_id not in self._called:
            yield from self._call(call_id, tool.name, tool.input)
        return call_id


def _tool(name: str, input: Any) -> _Tool:
    if isinstance(input, dict) and input.get("type") == "tool_call":
        return _Tool(name, input.get("args"), input.get("id"))
    return _Tool(name, input, None)


def _block(block: Any) -> Iterator[Part]:
    match block.get("type"):
        case "text":
            if block.get("text"):
                yield TextDelta(block["text"])
            for annotation in block.get("annotations") or ():
                if annotation.get("type") == "citation":
                    url = annotation.get("url")
                    id = None if url else annotation.get("id")  # its ids differ each time
                    yield Source(id, url, annotation.get("title"))
        case "reasoning" if block.get("reasoning"):
            yield ReasoningDelta(block["reasoning"])


def _counted(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    if not usage:
        return None
    return counts(
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        total_tokens=usage["total_tokens"],
        cached_input_tokens=(usage.get("input_token_details") or {}).get("cache_read"),
        reasoning_tokens=(usage.get("output_token_details") or {}).get("reasoning"),
    )
