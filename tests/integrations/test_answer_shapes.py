"""Answers in the variations of real servers, and in mutated ones.

The first half writes one answer like the servers of a provider: with or without ids, one index for
all calls, a list as content, half an emoji, empty chunks. Every combination must give the same
parts. The second half changes any field of any event: the answer may lose the changed field, but
nothing else, and no event may end it.
"""

import asyncio
import copy
import itertools
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk, ToolMessage
from openai.types.chat import ChatCompletionChunk

from gateway import streams
from gateway.integrations._model_streams import ModelStreamError
from gateway.integrations.anthropic import from_anthropic
from gateway.integrations.langchain import from_langchain
from gateway.integrations.openai import from_openai
from gateway.integrations.pydantic_ai import from_pydantic_ai
from gateway.sdk.parts import (
    ErrorPart,
    Finish,
    Part,
    ReasoningDelta,
    TextDelta,
    ToolCall,
)

ANSWER = streams.define("odd-answer", Part)
TEXT = "Grüße 👩‍🚀 {"
REASONING = "Hm 🤔."
CALLS = [
    ("weather", {"city": "Zürich 🌧"}),
    ("weather", {"city": "Rome", "days": [1, {"n": 2}]}),
    ("now", {}),
]

fuzzed = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


PLAIN = ("arguments", "input", "partial_json")  # values that clients pass unchanged


def as_objects(value: Any) -> Any:
    if isinstance(value, dict):
        fields = value.items()
        return SimpleNamespace(**{n: v if n in PLAIN else as_objects(v) for n, v in fields})
    return [as_objects(item) for item in value] if isinstance(value, list) else value


def of_client(value: Any) -> Any:
    return ChatCompletionChunk.construct(**value) if isinstance(value, dict) else value


def read(adapter, events) -> tuple[list[Part], Exception | None]:
    """Read events until the end or the error; every part must be storable."""

    async def source():
        for event in events:
            yield event

    async def collect() -> tuple[list[Part], Exception | None]:
        parts = []
        try:
            async for part in adapter(source()):
                parts.append(part)
        except ModelStreamError as error:
            return parts, error
        return parts, None

    parts, error = asyncio.run(collect())
    for part in parts:
        assert ANSWER.decode(ANSWER.encode(part)).type == part.type
    return parts, error


def of(kind, parts) -> str:
    return "".join(part.text for part in parts if isinstance(part, kind))


def check_whole(parts, calls=CALLS, reasoning=REASONING) -> None:
    assert of(TextDelta, parts) == TEXT
    assert of(ReasoningDelta, parts) == reasoning
    given = [part for part in parts if isinstance(part, ToolCall)]
    assert sorted((c.name, json.dumps(c.input)) for c in given) == sorted(
        (name, json.dumps(input)) for name, input in calls
    )
    assert len({call.id for call in given}) == len(calls)
    written = {part.id for part in parts if part.type.startswith("tool-input")}
    assert written <= {call.id for call in given}
    assert isinstance(parts[-1], Finish)


@st.composite
def cut(draw, text: str) -> list[str]:
    """Split a text like a server that counts UTF-16 units."""
    units = text.encode("utf-16-le")
    at = sorted(draw(st.sets(st.integers(1, max(len(units) // 2 - 1, 1)), max_size=5)))
    ends = [0, *(2 * n for n in at), len(units)]
    pieces = [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in itertools.pairwise(ends)]
    return [piece for piece in pieces if piece] or [""]


@st.composite
def with_odd_events(draw, events, odd) -> list[Any]:
    mixed = list(events)
    for event in draw(st.lists(st.sampled_from(odd), max_size=6)):
        mixed.insert(draw(st.integers(0, len(mixed))), copy.deepcopy(event))
    return mixed


# ---- OpenAI's chat completions ----


def chunk(delta: Any = None, finish: Any = None) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": choices}


USAGE = {"prompt_tokens": 9, "completion_tokens": None, "total_tokens": 21}
FILTERED = {"index": 0, "finish_reason": None, "content_filter_results": {"hate": {}}}
ODD_CHUNKS = [
    {},
    chunk() | {"choices": None},
    chunk() | {"choices": []},
    chunk() | {"choices": [], "usage": USAGE},
    chunk() | {"choices": [None]},
    chunk() | {"choices": [FILTERED], "id": "", "object": ""},
    chunk() | {"choices": [FILTERED | {"delta": None, "finish_reason": ""}]},
    chunk({"role": "assistant", "content": None, "tool_calls": None}),
    chunk({"content": "", "tool_calls": [None], "function_call": None, "refusal": ""}),
    chunk({"content": [], "tool_calls": [], "reasoning": None, "annotations": [None]}),
    {"id": "c1", "object": "chat.completion.chunk"},
]


def as_content(style: str, text: str) -> Any:
    block = {"type": "text", "text": text}
    return {"text": text, "list": [None, block], "block": block, "texts": [text, None]}[style]


@st.composite
def chat_calls(draw) -> list[dict[str, Any]]:
    """Return the deltas of all calls, in one way of identifying them."""
    ids = draw(st.sampled_from(["once", "always", "none", "empty", "late", "one for all"]))
    index = draw(st.sampled_from(["own", "zero", "none", "absent", "from one"]))
    whole = draw(st.sampled_from(["pieces", "whole", "object", "twice"]))
    if ids == "one for all":
        whole = "object" if index == "own" else "whole"
    late_name = draw(st.booleans()) and index in ("own", "from one")
    all_deltas = []
    for number, (name, input) in enumerate(CALLS):
        text = json.dumps(input, ensure_ascii=draw(st.booleans()))
        arguments = [input] if whole == "object" else [text]
        if whole == "pieces":
            arguments = draw(cut(text))
        named = min(1, len(arguments) - 1) if late_name else 0
        deltas = []
        for place, piece in enumerate(arguments):
            function = {"arguments": piece}
            if place == named:
                function["name"] = name
            call = {"function": function, "type": "function"}
            if index not in ("absent",):
                places = {"own": number, "zero": 0, "none": None, "from one": number + 1}
                call["index"] = places[index]
            if ids == "always" or (ids == "once" and place == 0):
                call["id"] = f"call_{number}"
            if ids == "late" and place == len(arguments) - 1:
                call["id"] = f"call_{number}"
            if ids in ("empty", "one for all"):
                call["id"] = "" if ids == "empty" else "call"
            deltas.append(call)
        if whole == "twice" and ids in ("once", "always"):
            deltas.append(deltas[0] | {"function": {"arguments": text}, "id": f"call_{number}"})
        all_deltas.append(deltas)
    named = ids == "always" or (index in ("own", "from one") and ids != "late")
    if named and draw(st.booleans()):  # interleaved calls
        return [call for step in _together(all_deltas) for call in step]
    return [call for deltas in all_deltas for call in deltas]


def _together(lists: list[list[Any]]) -> list[list[Any]]:
    longest = max(len(items) for items in lists)
    return [[items[n] for items in lists if n < len(items)] for n in range(longest)]


@st.composite
def chats(draw) -> list[dict[str, Any]]:
    style = draw(st.sampled_from(["text", "list", "block", "texts"]))
    field = draw(st.sampled_from(["reasoning_content", "reasoning", "thinking", "block"]))
    events = [chunk({"role": "assistant", "content": ""})]
    for piece in draw(cut(REASONING)):
        block = {"type": "thinking", "thinking": [{"type": "text", "text": piece}]}
        events.append(chunk({"content": [block]} if field == "block" else {field: piece}))
    events += [chunk({"content": as_content(style, piece)}) for piece in draw(cut(TEXT))]
    calls = draw(chat_calls())
    if draw(st.booleans()):
        events += [chunk({"tool_calls": [call]}) for call in calls]
    else:
        events.append(chunk({"tool_calls": [None, *calls]}))
    events.append(chunk({}, draw(st.sampled_from(["stop", "tool_calls", "STOP", "function_call"]))))
    numbering = draw(st.sampled_from(["one choice", "two choices", "chunks", "absent"]))
    for number, event in enumerate(events):
        choice = event["choices"][0]
        if numbering == "two choices":
            event["choices"].append({"index": 1, "delta": {"content": "other"}})
        elif numbering == "chunks":
            choice["index"] = number
        elif numbering == "absent":
            del choice["index"]
    return draw(with_odd_events(events, ODD_CHUNKS[:6] if numbering == "chunks" else ODD_CHUNKS))


@fuzzed
@given(events=chats(), form=st.sampled_from([lambda it: it, as_objects, of_client]))
def test_chat_variations_give_complete_answer(events, form, caplog) -> None:
    caplog.clear()
    parts, error = read(from_openai, [form(event) for event in events])
    assert (error, caplog.messages) == (None, [])
    check_whole(parts)


# ---- OpenAI's responses ----

ODD_EVENTS = [
    {"type": "response.in_progress", "response": None},
    {"type": "response.output_item.added", "item": None},
    {"type": "response.output_item.done"},
    {"type": "response.output_text.delta", "delta": None},
    {"type": "response.output_text.delta", "delta": [None]},
    {"type": "response.function_call_arguments.delta", "item_id": None, "delta": None},
    {"type": "response.an_event_of_tomorrow", "delta": 4},
    {"type": None},
    {},
]


@st.composite
def responses(draw) -> list[dict[str, Any]]:
    has = draw(st.fixed_dictionaries({
        "deltas": st.booleans(), "added": st.booleans(), "item": st.booleans(),
        "pieces": st.booleans(), "ids": st.booleans(),
    }))  # fmt: skip
    events = [
        {"type": "response.reasoning_text.delta", "delta": piece} for piece in draw(cut(REASONING))
    ]
    content = [{"type": "output_text", "text": TEXT}]
    message = {"type": "message", "id": "m1", "content": content}
    if has["deltas"]:
        for piece in draw(cut(TEXT)):
            events.append({"type": "response.output_text.delta", "delta": piece, "item_id": "m1"})
    events.append({"type": "response.output_text.done", "text": TEXT})
    events.append({"type": "response.output_item.done", "item": message})
    items: list[dict[str, Any]] = [message]
    for number, (name, input) in enumerate(CALLS):
        call = {"type": "function_call", "call_id": f"call_{number}", "name": name}
        call |= {"id": f"fc_{number}"}
        text = json.dumps(input)
        if has["added"] or not has["item"]:
            events.append({"type": "response.output_item.added", "item": call | {"arguments": ""}})
            for piece in draw(cut(text)) if has["pieces"] or not has["item"] else []:
                named = {"item_id": f"fc_{number}"} if has["ids"] else {}
                events.append(
                    {"type": "response.function_call_arguments.delta", "delta": piece, **named}
                )
        whole = call | {"arguments": draw(st.sampled_from([text, input]))}
        if has["item"]:
            events.append({"type": "response.output_item.done", "item": whole})
        items.append(whole)
    repeated = draw(st.sampled_from([None, [], items]))
    events.append({"type": "response.completed", "response": {"output": repeated, "usage": None}})
    return draw(with_odd_events(events, ODD_EVENTS))


@fuzzed
@given(events=responses(), form=st.sampled_from([lambda it: it, as_objects]))
def test_response_with_missing_events_is_complete(events, form, caplog) -> None:
    caplog.clear()
    parts, error = read(from_openai, [form(event) for event in events])
    assert (error, caplog.messages) == (None, [])
    check_whole(parts)
    assert parts[-1].reason == "tool-calls"


# Anthropic.

ODD_MESSAGES = [
    {"type": "ping"},
    {"type": "content_block_delta", "index": 0, "delta": None},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": None}},
    {"type": "content_block_start", "index": 9, "content_block": None},
    {"type": "content_block_stop", "index": None},
    {"type": "message_delta", "delta": None, "usage": None},
    {"type": "message_start", "message": {"usage": {"input_tokens": None}}},
    {"type": None},
    {},
]


@st.composite
def messages(draw) -> list[dict[str, Any]]:
    indexes = draw(st.sampled_from(["own", "zero", "none"]))
    stops, ends = draw(st.booleans()), draw(st.booleans())
    events: list[dict[str, Any]] = [{"type": "message_start", "message": {"usage": None}}]

    def block(number: int, start: dict[str, Any], deltas: list[dict[str, Any]]) -> None:
        place = {"own": {"index": number}, "zero": {"index": 0}, "none": {}}[indexes]
        events.append({"type": "content_block_start", "content_block": start, **place})
        events.extend({"type": "content_block_delta", "delta": delta, **place} for delta in deltas)
        if stops:
            events.append({"type": "content_block_stop", **place})

    thinking = [{"type": "thinking_delta", "thinking": piece} for piece in draw(cut(REASONING))]
    block(0, {"type": "thinking", "thinking": ""}, thinking)
    if draw(st.booleans()):
        block(1, {"type": "text", "text": TEXT}, [])
    else:
        text = [{"type": "text_delta", "text": piece} for piece in draw(cut(TEXT))]
        block(1, {"type": "text", "text": None}, text)
    for number, (name, input) in enumerate(CALLS):
        start = {"type": "tool_use", "name": name, "input": {}}
        if draw(st.booleans()):
            start["id"] = f"call_{number}"
        if draw(st.booleans()):
            block(number + 2, start | {"input": input}, [])
        else:
            given = [input] if draw(st.booleans()) else draw(cut(json.dumps(input)))
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in given]
            block(number + 2, start, deltas)
    events.append({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": None})
    if ends:
        events.append({"type": "message_stop"})
    # Where blocks have no index, a stop without one ends the current block.
    odd = [one for one in ODD_MESSAGES if one.get("type") != "content_block_stop"]
    return draw(with_odd_events(events, odd if indexes == "none" else ODD_MESSAGES))


@fuzzed
@given(events=messages(), form=st.sampled_from([lambda it: it, as_objects]))
def test_message_variations_give_complete_answer(events, form, caplog) -> None:
    caplog.clear()
    parts, error = read(from_anthropic, [form(event) for event in events])
    assert (error, caplog.messages) == (None, [])
    check_whole(parts)
    assert parts[-1].reason == "tool-calls"


# ---- LangChain ----


@st.composite
def chains(draw) -> list[Any]:
    ids = draw(st.sampled_from(["once", "none"]))
    indexes = draw(st.booleans()) or ids == "none"
    style = draw(st.sampled_from(["text", "list", "texts"]))
    events = [
        AIMessageChunk(content=[{"type": "reasoning", "reasoning": piece}])
        for piece in draw(cut(REASONING))
    ]
    for piece in draw(cut(TEXT)):
        content = as_content(style, piece)
        items = [item for item in content if item is not None] if style != "text" else content
        events.append(AIMessageChunk(content=items))
    calls = []
    for number, (name, input) in enumerate(CALLS):
        for place, piece in enumerate(draw(cut(json.dumps(input)))):
            calls.append({
                "index": number if indexes else None, "args": piece,
                "name": None if place else name,
                "id": f"call_{number}" if ids == "once" and not place else None,
            })  # fmt: skip
    odd: dict[str, Any] = {"usage_metadata": None, "response_metadata": {}}
    if draw(st.booleans()):
        events.append(AIMessageChunk.model_construct(content="", tool_call_chunks=calls, **odd))
    else:
        for call in calls:
            one = AIMessageChunk.model_construct(content="", tool_call_chunks=[None, call], **odd)
            events.append(one)
    empty = AIMessageChunk.model_construct(content=None, usage_metadata={}, response_metadata=None)
    mixed = draw(with_odd_events(events, [empty, AIMessageChunk(content=[])]))
    way = draw(st.sampled_from(["astream", "messages", "several modes", "events"]))
    if way == "messages":
        return [(event, {"langgraph_node": "agent"}) for event in mixed]
    if way == "several modes":
        return [("updates", {"agent": {}}), *(("messages", (event, {})) for event in mixed)]
    if way == "events":
        named = [
            {"event": "on_chat_model_stream", "run_id": "r", "data": {"chunk": event}}
            for event in mixed
        ]
        start = {"event": "on_chat_model_start", "run_id": "r", "data": None}
        end = {"event": "on_chat_model_end", "run_id": "r", "data": {"output": None}}
        return [start, *named, {"event": None}, {"event": "on_chat_model_stream"}, end]
    return mixed


@fuzzed
@given(events=chains())
def test_chain_variations_give_complete_answer(events, caplog) -> None:
    caplog.clear()
    parts, error = read(from_langchain, events)
    assert (error, caplog.messages) == (None, [])
    check_whole(parts)
    assert parts[-1].reason == "tool-calls"


# ---- mutated fields ----

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
