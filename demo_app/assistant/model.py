"""Let a model answer: the OpenAI chat-completions API, streamed, with the tools of `library`."""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import httpx

from demo_app.assistant.tools import Allow, Part, clean, parsed, use_tool
from demo_app.stdlib_search.tools import TOOLS

MAX_QUESTION_CHARS = 2_000
MAX_ROUNDS = 6  # of tool calls; each costs one request with all that was said before
TIMEOUT_S = 60.0  # without a byte from the model
DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4o-mini"

_INSTRUCTIONS = """You answer questions about Python's standard library, from its sources.
Call search first, then read what you need; answer only from what they return. Be short, write
Markdown, show one small example, and name the module and line where the reader can look."""


class ModelError(Exception):
    """The model's API could not be used; the message is fit for a visitor and holds no secret."""


def model_name() -> str | None:
    """Return the model that will answer, or None where the offline answerer does."""
    if not os.environ.get("OPENAI_API_KEY", "").strip():
        return None
    return os.environ.get("OPENAI_MODEL") or DEFAULT_MODEL


async def answer_with_model(
    question: str,
    *,
    client_factory: Callable[[], httpx.AsyncClient] | None = None,
    allow: Allow | None = None,
) -> AsyncIterator[Part]:
    """Let a model answer with the tools of `library`.

    Args:
        question: What the visitor asks, at most `MAX_QUESTION_CHARS`.
        client_factory: Makes the HTTP client, where a proxy or other limits are wanted.
        allow: See `assistant.answer`.

    Yields:
        Parts; the last one is `finish`, or `error` with a message that never holds the key.
    """
    try:
        if len(question) > MAX_QUESTION_CHARS:
            limit = f"the limit is {MAX_QUESTION_CHARS:_}"
            raise ModelError(f"the question has {len(question):_} characters; {limit}")
        if not question.strip():
            raise ModelError("the question is empty")
        async with (
            (client_factory or _client)() as client,
            aclosing(_converse(client, clean(question), allow)) as parts,
        ):
            async for part in parts:
                yield part
    except ModelError as error:
        yield {"type": "error", "message": str(error)}
    except httpx.TimeoutException:
        yield {"type": "error", "message": "the model's API did not answer in time; try again"}
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # Only the kind of error: its text can hold the header with the key.
        message = f"the model's API could not be reached ({type(error).__name__})"
        yield {"type": "error", "message": message}


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=httpx.Timeout(TIMEOUT_S, connect=10.0))


async def _converse(
    client: httpx.AsyncClient, question: str, allow: Allow | None
) -> AsyncGenerator[Part, None]:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": _INSTRUCTIONS},
        {"role": "user", "content": question},
    ]
    usage: dict[str, int] = {}
    for number in range(MAX_ROUNDS + 1):
        last = number == MAX_ROUNDS
        turn = _Turn()
        async with aclosing(_events(client, messages, last=last)) as events:
            async for event in events:
                if text := turn.add(event):
                    yield {"type": "text-delta", "text": text}
        if not turn.reason:
            raise ModelError("the model's answer was cut off; try again")
        usage = {key: usage.get(key, 0) + count for key, count in turn.usage.items()}
        if not turn.calls:
            yield {"type": "finish", "reason": turn.reason, "usage": usage or None}
            return
        if last:
            break
        messages.append(turn.as_message())
        for raw in turn.calls.values():
            async for part in use_tool(*parsed(raw), allow):
                yield (result := part)
            content = json.dumps(result["output"])
            messages.append({"role": "tool", "tool_call_id": result["id"], "content": content})
    raise ModelError(f"the model called tools {MAX_ROUNDS} times and came to no answer")


class _Turn:
    """What the model says in one request, put together from its deltas."""

    def __init__(self) -> None:
        self.text = ""
        self.reason = ""
        self.usage: dict[str, int] = {}
        self.calls: dict[int, dict[str, str]] = {}

    def add(self, event: dict[str, Any]) -> str:
        """Take one event and return the text in it."""
        counts = (event.get("usage") or {}).items()
        self.usage |= {key: count for key, count in counts if isinstance(count, int)}
        text = ""
        for choice in (event.get("choices") or [])[:1]:  # the last event has none, only the usage
            delta = choice.get("delta") or {}
            text = delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                self._add_call(call)
            self.reason = choice.get("finish_reason") or self.reason
        self.text += text
        return text

    def _add_call(self, delta: dict[str, Any]) -> None:
        # The id and the name come once, the arguments in pieces. Some servers leave out the index.
        index = delta.get("index")
        if index is None:
            index = len(self.calls) if delta.get("id") else max(len(self.calls) - 1, 0)
        call = self.calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        function = delta.get("function") or {}
        call["id"] = delta.get("id") or call["id"] or f"call_{index}"
        call["name"] = function.get("name") or call["name"]
        call["arguments"] += function.get("arguments") or ""

    def as_message(self) -> dict[str, Any]:
        """Return the turn as the API wants to hear it again."""
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
    """Ask the model once and give the events of its answer; on the last round without tools."""
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
            raise ModelError(_refusal(response.status_code, await response.aread()))
        async for data in _sse_data(response.aiter_bytes()):
            if data == "[DONE]":
                return
            yield _event(data)


def _api_key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key:
        raise ModelError("OPENAI_API_KEY is not set")
    if not (key.isascii() and key.isprintable()):
        raise ModelError("OPENAI_API_KEY holds characters that no key has")
    return key


def _refusal(status: int, body: bytes) -> str:
    if status in (401, 403):  # the API's own message quotes the key
        return f"the model's API refused the key (status {status}); check OPENAI_API_KEY"
    try:
        said = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        said = "no reason given"
    return f"the model's API answered with status {status}: {_without_key(said)}"


def _without_key(text: str) -> str:
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    return (text.replace(key, "…") if key else text)[:300]


async def _sse_data(received: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Give the data of each event; the API sends one `data:` line an event.

    Lines end at a newline only: httpx's own lines also end at U+2028, which JSON may hold.
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
        said = error.get("message") if isinstance(error, dict) else error
        raise ModelError(f"the model's API failed: {_without_key(str(said))}")
    return event
