"""Answers of models in the shapes that servers write them."""

import asyncio
import copy
import itertools
import json
from typing import Any

from hypothesis import strategies as st

from gateway import streams
from gateway.integrations._model_streams import ModelStreamError
from gateway.sdk.parts import (
    Part,
)

ANSWER = streams.define("odd-answer", Part)
TEXT = "Grüße 👩‍🚀 {"
REASONING = "Hm 🤔."
CALLS = [
    ("weather", {"city": "Zürich 🌧"}),
    ("weather", {"city": "Rome", "days": [1, {"n": 2}]}),
    ("now", {}),
]


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


def chunk(delta: Any = None, finish: Any = None) -> dict[str, Any]:
    choices = [{"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": choices}


USAGE = {"prompt_tokens": 9, "completion_tokens": None, "total_tokens": 21}
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
