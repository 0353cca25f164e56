"""The tools of `library` as parts of an answer: a call, the leave for it, its result."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from demo_app.stdlib_search.tools import ToolError, call_tool

Part = dict[str, Any]
Allow = Callable[[str], Awaitable[bool]]


def tool_call(call_id: str, name: str, arguments: dict[str, Any]) -> Part:
    """Return a call as a part."""
    return {"type": "tool-call", "id": call_id, "name": name, "input": arguments}


def parsed(raw: dict[str, str]) -> tuple[Part, str]:
    """Return a model's call as a part, and what is wrong with its arguments."""
    try:
        arguments = json.loads(raw["arguments"] or "{}")
    except ValueError:
        return tool_call(raw["id"], raw["name"], {}), "the arguments are not JSON"
    if not isinstance(arguments, dict):
        return tool_call(raw["id"], raw["name"], {}), "the arguments are not an object"
    return tool_call(raw["id"], raw["name"], arguments), ""


async def use_tool(call: Part, mistake: str, allow: Allow | None) -> AsyncIterator[Part]:
    """Give the call, the question whether it may be made, and its result, which comes last."""
    yield call
    if mistake:
        yield _failed(call, mistake)
        return
    if allow is not None and call["name"] == "read":
        yield {"type": "tool-approval", "id": call["id"], "state": "requested"}
        approved = await allow(call["id"])
        state = "approved" if approved else "denied"
        yield {"type": "tool-approval", "id": call["id"], "state": state}
        if not approved:
            yield _failed(call, "the visitor does not want this file to be read")
            return
    yield await run_tool(call)


async def run_tool(call: Part) -> Part:
    """Make a call and return its result."""
    try:
        # In a thread: the first search builds the index, which takes seconds.
        output = await asyncio.to_thread(call_tool, call["name"], call["input"])
    except ToolError as error:
        return _failed(call, str(error))
    return {"type": "tool-result", "id": call["id"], "output": output, "is_error": False}


def _failed(call: Part, mistake: str) -> Part:
    return {"type": "tool-result", "id": call["id"], "output": mistake, "is_error": True}


def clean(question: str) -> str:
    """Replace lone surrogates, which a visitor can send and no UTF-8 can hold."""
    return question.encode("utf-8", "replace").decode()
