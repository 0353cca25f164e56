"""Answer a question about Python's standard library as a stream of parts.

Two answerers, one form. `answer_offline` needs neither key nor network: it calls the tools of
`library` and composes its answer from what they return. `answer_with_model` lets a model call the
same tools over the OpenAI chat-completions API. `answer` picks by the environment:

    OPENAI_API_KEY    with it a model answers
    OPENAI_BASE_URL   default https://api.openai.com/v1
    OPENAI_MODEL      default gpt-4o-mini

Parts are plain dicts, told apart by `type`: `text-delta` (text), `tool-call` (id, name, input),
`tool-approval` (id, state), `tool-result` (id, output, is_error), `error` (message), `finish`
(reason, usage). A stream ends with `finish` or with `error`.
"""

import asyncio
import inspect
import json
import os
import re
import textwrap
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import httpx

from demo_app.library import MAX_QUERY_CHARS, TOOLS, ToolError, call_tool

Part = dict[str, Any]
Allow = Callable[[str], Awaitable[bool]]

MAX_QUESTION_CHARS = 2_000
MAX_ROUNDS = 6  # of tool calls; each costs one request with all that was said before
TIMEOUT_S = 60.0  # without a byte from the model
DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_MODEL = "gpt-4o-mini"

_HITS = 6
_RELATED = 4
_CODE_LINES = 16  # of a definition, below its docstring
_DOC_LINES = 30
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


def answer(question: str, *, allow: Allow | None = None) -> AsyncIterator[Part]:
    """Answer with a model where there is a key, else offline.

    Args:
        question: What the visitor asks.
        allow: Asked with a call's id before a file is read; None: reading needs no leave.
    """
    if model_name():
        return answer_with_model(question, allow=allow)
    return answer_offline(question, allow=allow)


def _clean(question: str) -> str:
    """Replace lone surrogates, which a visitor can send and no UTF-8 can hold."""
    return question.encode("utf-8", "replace").decode()


# Offline.


async def answer_offline(
    question: str, *, delay_s: float = 0.02, allow: Allow | None = None
) -> AsyncIterator[Part]:
    """Search, read the best hits and compose an answer from what they say.

    Args:
        question: What the visitor asks; no more than a search's limit is looked at.
        delay_s: Seconds between two pieces of text.
        allow: See `answer`.

    Yields:
        Parts; the last one is `finish`.
    """
    query = _clean(question).strip()[:MAX_QUERY_CHARS]
    found: list[dict[str, Any]] = []
    if query:
        call = _tool_call("call_1", "search", {"query": query, "limit": _HITS})
        yield call
        result = await _run_tool(call)
        yield result
        found = [] if result["is_error"] else result["output"]
    sources: list[str] = []
    for number, hit in enumerate(_worth_reading(found), 2):
        call = _tool_call(f"call_{number}", "read", _place(hit))
        async for part in _use_tool(call, "", allow):
            yield (result := part)
        sources.append("" if result["is_error"] else result["output"]["text"])
    text = _compose(found, sources) if found else _nothing(query)
    for piece in re.findall(r"\s*\S+\s*", text):
        yield {"type": "text-delta", "text": piece}
        await asyncio.sleep(delay_s)
    yield {"type": "finish", "reason": "stop"}


def _worth_reading(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the best hit, and the second one if it is about as good and stands elsewhere."""
    best, second = found[:1], found[1:2]
    if second and (
        second[0]["score"] < 0.75 * best[0]["score"] or _place(second[0]) == _place(*best)
    ):
        second = []
    return [hit for hit in best + second if hit["line"] > 0]  # C code has no lines to read


def _place(hit: dict[str, Any]) -> dict[str, Any]:
    """Return where to read a definition; of a module, the docstring and what comes after it."""
    lines = hit["end_line"] - hit["line"] + (40 if hit["kind"] == "module" else 1)
    return {"module": hit["module"], "start_line": hit["line"], "max_lines": min(lines, 80)}


def _nothing(query: str) -> str:
    if not query:
        return "Ask something about Python's standard library, for example: what is a deque?"
    shown = " ".join(query.replace("`", "").split())[:120]
    return (
        f"I found nothing in the standard library's sources for “{shown}”. "
        "I only match the words of a question with names and docstrings; try the name of a "
        "module or a function, or other words for the same thing."
    )


def _compose(found: list[dict[str, Any]], sources: list[str]) -> str:
    read = {_key(hit): text for hit, text in zip(_worth_reading(found), sources, strict=True)}
    best = found[0]
    blocks = [_headline(best), *_explained(best, read.get(_key(best), ""))]
    for hit in found[1:2]:
        if _key(hit) in read:
            blocks += [f"**Also close:** {_headline(hit)}", *_code(hit, read[_key(hit)], 8)]
    related = [hit for hit in found[1:] if _key(hit) not in read and _is_related(hit, best)]
    if related:
        blocks.append("**Related**\n\n" + "\n".join(_bullet(hit) for hit in related[:_RELATED]))
    return "\n\n".join(blocks) + "\n"


def _key(hit: dict[str, Any]) -> tuple[str, str, int]:
    return hit["module"], hit["name"], hit["line"]


def _is_related(hit: dict[str, Any], best: dict[str, Any]) -> bool:
    public = not any(part.startswith("_") for part in _name(hit).split("."))
    near: bool = hit["score"] >= 0.2 * min(best["score"], 60)  # a hit by name scores far above 60
    return public and near and bool(hit["summary"])


def _headline(hit: dict[str, Any]) -> str:
    where = f"`{hit['module']}`, line {hit['line']}" if hit["line"] else f"`{hit['module']}`, in C"
    if hit["kind"] == "module":
        return f"**`{hit['module']}`** is the module to look at ({where})."
    return f"**`{_name(hit)}`** is a {hit['kind']} of the standard library ({where})."


def _name(hit: dict[str, Any]) -> str:
    if hit["kind"] == "module":
        return str(hit["module"])
    return str(hit["name"]) if hit["module"] == "builtins" else f"{hit['module']}.{hit['name']}"


def _explained(hit: dict[str, Any], source: str) -> list[str]:
    blocks = []
    if hit["kind"] != "module":
        indent = "    "
        lines = textwrap.wrap(hit["signature"], 88, subsequent_indent=indent)
        blocks.append(_fence("python", *lines))
    doc = _docstring(source) or hit["summary"]
    if doc:
        lines = doc.splitlines()
        more = [f"… ({len(lines) - _DOC_LINES} more lines)"] if len(lines) > _DOC_LINES else []
        blocks += ["Its documentation says:", _fence("text", *lines[:_DOC_LINES], *more)]
    return blocks + _code(hit, source, _CODE_LINES)


def _code(hit: dict[str, Any], source: str, max_lines: int) -> list[str]:
    """Show how it begins: the signature and, without the docstring, the first lines."""
    if not source:
        return []
    code = textwrap.dedent(_DOCSTRING.sub("", source, count=1)).strip("\n").splitlines()
    dots = "..." if hit["kind"] == "module" else "    ..."
    more = [dots] if len(code) > max_lines or _is_cut(hit, source) else []
    shown = _fence("python", *code[:max_lines], *more)
    return [f"From `{hit['module']}`, line {hit['line']}:", shown]


def _is_cut(hit: dict[str, Any], source: str) -> bool:
    shown = len(source.splitlines())
    return shown < int(hit["end_line"]) - int(hit["line"]) + 1


_DOCSTRING = re.compile(r"""^[ \t]*[rRuU]?(\"{3}|'{3})(.*?)\1[ \t]*\n*""", re.DOTALL | re.MULTILINE)


def _docstring(source: str) -> str:
    match = _DOCSTRING.search(source)
    return inspect.cleandoc(match[2]) if match else ""


def _fence(language: str, *lines: str) -> str:
    text = "\n".join(lines)
    fence = "````" if "```" in text else "```"
    return f"{fence}{language}\n{text}\n{fence}"


def _bullet(hit: dict[str, Any]) -> str:
    summary = textwrap.shorten(hit["summary"], 110, placeholder=" …")
    line = f", line {hit['line']}" if hit["line"] else ""
    return f"- `{_name(hit)}`{line}: {_escape(summary)}"


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]])", r"\\\1", text)


# With a model.


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
        allow: See `answer`.

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
            aclosing(_converse(client, _clean(question), allow)) as parts,
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
            async for part in _use_tool(*_parsed(raw), allow):
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


# Tools.


def _tool_call(call_id: str, name: str, arguments: dict[str, Any]) -> Part:
    return {"type": "tool-call", "id": call_id, "name": name, "input": arguments}


def _parsed(raw: dict[str, str]) -> tuple[Part, str]:
    """Return a model's call as a part, and what is wrong with its arguments."""
    try:
        arguments = json.loads(raw["arguments"] or "{}")
    except ValueError:
        return _tool_call(raw["id"], raw["name"], {}), "the arguments are not JSON"
    if not isinstance(arguments, dict):
        return _tool_call(raw["id"], raw["name"], {}), "the arguments are not an object"
    return _tool_call(raw["id"], raw["name"], arguments), ""


async def _use_tool(call: Part, mistake: str, allow: Allow | None) -> AsyncIterator[Part]:
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
    yield await _run_tool(call)


async def _run_tool(call: Part) -> Part:
    try:
        # In a thread: the first search builds the index, which takes seconds.
        output = await asyncio.to_thread(call_tool, call["name"], call["input"])
    except ToolError as error:
        return _failed(call, str(error))
    return {"type": "tool-result", "id": call["id"], "output": output, "is_error": False}


def _failed(call: Part, mistake: str) -> Part:
    return {"type": "tool-result", "id": call["id"], "output": mistake, "is_error": True}
