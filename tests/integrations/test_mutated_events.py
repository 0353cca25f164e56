"""Answers whose events have one mutated field."""

import asyncio
import copy
import logging
from typing import Any

import pytest
from langchain_core.messages import ToolMessage

from gateway.integrations._model_streams import ModelStreamError
from gateway.integrations.anthropic import from_anthropic
from gateway.integrations.langchain import from_langchain
from gateway.integrations.openai import from_openai
from gateway.integrations.pydantic_ai import from_pydantic_ai
from gateway.sdk.parts import (
    ErrorPart,
    Finish,
    TextDelta,
    ToolCall,
)
from tests.support.sdk.model_answers import USAGE, chunk, of, read

_CALL = {"index": 0, "id": "call_a", "function": {"name": "f", "arguments": '{"n":1}'}}
_FUNCTION = {"type": "function_call", "id": "f1", "call_id": "call_a", "name": "f"}
RECORDED = {
    "chat": (from_openai, [
        chunk({"role": "assistant", "content": "One. "}),
        chunk({"content": [{"type": "text", "text": "Two. "}]}),
        chunk({"reasoning_content": "Hm", "content": "Three. "}),
        chunk({"tool_calls": [_CALL]}),
        chunk({"content": "Four. ", "annotations": [{"url_citation": {"url": "u", "title": "t"}}]}),
        chunk({}, "stop"),
        chunk() | {"choices": [], "usage": USAGE | {"prompt_tokens_details": {"cached_tokens": 1}}},
    ]),
    "responses": (from_openai, [
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_text.delta", "delta": "One. "},
        {"type": "response.output_text.delta", "delta": "Two. "},
        {"type": "response.output_item.added", "item": _FUNCTION},
        {"type": "response.function_call_arguments.delta", "item_id": "f1", "delta": '{"n":1}'},
        {"type": "response.output_item.done", "item": _FUNCTION | {"arguments": '{"n":1}'}},
        {"type": "response.output_item.done", "item": {
            "type": "mcp_call", "id": "c2", "name": "g", "arguments": "{}", "output": "x",
            "error": {"code": 4}}},
        {"type": "response.output_item.done", "item": {
            "type": "mcp_approval_request", "id": "c3", "name": "g", "arguments": "{}"}},
        {"type": "response.output_item.done", "item": {
            "type": "shell_call_output", "call_id": "c4", "output": [{"stdout": "x"}]}},
        {"type": "response.output_text.annotation.added", "annotation": {"url": "u", "title": "t"}},
        {"type": "response.output_text.delta", "delta": "Three. "},
        {"type": "response.completed", "response": {
            "output": [], "incomplete_details": {"reason": "x"}, "usage": {
                "input_tokens": 1, "input_tokens_details": {"cached_tokens": 0}}}},
    ]),
    "messages": (from_anthropic, [
        {"type": "message_start", "message": {"usage": {"input_tokens": 1, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {
            "type": "text_delta", "text": "One. "}},
        {"type": "content_block_delta", "index": 0, "delta": {
            "type": "text_delta", "text": "Two. "}},
        {"type": "content_block_delta", "index": 0, "delta": {
            "type": "citations_delta", "citation": {"url": "u", "title": "t"}}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {
            "type": "tool_use", "id": "call_a", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {
            "type": "input_json_delta", "partial_json": '{"n":1}'}},
        {"type": "content_block_stop", "index": 1},
        {"type": "content_block_start", "index": 2, "content_block": {
            "type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "u"}]}},
        {"type": "content_block_delta", "index": 0, "delta": {
            "type": "text_delta", "text": "Three. "}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {
            "output_tokens": 5, "output_tokens_details": {"thinking_tokens": 3}}},
        {"type": "message_stop"},
    ]),
    "agent": (from_pydantic_ai, [
        {"event_kind": "part_start", "index": 0, "part": {"part_kind": "text", "content": "One. "}},
        {"event_kind": "part_delta", "index": 0, "delta": {
            "part_delta_kind": "text", "content_delta": "Two. "}},
        {"event_kind": "part_start", "index": 1, "part": {
            "part_kind": "tool-call", "tool_call_id": "call_a", "tool_name": "f", "args": '{"n":'}},
        {"event_kind": "part_delta", "index": 1, "delta": {
            "part_delta_kind": "tool_call", "args_delta": "1}", "tool_call_id": "call_a"}},
        {"event_kind": "part_end", "index": 1, "part": {"part_kind": "tool-call",
            "tool_call_id": "call_a", "tool_name": "f", "args": '{"n":1}'}},
        {"event_kind": "function_tool_call", "part": {
            "tool_call_id": "call_a", "tool_name": "f", "args": '{"n":1}'}},
        {"event_kind": "function_tool_result", "part": {
            "tool_call_id": "call_a", "content": "x", "outcome": "success"}},
        {"event_kind": "deferred_tool_requests", "requests": {"approvals": [
            {"tool_call_id": "call_b", "tool_name": "g", "args": {"n": 2}}]}},
        {"event_kind": "deferred_tool_results", "results": {"approvals": {"call_b": True}}},
        {"event_kind": "part_delta", "index": 0, "delta": {
            "part_delta_kind": "text", "content_delta": "Three. "}},
        {"event_kind": "agent_run_result", "result": {
            "usage": {"input_tokens": 1, "output_tokens": 2, "details": {}},
            "response": {"finish_reason": "stop"}, "output": "x"}},
    ]),
    "chain": (from_langchain, [
        {"event": "on_chat_model_start", "run_id": "r", "data": {}},
        {"event": "on_chat_model_stream", "run_id": "r", "data": {"chunk": {"content": "One. "}}},
        {"event": "on_chat_model_stream", "run_id": "r", "data": {"chunk": {"content": [
            {"type": "text", "text": "Two. ", "annotations": [
                {"type": "citation", "url": "u"}]}]}}},
        {"event": "on_chat_model_stream", "run_id": "r", "data": {"chunk": {
            "content": "", "usage_metadata": {"input_tokens": 1}, "tool_call_chunks": [
                {"index": 0, "id": "call_a", "name": "f", "args": '{"n":1}'}]}}},
        {"event": "on_chat_model_stream", "run_id": "r", "data": {"chunk": {
            "content": "Three. ", "response_metadata": {"finish_reason": "stop"}}}},
        {"event": "on_chat_model_end", "run_id": "r", "data": {"output": {"content": ""}}},
        {"event": "on_tool_start", "run_id": "t", "name": "f", "data": {"input": {"n": 1}}},
        {"event": "on_tool_end", "run_id": "t", "data": {"output": {
            "tool_call_id": "call_a", "content": "x", "status": "success"}}},
        {"event": "on_tool_error", "run_id": "u", "data": {"error": "no"}},
    ]),
}  # fmt: skip


def paths(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for name, item in items:
        found.append((*before, name))
        if isinstance(item, dict | list):
            found += paths(item, (*before, name))
    return found


DROP = object()
CHANGES = [DROP, None, "", "x", "\ud83d", 0, 7, -1.5, float("nan"), 2**70, True, [], {}, [None],
           [[]], [{}], {"x": [None]}, [7, "y"], b"\xff"]  # fmt: skip


def change(event: dict[str, Any], path: tuple[Any, ...], to: Any) -> dict[str, Any]:
    changed = copy.deepcopy(event)
    place: Any = changed
    for name in path[:-1]:
        place = place[name]
    if to is DROP:
        del place[path[-1]]
    else:
        place[path[-1]] = [place[path[-1]]] if to == [[]] else copy.deepcopy(to)
    return changed


@pytest.mark.parametrize("provider", RECORDED)
def test_mutated_field_affects_only_its_event(provider, caplog) -> None:
    adapter, events = RECORDED[provider]
    texts = [of(TextDelta, read(adapter, events[: n + 1])[0]) for n in range(len(events))]
    pieces = [text[len(before) :] for before, text in zip(["", *texts[:-1]], texts, strict=True)]
    numbers = ("index",)  # the index of another choice or block is valid
    for n, event in enumerate(events):
        for path in paths(event):
            for to in CHANGES:
                if path[-1] in numbers and isinstance(to, int | float):
                    continue
                changed = [*events[:n], change(event, path, to), *events[n + 1 :]]
                where = f"{provider} {n} {path} {to!r}"
                parts, error = read(adapter, changed)
                assert (
                    error is None
                    or path[-1] in ("finish_reason", "type", "choices")
                    or (n >= len(events) - 2)
                ), (where, error)
                assert caplog.messages == [], where
                said = of(TextDelta, parts)
                for other, piece in enumerate(pieces):
                    assert other == n or piece in said, (where, said)
                calls = [part.id for part in parts if isinstance(part, ToolCall)]
                assert len(set(calls)) == len(calls), where


class Odd:
    """A value that raises when it is accessed."""

    @property
    def choices(self) -> Any:
        raise RuntimeError("not today")

    @property
    def type(self) -> Any:
        raise RuntimeError("not today")


def test_unreadable_event_is_logged_and_skipped(caplog) -> None:
    events = [chunk({"content": "Hel"}), Odd(), chunk({"content": "lo"}), chunk({}, "stop")]
    parts, error = read(from_openai, events)
    assert (of(TextDelta, parts), error) == ("Hello", None)
    (record,) = caplog.records
    assert "Odd" in record.message and record.levelno == logging.WARNING


@pytest.mark.parametrize(
    ("adapter", "event", "named"),
    [
        (from_langchain, {"agent": {"messages": [ToolMessage("x", tool_call_id="a")]}},
         'stream_mode="messages"'),
        (from_langchain, {"messages": []}, 'stream_mode="messages"'),
        (from_langchain, ("updates", {"agent": {}}), 'stream_mode="messages"'),
        (from_langchain, 4, "astream_events"),
        (from_openai, "Hello", "stream=True"),
        (from_openai, {"type": "message_start"}, "stream=True"),
        (from_anthropic, chunk({"content": "Hi"}), "messages.create(stream=True)"),
        (from_pydantic_ai, "Hello", "run_stream_events"),
    ],
)  # fmt: skip
def test_unsupported_stream_error_names_supported_one(adapter, event, named) -> None:
    parts, error = read(adapter, [event])
    assert isinstance(error, ModelStreamError)
    assert named in str(error)
    assert parts == [ErrorPart(str(error))]


@pytest.mark.parametrize("given", [[1, 2], "text", None])
def test_non_stream_error_names_supported_call(given) -> None:
    async def drain() -> None:
        async for _ in from_openai(given):
            pass

    with pytest.raises(ModelStreamError, match="stream=True"):
        asyncio.run(drain())


def test_chain_texts_are_the_answer() -> None:
    parts, error = read(from_langchain, ["Hel", "", "lo"])
    assert error is None
    assert parts == [TextDelta("Hel"), TextDelta("lo"), Finish("stop", None)]
