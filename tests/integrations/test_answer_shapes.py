"""Answers in the variations of real servers, and in mutated ones.

The first half writes one answer like the servers of a provider: with or without ids, one index for
all calls, a list as content, half an emoji, empty chunks. Every combination must give the same
parts. The second half changes any field of any event: the answer may lose the changed field, but
nothing else, and no event may end it.
"""

import json
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessageChunk
from openai.types.chat import ChatCompletionChunk

from gateway.integrations.anthropic import from_anthropic
from gateway.integrations.langchain import from_langchain
from gateway.integrations.openai import from_openai
from gateway.sdk.parts import (
    Finish,
    ReasoningDelta,
    TextDelta,
    ToolCall,
)
from tests.support.sdk.model_answers import (
    CALLS,
    REASONING,
    TEXT,
    USAGE,
    chunk,
    cut,
    messages,
    of,
    read,
    responses,
    with_odd_events,
)

fuzzed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PLAIN = ("arguments", "input", "partial_json")  # values that clients pass unchanged


def as_objects(value: Any) -> Any:
    if isinstance(value, dict):
        fields = value.items()
        return SimpleNamespace(**{n: v if n in PLAIN else as_objects(v) for n, v in fields})
    return [as_objects(item) for item in value] if isinstance(value, list) else value


def of_client(value: Any) -> Any:
    return ChatCompletionChunk.construct(**value) if isinstance(value, dict) else value


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


# OpenAI's chat completions


@fuzzed
@given(events=chats(), form=st.sampled_from([lambda it: it, as_objects, of_client]))
def test_chat_variations_give_complete_answer(events, form, caplog) -> None:
    caplog.clear()
    parts, error = read(from_openai, [form(event) for event in events])
    assert (error, caplog.messages) == (None, [])
    check_whole(parts)


# OpenAI's responses


@fuzzed
@given(events=responses(), form=st.sampled_from([lambda it: it, as_objects]))
def test_response_with_missing_events_is_complete(events, form, caplog) -> None:
    caplog.clear()
    parts, error = read(from_openai, [form(event) for event in events])
    assert (error, caplog.messages) == (None, [])
    check_whole(parts)
    assert parts[-1].reason == "tool-calls"


# Anthropic.


@fuzzed
@given(events=messages(), form=st.sampled_from([lambda it: it, as_objects]))
def test_message_variations_give_complete_answer(events, form, caplog) -> None:
    caplog.clear()
    parts, error = read(from_anthropic, [form(event) for event in events])
    assert (error, caplog.messages) == (None, [])
    check_whole(parts)
    assert parts[-1].reason == "tool-calls"


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


# LangChain


@fuzzed
@given(events=chains())
def test_chain_variations_give_complete_answer(events, caplog) -> None:
    caplog.clear()
    parts, error = read(from_langchain, events)
    assert (error, caplog.messages) == (None, [])
    check_whole(parts)
    assert parts[-1].reason == "tool-calls"
