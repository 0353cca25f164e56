"""Event streams of Pydantic AI's agents (version 2) as parts.

await answer.pipe(from_pydantic_ai(agent.run_stream_events(question)))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from gateway.integrations.model_streams import (
    ModelStream,
    as_json,
    counts,
    parse_json,
    read_parts,
)
from gateway.sdk.parts import (
    Finish,
    Part,
    ReasoningDelta,
    Step,
    TextDelta,
    ToolApproval,
    ToolCall,
    ToolInputDelta,
    ToolInputStart,
    ToolResult,
)

_REASONS = {"tool_call": "tool-calls", "content_filter": "content-filter"}


def from_pydantic_ai(stream: ModelStream) -> AsyncGenerator[Part, None]:
    """Read an agent's events as parts.

    Takes `agent.run_stream_events(...)`, and inside `agent.iter(...)` what `node.stream(run.ctx)`
    gives; such a node's stream is only a piece of the answer and has no `finish`. Each request to
    the model is a step, counted from 0 in each stream. An answer that is given by an output tool
    shows as a call of that tool.

    Args:
        stream: The agent's events.

    Yields:
        Parts; the last one of a whole run is `finish` with the usage of the run, or `error`
        before an exception.

    Raises:
        Exception: whatever the agent raises.
    """
    return read_parts(stream, _Reader())


class _Reader:
    def __init__(self) -> None:
        self._step = -1
        self._is_in_step = False
        self._has_ended_part = True  # since the step began: then a part 0 begins another
        self._ids: dict[int, str] = {}  # of the calls of this step, by index
        self._called: set[str] = set()

    def take(self, event: Any) -> Iterator[Part]:
        match event.event_kind:
            case "part_start":
                if event.index == 0 and self._has_ended_part:
                    yield from self._next_step()
                yield from self._start(event.index, event.part)
            case "part_delta":
                yield from self._delta(event.index, event.delta)
            case "part_end":
                self._has_ended_part = True
                yield from self._end_part(event.part)
            case "function_tool_call" | "output_tool_call":
                yield from self._call(event.part)
            case "function_tool_result" | "output_tool_result":
                yield from _result(event.part)
            case "deferred_tool_requests":
                for call in event.requests.approvals:
                    yield from self._call(call)
                    yield ToolApproval(call.tool_call_id, "requested")
            case "deferred_tool_results":
                for id, approval in event.results.approvals.items():
                    yield _approval(id, approval)
            case "agent_run_result":
                yield from self.end()
                yield _finish(event.result)

    def end(self) -> Iterator[Part]:
        if self._is_in_step:
            self._is_in_step = False
            yield Step(self._step, "finish")

    def _next_step(self) -> Iterator[Part]:
        yield from self.end()
        self._step += 1
        self._is_in_step, self._has_ended_part = True, False
        self._ids = {}
        yield Step(self._step, "start")

    def _start(self, index: int, part: Any) -> Iterator[Part]:
        match part.part_kind:
            case "text" if part.content:
                yield TextDelta(part.content)
            case "thinking" if part.content:
                yield ReasoningDelta(part.content)
            case "tool-call" | "builtin-tool-call":
                self._ids[index] = part.tool_call_id
                yield ToolInputStart(part.tool_call_id, part.tool_name)
                if isinstance(part.args, str) and part.args:
                    yield ToolInputDelta(part.tool_call_id, part.args)
            case "builtin-tool-return":
                yield from _result(part)

    def _delta(self, index: int, delta: Any) -> Iterator[Part]:
        match delta.part_delta_kind:
            case "text" if delta.content_delta:
                yield TextDelta(delta.content_delta)
            case "thinking" if delta.content_delta:
                yield ReasoningDelta(delta.content_delta)
            case "tool_call" if isinstance(delta.args_delta, str) and delta.args_delta:
                yield ToolInputDelta(self._ids[index], delta.args_delta)

    def _end_part(self, part: Any) -> Iterator[Part]:
        if part.part_kind in ("tool-call", "builtin-tool-call"):
            whole, _ = _input(part.args)
            # One that was cut off is told when the agent makes it all the same.
            if whole:
                yield from self._call(part)

    def _call(self, part: Any) -> Iterator[Part]:
        if part.tool_call_id not in self._called:
            self._called.add(part.tool_call_id)
            yield ToolCall(part.tool_call_id, part.tool_name, _input(part.args)[1])


def _input(args: Any) -> tuple[bool, Any]:
    """Return whether a call's arguments are whole, and what they are."""
    if not isinstance(args, str):
        return True, as_json(args or {})
    whole, input = parse_json(args or "{}")
    return whole, input if whole else args


def _result(part: Any) -> Iterator[Part]:
    content = as_json(part.content)
    if part.outcome == "denied":
        reason = content if isinstance(content, str) else None
        yield ToolApproval(part.tool_call_id, "denied", reason)
    yield ToolResult(part.tool_call_id, content, is_error=part.outcome != "success")


def _approval(id: str, approval: Any) -> ToolApproval:
    if approval is True or getattr(approval, "kind", None) == "tool-approved":
        return ToolApproval(id, "approved")
    return ToolApproval(id, "denied", getattr(approval, "message", None))


def _finish(result: Any) -> Finish:
    usage = result.usage
    reason = result.response.finish_reason or "stop"
    waits = hasattr(result.output, "approvals") and hasattr(result.output, "calls")
    used = counts(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        cached_input_tokens=usage.cache_read_tokens,
        reasoning_tokens=usage.details.get("reasoning_tokens"),
    )
    return Finish("tool-calls" if waits else _REASONS.get(reason, reason), used)
