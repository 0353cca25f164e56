"""Fields, filters and payloads that break their rules are rejected; the reason names them."""

import httpx
import pytest

from gateway import task, tokens
from gateway.model.runs import Run
from gateway.sdk import task_registry
from tests.support.gateways import SECRET, new_run, serving, worker_token

TIMES = ["queued_at", "started_at", "finished_at", "cancel_requested_at", "delay_until"]
PATCHES = [
    *({name: "x"} for name in TIMES),
    *({name: "2026-13-22T12:56:14.123Z"} for name in TIMES),
    {"finished_at": "2026-11-22T12:56:14Z"},
    {"finished_at": 1_795_352_174},
    {"error": 7},
    {"error": "ValueError"},
    {"error": {"message": "m"}},
    {"error": {"type": "E", "message": 7}},
    {"last_error": {"type": "E", "message": "m", "trace": "t"}},
    {"duration_ms": -1},
    {"duration_ms": 1.5},
    {"duration_ms": 2**60},
    {"max_duration_s": "long"},
    {"max_duration_s": -1},
    {"attempt": 0},
    {"max_attempts": True},
    {"retry_on_crash": 1},
    {"status": "done"},
    {"tags": "a"},
    {"tags": [1]},
    {"owner": 7},
    {"metadata": "m"},
    {"finishedat": "2026-11-22T12:56:14.123Z"},
]


@pytest.fixture
async def client():
    async with serving() as gateway:
        await gateway.store.create_run(new_run(id="run_1", status="executing"))
        async with gateway.client(token=worker_token()) as client:
            yield client


@pytest.mark.parametrize("patch", PATCHES, ids=str)
async def test_patch_with_a_field_outside_its_rule_names_the_field(client, patch):
    (name,) = patch
    answer = await client.ask(type="run_patch", id=1, run="run_1", patch=patch)
    assert (answer["type"], answer.get("code")) in [
        ("error", "invalid_value"),
        ("error", "illegal_transition"),
    ]
    assert name in answer["message"] or name == "status", answer
    _check_words(answer["message"])


NEW = new_run(id="run_2").to_wire()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"task": ..., "status": ...}, "task, status"),
        ({"id": ...}, "id"),
        ({"created_at": "yesterday"}, "created_at"),
        ({"created_at": 5}, "created_at"),
        ({"error": 7}, "error"),
        ({"finished_at": "x"}, "finished_at"),
        ({"expires_at": "x"}, "expires_at"),
        ({"tags": [""]}, "tag"),
        ({"parent_id": "x"}, "run id"),
        ({"root_id": 7}, "run id"),
    ],
    ids=str,
)
async def test_new_run_with_a_field_outside_its_rule_is_refused_with_its_name(
    client, change, names
):
    value = {name: field for name, field in (NEW | change).items() if field is not ...}
    answer = await client.ask(type="run_create", id=1, value=value)
    assert answer.get("code") in ("invalid_value", "invalid_id"), answer
    assert names in answer["message"]
    _check_words(answer["message"])


def _check_words(message: str) -> None:
    """Assert that a message has no text of a Python exception."""
    for words in ("__init__", "positional", "subscriptable", "object has no attribute", "/tmp"):
        assert words not in message


async def test_a_run_of_an_older_store_with_another_time_is_still_read():
    assert Run.from_wire(NEW | {"finished_at": "2026-11-22T12:56:14Z"}).finished_at


async def test_query_parameters_that_are_not_known_are_refused(monkeypatch):
    monkeypatch.setitem(task_registry._tasks, "takes", task(id="takes")(_takes))
    async with serving() as gateway:
        url = gateway.url.replace("ws", "http", 1)
        async with httpx.AsyncClient(base_url=url) as http:
            http.headers["Authorization"] = f"Bearer {SECRET}"
            for query, names in [
                ("parent=run_1", "parent"),
                ("batch=b", "batch"),
                ("limt=5", "limt"),
                ("limit=5&limit=6", "limit"),
                ("tag=a&tag=b", "tag"),
                ("tag=", "tag"),
                (f"tag={'x' * 129}", "tag"),
                ("status=done", "status"),
                ("before=yesterday", "run id"),
                (f"limit={'1' * 5000}", "limit"),
                ("limit=%C2%B2", "limit"),
                ("limit=1e999", "limit"),
                ("limit=", "limit"),
            ]:
                answer = await http.get(f"/v1/runs?{query}")
                assert answer.status_code == 422, (query, answer.text)
                assert names in answer.json()["message"], answer.text
                assert len(answer.text) < 500
            for method, path in [
                ("GET", "/v1/runs/run_1"),
                ("GET", "/v1/runs/run_1/readers"),
                ("POST", "/v1/runs/run_1/cancel"),
                ("POST", "/v1/tasks/takes/trigger"),
                ("POST", "/v1/tokens"),
                ("POST", "/v1/tokens/revoke"),
                ("GET", "/v1/schemas"),
            ]:
                answer = await http.request(method, f"{path}?verbose=1")
                assert answer.status_code == 422, (path, answer.text)
                assert "verbose" in answer.json()["message"]
            known = await http.get("/v1/runs?status=queued&status=executing&limit=5&tag=a")
            assert known.status_code == 200, known.text


async def test_max_payload_bytes_counts_the_payload_alone(monkeypatch):
    monkeypatch.setitem(task_registry._tasks, "takes", task(id="takes")(_takes))
    async with serving() as gateway, httpx.AsyncClient() as http:
        url = gateway.url.replace("ws", "http", 1) + "/v1/tasks/takes/trigger"

        async def trigger(max_payload_bytes: int, text: str) -> httpx.Response:
            token = tokens.mint_trigger(
                "takes", uses=None, max_payload_bytes=max_payload_bytes, secret_key=SECRET
            )
            body = {"payload": {"text": text}}
            return await http.post(url, json=body, headers={"Authorization": f"Bearer {token}"})

        refused = await trigger(10, "x" * 200)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_value")
        assert "211 bytes" in refused.json()["message"] and "10 bytes" in refused.json()["message"]
        assert (await trigger(211, "x" * 200)).status_code == 201
        assert (await trigger(210, "x" * 200)).status_code == 422


async def _takes(text: str = "") -> int:
    return 1
