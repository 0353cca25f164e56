"""The assistant: offline, and with a model behind an HTTP server with the API of OpenAI."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from demo_app.assistant import answer
from demo_app.assistant.model import answer_with_model, model_name
from demo_app.assistant.offline import answer_offline
from demo_app.assistant.tools import Part
from demo_app.stdlib_search.tools import TOOLS

KEY = "sk-test-very-secret"


async def collect(parts: AsyncIterator[Part]) -> list[Part]:
    return [part async for part in parts]


def text_of(parts: list[Part]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text-delta")


def types_of(parts: list[Part]) -> list[str]:
    """Return the types of the parts; consecutive text deltas count once."""
    types: list[str] = []
    for part in parts:
        if part["type"] != "text-delta" or types[-1:] != ["text-delta"]:
            types.append(part["type"])
    return types


# ---- offline ----


async def test_offline_answer_calls_tools_and_quotes_results() -> None:
    parts = await collect(answer_offline("find the largest items in a list", delay_s=0))
    assert types_of(parts) == [
        "tool-call",
        "tool-result",
        "tool-call",
        "tool-result",
        "text-delta",
        "finish",
    ]
    search, found, read, excerpt = parts[:4]
    assert (search["name"], read["name"]) == ("search", "read")
    assert (search["id"], read["id"]) == (found["id"], excerpt["id"])
    assert read["input"]["module"] == "heapq"
    assert excerpt["output"]["text"].startswith("def nlargest(")
    text = text_of(parts)
    assert "heapq.nlargest(n, iterable, key=None)" in text
    assert "Equivalent to:  sorted(iterable, key=key, reverse=True)[:n]" in text
    assert f"line {read['input']['start_line']}" in text
    assert parts[-1] == {"type": "finish", "reason": "stop"}
    json.dumps(parts)


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("what is a deque", "collections.deque([iterable[, maxlen]])"),
        ("temporary directory", "with TemporaryDirectory() as tmpdir:"),
        ("round a number", "Round a number to a given precision"),
        ("merge two sorted lists", "assumes that each of\nthe input streams is already sorted"),
        ("how does functools.lru_cache work", "Least-recently-used cache decorator."),
        ("read a csv file", "**`csv`** is the module to look at"),
    ],
)
async def test_offline_answer_contains_documentation(question: str, expected: str) -> None:
    parts = await collect(answer_offline(question, delay_s=0))
    text = text_of(parts)
    assert expected in text
    assert text.count("```") % 2 == 0
    assert not any(part.get("is_error") for part in parts)


async def test_offline_answer_reports_no_results() -> None:
    parts = await collect(answer_offline("`best` pizza\nrecipe", delay_s=0))
    assert types_of(parts) == ["tool-call", "tool-result", "text-delta", "finish"]
    assert "I found nothing" in text_of(parts)
    assert "“best pizza recipe”" in text_of(parts)


@pytest.mark.parametrize(
    "question", ["", "  \n ", "x" * 100_000, "\0", "\ud800 deque", "*" * 50, "heapq " * 500]
)
async def test_offline_answer_finishes_for_any_question(question: str) -> None:
    parts = await collect(answer_offline(question, delay_s=0))
    assert parts[-1] == {"type": "finish", "reason": "stop"}
    assert len(text_of(parts)) < 10_000
    assert json.dumps(parts, ensure_ascii=False).encode()


async def test_offline_text_is_sent_in_pieces_with_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def note(delay_s: float) -> None:
        waits.append(delay_s)

    monkeypatch.setattr(asyncio, "sleep", note)
    parts = await collect(answer_offline("pizza", delay_s=0.5))
    pieces = [part for part in parts if part["type"] == "text-delta"]
    assert len(pieces) > 20
    assert waits == [0.5] * len(pieces)


# ---- with a model ----


class FakeModel:
    """A chat-completions API that answers from a script, with one entry for each request."""

    def __init__(self) -> None:
        self.script: list[Response | list[Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []

    async def complete(self, request: Request) -> Response:
        self.requests.append(await request.json())
        self.keys.append(request.headers["authorization"])
        entry = self.script.pop(0)
        if isinstance(entry, Response):
            return entry
        return StreamingResponse(self._events(entry), media_type="text/event-stream")

    async def _events(self, events: list[Any]) -> AsyncIterator[bytes]:
        for event in events:
            data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
            line = f"data: {data}\n\n".encode()
            yield line[:7]  # two chunks, as a network may deliver them
            await asyncio.sleep(0)
            yield line[7:]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[FakeModel, str]]:
    model = FakeModel()
    app = Starlette(routes=[Route("/v1/chat/completions", model.complete, methods=["POST"])])
    listener = socket.create_server(("127.0.0.1", 0))
    runner = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]})
    thread.start()
    while not runner.started:
        time.sleep(0.01)
    yield model, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    runner.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def model(server: tuple[FakeModel, str], monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    fake, base_url = server
    fake.script, fake.requests, fake.keys = [], [], []
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", base_url + "/")
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    return fake


def text(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def call(index: int | None, arguments: str, call_id: str = "", name: str = "") -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    piece: dict[str, Any] = {"function": function}
    piece |= {"id": call_id, "type": "function"} if call_id else {}
    piece |= {"index": index} if index is not None else {}
    return {"choices": [{"index": 0, "delta": {"tool_calls": [piece]}, "finish_reason": None}]}


def end(reason: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"choices": [], "usage": counts | {"prompt_tokens_details": {"cached_tokens": 0}}}


async def test_model_answer_has_text_and_usage(model: FakeModel) -> None:
    model.script = [[text("Hello "), text("line\u2028end"), end("stop"), usage(7, 2), "[DONE]"]]
    parts = await collect(answer_with_model("hi"))
    assert parts == [
        {"type": "text-delta", "text": "Hello "},
        {"type": "text-delta", "text": "line\u2028end"},
        {
            "type": "finish",
            "reason": "stop",
            "usage": {"prompt_tokens": 7, "completion_tokens": 2},
        },
    ]
    assert model.keys == [f"Bearer {KEY}"]
    assert model.requests[0]["model"] == "gpt-4o-mini"
    assert model.requests[0]["messages"][-1] == {"role": "user", "content": "hi"}
    assert model.requests[0]["tools"] == TOOLS


async def test_tool_call_deltas_are_joined_and_results_sent(model: FakeModel) -> None:
    first = [
        text("Let me look. "),
        call(0, "", "call_a", "search"),
        call(0, '{"que'),
        call(1, "", "call_b", "read"),
        call(0, 'ry": "nlargest"}'),
        call(1, '{"module": "heapq", "max_lines": 2}'),
        end("tool_calls"),
        usage(10, 5),
        "[DONE]",
    ]
    model.script = [first, [text("Use heapq."), end("stop"), usage(20, 3), "[DONE]"]]
    parts = await collect(answer_with_model("largest?"))
    calls = [part for part in parts if part["type"] == "tool-call"]
    results = [part for part in parts if part["type"] == "tool-result"]
    assert [(part["id"], part["name"], part["input"]) for part in calls] == [
        ("call_a", "search", {"query": "nlargest"}),
        ("call_b", "read", {"module": "heapq", "max_lines": 2}),
    ]
    assert results[0]["output"][0]["module"] == "heapq"
    assert results[1]["output"]["end_line"] == 2
    assert not any(part["is_error"] for part in results)
    assert parts[-1]["usage"] == {"prompt_tokens": 30, "completion_tokens": 8}
    response, *tool_messages = model.requests[1]["messages"][2:]
    assert response["content"] == "Let me look. "
    assert [item["id"] for item in response["tool_calls"]] == ["call_a", "call_b"]
    assert [item["tool_call_id"] for item in tool_messages] == ["call_a", "call_b"]
    assert json.loads(tool_messages[1]["content"]) == results[1]["output"]


async def test_tool_calls_without_index_are_joined(model: FakeModel) -> None:
    first = [
        call(None, '{"module": ', "call_a", "read"),
        call(None, '"heapq", "max_lines": 1}'),
        call(None, '{"module": "bisect", "max_lines": 1}', "call_b", "read"),
        end("tool_calls"),
    ]
    model.script = [first, [text("ok"), end("stop")]]
    parts = await collect(answer_with_model("x"))
    modules = [part["input"]["module"] for part in parts if part["type"] == "tool-call"]
    assert modules == ["heapq", "bisect"]
    assert parts[-1] == {"type": "finish", "reason": "stop", "usage": None}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("read", '{"module": "heapq"', "the arguments are not JSON"),
        ("read", '["heapq"]', "the arguments are not an object"),
        ("read", '{"module": "/etc/passwd"}', "no module '/etc/passwd'"),
        ("rm", "{}", "unknown tool 'rm'"),
    ],
)
async def test_invalid_tool_call_returns_error_to_model(
    model: FakeModel, name: str, arguments: str, message: str
) -> None:
    model.script = [
        [call(0, arguments, "call_a", name), end("tool_calls")],
        [text("sorry"), end("stop")],
    ]
    parts = await collect(answer_with_model("x"))
    assert types_of(parts) == ["tool-call", "tool-result", "text-delta", "finish"]
    assert parts[1]["is_error"] is True
    assert message in parts[1]["output"]
    assert message in json.loads(model.requests[1]["messages"][-1]["content"])


async def test_model_that_only_calls_tools_ends_with_error(model: FakeModel) -> None:
    entry = [
        call(0, '{"module": "heapq", "max_lines": 1}', "call_a", "read"),
        end("tool_calls"),
    ]
    model.script = [list(entry) for _ in range(20)]
    parts = await collect(answer_with_model("x"))
    assert parts[-1]["type"] == "error"
    assert "no answer after 6 rounds" in parts[-1]["message"]
    assert sum(part["type"] == "tool-call" for part in parts) == 6
    choices = [request["tool_choice"] for request in model.requests]
    assert choices == ["auto"] * 6 + ["none"]


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (JSONResponse({"error": {"message": f"bad key {KEY}"}}, 401), "refused the key"),
        (JSONResponse({"error": {"message": f"slow down, {KEY}"}}, 429), "429: slow down, …"),
        (Response("<html>", 502), "status 502: no reason given"),
        (JSONResponse([1], 500), "status 500: no reason given"),
        ([text("half")], "cut off"),
        ([text("half"), "{oops"], "not JSON"),
        (["[1]"], "not an object"),
        ([{"error": {"message": f"overloaded {KEY}"}}], "failed: overloaded …"),
    ],
)
async def test_error_part_does_not_contain_key(
    model: FakeModel, response: Response | list[Any], message: str
) -> None:
    model.script = [response]
    parts = await collect(answer_with_model("x"))
    assert parts[-1]["type"] == "error"
    assert message in parts[-1]["message"]
    assert KEY not in json.dumps(parts)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OPENAI_BASE_URL", "http://127.0.0.1:1/v1", "could not be reached (ConnectError)"),
        ("OPENAI_BASE_URL", "nonsense", "could not be reached (UnsupportedProtocol)"),
        ("OPENAI_BASE_URL", "http://a:b:c", "could not be reached (InvalidURL)"),
        ("OPENAI_API_KEY", "sk-ü", "not printable ASCII"),
        ("OPENAI_API_KEY", f"{KEY}\nx", "not printable ASCII"),
        ("OPENAI_API_KEY", "", "OPENAI_API_KEY is not set"),
    ],
)
async def test_invalid_environment_is_reported(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    parts = await collect(answer_with_model("x"))
    assert [part["type"] for part in parts] == ["error"]
    assert message in parts[0]["message"]
    assert KEY not in parts[0]["message"]


@pytest.mark.parametrize(
    ("question", "message"), [("", "is empty"), ("x" * 2_001, "limit is 2_000")]
)
async def test_question_out_of_bounds_is_not_sent(
    model: FakeModel, question: str, message: str
) -> None:
    parts = await collect(answer_with_model(question))
    assert message in parts[0]["message"]
    assert model.requests == []


async def test_environment_selects_model_or_offline(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_MODEL", "small-model")
    assert model_name() == "small-model"
    model.script = [[text("from the model"), end("stop")]]
    assert text_of(await collect(answer("pizza"))) == "from the model"
    assert model.requests[0]["model"] == "small-model"
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert model_name() is None
    assert "I found nothing" in text_of(await collect(answer("pizza")))
