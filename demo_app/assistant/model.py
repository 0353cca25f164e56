"""Answer with a model that calls tools, over the OpenAI chat-completions API.

The response of each request is streamed. Tool calls in it are run, and their results are sent with
the next request, until the model answers without a tool call.
"""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import httpx

from demo_app.assistant.tools import Approve, Part, parse_call, use_tool, without_surrogates
from demo_app.stdlib_search.tools import TOOLS

MAX_QUESTION_CHARS = 2_000
MAX_ROUNDS = 6  # of tool calls; each round sends the whole conversation again
TIMEOUT_S = 60.0  # without a byte from the model
DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4o-mini"

_INSTRUCTIONS = """You answer questions about Python's standard library, from its sources.
Call search first, then read what you need; answer only from what they return. Be short, write
Markdown, show one small example, and name the module and line where the reader can look."""


class ModelError(Exception):
    """The model's API failed. The message may be shown to visitors: it never contains the key."""


def model_name() -> str | None:
    """Return the name of the model, or None if no key is set and answers are made offline."""
    if not os.environ.get("OPENAI_API_KEY", "").strip():
        return None
    return os.environ.get("OPENAI_MODEL") or DEFAULT_MODEL


async def answer_with_model(
    question: str,
    *,
    client_factory: Callable[[], httpx.AsyncClient] | None = None,
    approve: Approve | None = None,
) -> AsyncIterator[Part]:
    """Answer a question with a model that searches and reads the standard library.

    Args:
        question: The visitor's question, at most `MAX_QUESTION_CHARS` characters.
        client_factory: Creates the HTTP client, for example to set a proxy or other timeouts.
        approve: See `assistant.answer`.

    Yields:
        Parts. The last one is `finish`, or `error` with a message that never contains the key.
    """
    try:
        if len(question) > MAX_QUESTION_CHARS:
            limit = f"the limit is {MAX_QUESTION_CHARS:_}"
            raise ModelError(f"the question has {len(question):_} characters; {limit}")
        if not question.strip():
            raise ModelError("the question is empty")
        async with (
            (client_factory or _client)() as client,
            aclosing(_conversation(client, without_surrogates(question), approve)) as parts,
        ):
            async for part in parts:
                yield part
    except ModelError as error:
        yield {"type": "error", "message": str(error)}
    except httpx.TimeoutException:
        yield {"type": "error", "message": "the model's API did not answer in time; try again"}
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # Only the class of the error: its text can contain the header with the key.
        message = f"the model's API could not be reached ({type(error).__name__})"
        yield {"type": "error", "message": message}


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=httpx.Timeout(TIMEOUT_S, connect=10.0))


async def _conversation(
    client: httpx.AsyncClient, question: str, approve: Approve | None
) -> AsyncGenerator[Part, None]:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": _INSTRUCTIONS},
        {"role": "user", "content": question},
    ]
    usage: dict[str, int] = {}
    for number in range(MAX_ROUNDS + 1):
        last = number == MAX_ROUNDS
        response = _Response()
        async with aclosing(_events(client, messages, last=last)) as events:
            async for event in events:
                if text := response.add(event):
                    yield {"type": "text-delta", "text": text}
        if not response.reason:
            raise ModelError("the model's answer was cut off; try again")
        usage = {key: usage.get(key, 0) + count for key, count in response.usage.items()}
        if not response.calls:
            yield {"type": "finish", "reason": response.reason, "usage": usage or None}
            return
        if last:
            break
        messages.append(response.as_message())
        for raw in response.calls.values():
            async for part in use_tool(*parse_call(raw), approve):
                yield (result := part)
            content = json.dumps(result["output"])
            messages.append({"role": "tool", "tool_call_id": result["id"], "content": content})
    raise ModelError(f"the model gave no answer after {MAX_ROUNDS} rounds of tool calls")


class _Response:
    """The model's response to one request, assembled from the deltas of its events."""

    def __init__(self) -> None:
        self.text = ""
        self.reason = ""
        self.usage: dict[str, int] = {}
        self.calls: dict[int, dict[str, str]] = {}

    def add(self, event: dict[str, Any]) -> str:
        """Add one event and return its text."""
        counts = (event.get("usage") or {}).items()
        self.usage |= {key: count for key, count in counts if isinstance(count, int)}
        text = ""
        for choice in (event.get("choices") or [])[:1]:  # the last event has only the usage
            delta = choice.get("delta") or {}
            text = delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                self._add_call(call)
            self.reason = choice.get("finish_reason") or self.reason
        self.text += text
        return text

    def _add_call(self, delta: dict[str, Any]) -> None:
        # The id and the name are sent once, the arguments in pieces. Some servers omit the index.
        index = delta.get("index")
        if index is None:
            index = len(self.calls) if delta.get("id") else max(len(self.calls) - 1, 0)
        call = self.calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function = delta.get("function") or {}
        call["id"] = delta.get("id") or call["id"] or f"call_{index}"
        call["name"] = function.get("name") or call["name"]
        call["arguments"] += function.get("arguments") or ""

    def as_message(self) -> dict[str, Any]:
        """Return the response as a message for the next request."""
        calls = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["arguments"]},
            }
            for call in self.calls.values()
        ]
        return {"role": "assistant", "content": self.text or None, "tool_calls": calls}


async def _events(
    client: httpx.AsyncClient, messages: list[dict[str, Any]], *, last: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """Send one request and yield the events of the response.

    In the last round (`last`) the model may not call tools, so that it has to answer.
    """
    base_url = os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
    body = {
        "model": model_name() or DEFAULT_MODEL,
        "messages": messages,
        "tools": TOOLS,
        "tool_choice": "none" if last else "auto",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    url = f"{base_url.rstrip('/')}/chat/completions"
    headers = {"Authorization": f"Bearer {_api_key()}"}
    async with client.stream("POST", url, json=body, headers=headers) as response:
        if response.status_code != httpx.codes.OK:
            raise ModelError(_status_message(response.status_code, await response.aread()))
        async for data in _sse_data(response.aiter_bytes()):
            if data == "[DONE]":
                return
            yield _event(data)


def _api_key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        raise ModelError("OPENAI_API_KEY is not set")
    if not (key.isascii() and key.isprintable()):
        raise ModelError("OPENAI_API_KEY contains characters that are not printable ASCII")
    return key


def _status_message(status: int, body: bytes) -> str:
    if status in (401, 403):  # the API's own message quotes the key
        return f"the model's API refused the key (status {status}); check OPENAI_API_KEY"
    try:
        reason = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        reason = "no reason given"
    return f"the model's API answered with status {status}: {_without_key(reason)}"


def _without_key(text: str) -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    return (text.replace(key, "…") if key else text)[:300]


async def _sse_data(received: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of each event. The API sends one `data:` line for each event.

    Split lines at newlines only: httpx's `aiter_lines` also splits at U+2028, which JSON text may
    contain.
    """
    rest = b""
    async for piece in received:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].decode("utf-8", "replace").strip()


def _event(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        raise ModelError("the model's API sent an event that is not JSON") from None
    if not isinstance(event, dict):
        raise ModelError("the model's API sent an event that is not an object")
    if error := event.get("error"):
        reason = error.get("message") if isinstance(error, dict) else error
        raise ModelError(f"the model's API failed: {_without_key(str(reason))}")
    return event
