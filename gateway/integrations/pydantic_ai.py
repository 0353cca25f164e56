"""Event streams of Pydantic AI's agents (version 2) as parts.

await answer.pipe(from_pydantic_ai(agent.run_stream_events(question)))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from gateway.integrations._model_streams import (
    ModelStream,
    finish_reason,
    get,
    items_of,
    key,
    parse_json,
    read_parts,
    text_of,
    text_parts,
    to_json,
    token_counts,
    unsupported_stream,
)
from gateway.sdk.parts import (
    Finish,
    Part,
    ReasoningDelta,
    Step,
    ToolApproval,
    ToolCall,
    ToolInputDelta,
    ToolInputStart,
    ToolResult,
)

_EXPECTED = "agent.run_stream_events(...) or node.stream(run.ctx)"


def from_pydantic_ai(stream: ModelStream) -> AsyncGenerator[Part, None]:
    """Read an agent's events as parts.

    Supports `agent.run_stream_events(...)`, and `node.stream(run.ctx)` inside `agent.iter(...)`.
    The stream of a node is only a section of the answer and has no `finish`. Each request to the
    model is a step, counted from 0 in each stream. An answer by an output tool is a call of that
    tool.

    Args:
        stream: The agent's events.

    Yields:
        Parts; the last part of a complete run is `finish` with the usage of the run, or `error`
        before an exception.

    Raises:
        ModelStreamError: the events are not an agent's.
        Exception: any exception of the agent.
    """
    return read_parts(stream, _Reader(), _EXPECTED)


class _Reader:
    def __init__(self) -> None:
        self._step = -1
        self._is_in_step = False
        self._has_ended_part = True  # in this step; then a part with index 0 starts the next step
        self._ids: dict[Any, str] = {}  # ids of this step's calls, by index
        self._last_id = ""
        self._called: set[str] = set()
        self._is_recognized = False
        self._first: Any = None

    def read(self, event: Any) -> Iterator[Part]:
        kind = text_of(get(event, "event_kind"))
        self._first = event if self._first is None else self._first
        self._is_recognized |= bool(kind)
        match kind:
            case "part_start":
                if get(event, "index") == 0 and self._has_ended_part:
                    yield from self._next_step()
                yield from self._start(get(event, "index"), get(event, "part"))
            case "part_delta":
                yield from self._delta(get(event, "index"), get(event, "delta"))
            case "part_end":
                self._has_ended_part = True
                yield from self._end_part(get(event, "part"))
            case "function_tool_call" | "output_tool_call":
                yield from self._call(get(event, "part"))
            case "function_tool_result" | "output_tool_result":
                yield from _result(get(event, "part"))
            case "deferred_tool_requests":
                for call in items_of(get(get(event, "requests"), "approvals")):
                    yield from self._call(call)
                    yield ToolApproval(text_of(get(call, "tool_call_id")), "requested")
            case "deferred_tool_results":
                approvals = get(get(event, "results"), "approvals")
                if isinstance(approvals, Mapping):
                    for id, approval in approvals.items():
                        yield _approval(text_of(id), approval)
            case "agent_run_result":
                yield from self._end_step()
                yield _finish(get(event, "result"))

    def end(self) -> Iterator[Part]:
        if self._first is not None and not self._is_recognized:
            raise unsupported_stream(self._first, _EXPECTED)
        yield from self._end_step()

    def _end_step(self) -> Iterator[Part]:
        if self._is_in_step:
            self._is_in_step = False
            yield Step(self._step, "finish")

    def _next_step(self) -> Iterator[Part]:
        yield from self._end_step()
        self._step += 1
        self._is_in_step, self._has_ended_part = True, False
        self._ids = {}
        yield Step(self._step, "start")

    def _start(self, index: Any, part: Any) -> Iterator[Part]:
        match get(part, "part_kind"):
            case "text":
                yield from text_parts(get(part, "content"))
            case "thinking":
                yield from text_parts(get(part, "content"), ReasoningDelta)
            case "tool-call" | "builtin-tool-call":
                self._last_id = self._ids[key(index)] = text_of(get(part, "tool_call_id"))
                yield ToolInputStart(self._last_id, text_of(get(part, "tool_name")))
                args = get(part, "args")
                if isinstance(args, str) and args:
                    yield ToolInputDelta(self._last_id, args)
            case "builtin-tool-return":
                yield from _result(part)

    def _delta(self, index: Any, delta: Any) -> Iterator[Part]:
        match get(delta, "part_delta_kind"):
            case "text":
                yield from text_parts(get(delta, "content_delta"))
            case "thinking":
                yield from text_parts(get(delta, "content_delta"), ReasoningDelta)
            case "tool_call":
                args = get(delta, "args_delta")
                id = (
                    self._ids.get(key(index))
                    or text_of(get(delta, "tool_call_id"))
                    or self._last_id
                )
                if isinstance(args, str) and args:
                    yield ToolInputDelta(id, args)

    def _end_part(self, part: Any) -> Iterator[Part]:
        if get(part, "part_kind") in ("tool-call", "builtin-tool-call"):
            is_complete, _ = _input(get(part, "args"))
            # A truncated call is reported when the agent executes it nevertheless.
            if is_complete:
                yield from self._call(part)

    def _call(self, part: Any) -> Iterator[Part]:
        id = text_of(get(part, "tool_call_id"))
        if part is not None and id not in self._called:
            self._called.add(id)
            yield ToolCall(id, text_of(get(part, "tool_name")), _input(get(part, "args"))[1])


def _input(args: Any) -> tuple[bool, Any]:
    """Return whether a call's arguments are complete, and their value."""
    if not isinstance(args, str):
        return True, to_json(args or {})
    is_complete, input = parse_json(args or "{}")
    return is_complete, input if is_complete else args


def _result(part: Any) -> Iterator[Part]:
    if part is None:
        return
    id, content = text_of(get(part, "tool_call_id")), to_json(get(part, "content"))
    outcome = get(part, "outcome", "success")
    if outcome == "denied":
        yield ToolApproval(id, "denied", content if isinstance(content, str) else None)
    yield ToolResult(id, content, is_error=outcome != "success")


def _approval(id: str, approval: Any) -> ToolApproval:
    if approval is True or get(approval, "kind") == "tool-approved":
        return ToolApproval(id, "approved")
    reason = get(approval, "message")
    return ToolApproval(id, "denied", None if reason is None else text_of(reason))


def _finish(result: Any) -> Finish:
    usage = get(result, "usage")
    reason = finish_reason(get(get(result, "response"), "finish_reason")) or "stop"
    output = get(result, "output")
    waits = hasattr(output, "approvals") and hasattr(output, "calls")
    known = (
        token_counts(**{name: get(usage, name) for name in ("input_tokens", "output_tokens")}) or {}
    )
    used = token_counts(
        **known,
        total_tokens=sum(known.values()) if known else None,
        cached_input_tokens=get(usage, "cache_read_tokens"),
        reasoning_tokens=get(get(usage, "details"), "reasoning_tokens"),
    )
    return Finish("tool-calls" if waits else reason, used)
