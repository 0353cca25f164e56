"""Tool calls as parts of an answer: the call, its approval, its result."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from demo_app.stdlib_search.tools import ToolError, call_tool

Part = dict[str, Any]
Approve = Callable[[str], Awaitable[bool]]  # takes the id of a tool call


def tool_call(call_id: str, name: str, arguments: dict[str, Any]) -> Part:
    """Return a tool call as a part."""
    return {"type": "tool-call", "id": call_id, "name": name, "input": arguments}


def parse_call(raw: dict[str, str]) -> tuple[Part, str]:
    """Return a model's tool call as a part, and an error message if its arguments are invalid."""
    try:
        arguments = json.loads(raw["arguments"] or "{}")
    except ValueError:
        return tool_call(raw["id"], raw["name"], {}), "the arguments are not JSON"
    if not isinstance(arguments, dict):
        return tool_call(raw["id"], raw["name"], {}), "the arguments are not an object"
    return tool_call(raw["id"], raw["name"], arguments), ""


async def use_tool(call: Part, error: str, approve: Approve | None) -> AsyncIterator[Part]:
    """Run a tool call, after its approval if that is needed.

    Args:
        call: The call.
        error: Why the call is invalid; "" if it is valid.
        approve: Called before a file is read. None approves every call.

    Yields:
        The call, its approval if one was needed, and its result, which is last.
    """
    yield call
    if error:
        yield _failed(call, error)
        return
    if approve is not None and call["name"] == "read":
        yield {"type": "tool-approval", "id": call["id"], "state": "requested"}
        approved = await approve(call["id"])
        state = "approved" if approved else "denied"
        yield {"type": "tool-approval", "id": call["id"], "state": state}
        if not approved:
            yield _failed(call, "the visitor rejected this call")
            return
    yield await run_tool(call)


async def run_tool(call: Part) -> Part:
    """Run a tool call and return its result as a part."""
    try:
        # In a thread, because the first search builds the index, which takes seconds.
        output = await asyncio.to_thread(call_tool, call["name"], call["input"])
    except ToolError as error:
        return _failed(call, str(error))
    return {"type": "tool-result", "id": call["id"], "output": output, "is_error": False}


def _failed(call: Part, error: str) -> Part:
    return {"type": "tool-result", "id": call["id"], "output": error, "is_error": True}


def without_surrogates(question: str) -> str:
    """Replace lone surrogates. A browser can send them, but UTF-8 cannot encode them."""
    return question.encode("utf-8", "replace").decode()
