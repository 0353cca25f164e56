"""Arbitrary bytes at every HTTP path get a documented answer, never an internal error."""

import json
import random
from urllib.parse import quote

import httpx
import pytest

from gateway import task
from gateway.errors import BY_CODE
from gateway.model.limits import Limits
from gateway.sdk import task_registry
from gateway.server.app import create_app
from gateway.server.durable_streams.headers import REQUEST_HEADERS
from gateway.settings import Settings
from tests.support.gateways import SECRET, new_run, token_for, worker_token
from tests.support.mutations import damaged_text, mutate

ROUNDS = 600
TARGETS = [
    *(("POST", path) for path in ("/v1/tasks/fuzzed/trigger", "/v1/tokens", "/v1/tokens/revoke")),
    *(
        ("GET", path)
        for path in ("/v1/runs", "/v1/runs/run_fuzzed1", "/v1/runs/run_fuzzed1/readers")
    ),
    ("POST", "/v1/runs/run_fuzzed1/cancel"),
    ("GET", "/v1/schemas"),
    ("POST", "/v1/events"),
    *((method, "/v1/stream/run_fuzzed1/s") for method in ("GET", "HEAD", "PUT", "POST", "DELETE")),
    *((method, "/v1/stream/docs/a") for method in ("GET", "HEAD", "PUT", "POST", "DELETE")),
]
PARAMETERS = ["limit", "tag", "status", "before", "parent", "offset", "cursor", "x", ""]
VALUES = [
    *("", "0", "-1", "now", "1e999", "9" * 400, "9" * 5000, "\u00b2", "\u0661", "\x00", "true"),
    *("run_1", "0" * 16 + "_" + "9" * 16, "tag:a", "🙂", "a" * 3000, "%", "%ff", "../..", "$run"),
    *("2026-11-22T12:56:14Z", "9999-99-99T99:99:99Z", "text/plain", "application/json", "*"),
]
BODIES = [
    {"payload": {"n": 1}, "tags": ["a"]},
    {"scopes": ["read:runs:a"], "ttl_s": 60, "subject": "s", "skip": ["output"]},
    {"token_id": "t"},
    {"subject": "s", "issued_before_s": 1},
    [1, 2, {"a": []}],
]
BEARERS = [
    lambda: SECRET,
    worker_token,
    lambda: token_for("read:paths:*", "write:paths:*"),
    lambda: "a.b.c",
    lambda: "",
]


def _bytes(chance: random.Random) -> bytes:
    match chance.randrange(5):
        case 0:
            return chance.randbytes(chance.randrange(60))
        case 1:
            return b"\n".join(_text(chance) for _ in range(3))
        case 2:
            return b""
        case _:
            return json.dumps(mutate(chance.choice(BODIES), chance)).encode()


def _text(chance: random.Random) -> bytes:
    text = damaged_text(chance.randrange(2**32))
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text


def _request(chance: random.Random) -> dict:
    method, path = chance.choice(TARGETS)
    if chance.random() < 0.1:
        path += "/" + quote(chance.choice(VALUES), safe="")
    names = chance.choices(PARAMETERS, k=chance.choice([0, 0, 1, 2]))
    query = "&".join(f"{name}={quote(chance.choice(VALUES), safe='%')}" for name in names)
    headers = {"Authorization": f"Bearer {chance.choice(BEARERS)()}".strip()}
    for name in chance.choices([*REQUEST_HEADERS, "Content-Type"], k=chance.choice([0, 1, 3])):
        headers[name] = chance.choice(VALUES).encode("latin-1", "replace").decode("latin-1")
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    return {"method": method, "url": f"{path}?{query}", "headers": headers} | (
        {} if method in ("GET", "HEAD") else {"content": _bytes(chance)}
    )


@pytest.mark.parametrize("seed", range(3))
async def test_any_bytes_over_http_are_answered_as_documented(seed, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(task_registry._tasks, "fuzzed", task(id="fuzzed")(_count))
    limits = Limits(hello_s=0.1, long_poll_s=0.1, events_s=0.1)
    store = f"sqlite:{tmp_path}/fuzzed.db"
    app = create_app(Settings(store=store, secret_key=SECRET, limits=limits))
    chance = random.Random(seed)
    async with app.router.lifespan_context(app):
        await app.state.gateway._store.create_run(new_run(id="run_fuzzed1", tags=["a"]))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            for _ in range(ROUNDS // 3):
                request = _request(chance)
                _check(await http.request(**request), request, str(tmp_path))
    faults = [record for record in caplog.records if record.exc_info]
    assert not faults, caplog.text


def _check(answer: httpx.Response, request: dict, folder: str) -> None:
    assert answer.status_code < 500, (request, answer.text)
    text = answer.text
    for words in ("Traceback", "site-packages", "positional argument", folder):
        assert words not in text, (request, text)
    is_json = answer.headers.get("content-type") == "application/json"
    if answer.status_code >= 400 and text and is_json:
        code = answer.json()["code"]
        is_of_streams = "/v1/stream/" in request["url"]
        assert code in BY_CODE or is_of_streams, (request, text)
        assert code not in ("internal", "store_unavailable"), (request, text)
        assert len(text) < 1000, (request, text)


async def _count(n: int = 0) -> int:
    return n
