"""Attacks by values, with a token: small inputs that are expensive to process."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import time
from typing import Any

import httpx

from tests.support.gateways import DEADLINE_S, SECRET, Client, new_run, token_for, worker_token
from tests.support.hostile.target import Target

OURS = {"internal", "store_unavailable", "store_locked", "shutting_down", "not_started"}
ANSWER_BYTES = 8 << 20


def check(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer; assert that an error blames the client and names no internals."""
    if answer["type"] == "error":
        assert answer["code"] not in OURS, answer
        for words in ("Traceback", "__init__", "hostile.db", "/site-packages/"):
            assert words not in answer["message"], answer
    return answer


async def ask(client: Client, **fields: Any) -> dict[str, Any]:
    return check(await client.ask(**fields))


async def ask_raw(client: Client, text: str) -> dict[str, Any]:
    await client.socket.send(text)
    return check(await client.receive())


async def create(client: Client, **fields: Any) -> str:
    run = new_run(**fields).to_wire()
    answer = await ask(client, type="run_create", id=1, value=run)
    assert answer["type"] == "result", answer
    return run["id"]


async def append(client: Client, run: str, stream: str, *records: Any) -> dict[str, Any]:
    return await ask(client, type="append", id=2, run=run, stream=stream, records=list(records))


async def inputs_that_are_sets(target: Target) -> None:
    async with target.client(token=worker_token()) as client:
        run = await create(client)
        many = [f"{number:04x}" for number in range(7000)]
        assert (await append(client, run, "sets", many))["type"] == "appended"
        assert (await append(client, run, "sets", [*many, many[0]]))["type"] == "error"
        for other in (1, None, [], {}):  # values that cannot be sorted among the others
            assert (await append(client, run, "sets", [*many, other]))["type"] == "error"
        await append(client, run, "sets", [[number] for number in range(5000)])


async def inputs_that_a_pattern_backtracks_on(target: Target) -> None:
    async with target.client(token=worker_token()) as client:
        run = await create(client)
        answer = await append(client, run, "words", "a" * 40 + "!")
        assert answer["type"] == "error"


async def schemas_that_cost_much(target: Target) -> None:
    deep: Any = {"type": "string"}
    for _ in range(200):
        deep = {"anyOf": [{"type": "array", "items": deep}, {"type": "null"}]}
    schemas = [
        {"type": "array", "uniqueItems": True},
        {"type": "string", "pattern": r"^(\w+\s?)*$"},
        {"type": "string", "pattern": r"^(a+)+$"},
        {"patternProperties": {"^(a+)+$": {}}},
        {"anyOf": [{"anyOf": [{"const": n} for n in range(40)]} for _ in range(40)]},
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        deep,
    ]
    values = [[{"n": n} for n in range(3000)], "a" * 40 + "!", {"a" * 40 + "!": 1}, [[[[]]]]]
    for number, schema in enumerate(schemas):
        async with target.client(token=worker_token()) as client:
            stream = f"schema_{number}"
            await ask(client, type="register", id=3, schemas={stream: schema})
            run = await create(client)
            for value in values:
                await append(client, run, stream, value)


async def schemas_that_refer_elsewhere(target: Target) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/schema"
        async with target.client(token=worker_token()) as client:
            run = await create(client)
            schemas = [
                {"$ref": url},
                {"$ref": "file:///etc/passwd"},
                {"$id": url, "$ref": "other"},
                {"$schema": url},
                {"properties": {"a": {"$dynamicRef": url}}},
            ]
            for number, schema in enumerate(schemas):
                stream = f"elsewhere_{number}"
                await ask(client, type="register", id=4, schemas={stream: schema})
                await append(client, run, stream, {"a": 1})
        try:
            listening.accept()
        except BlockingIOError:
            return
        raise AssertionError("the gateway looked a schema up")


async def thousands_of_tags(target: Target) -> None:
    tags = [f"tag_{number}" for number in range(10_000)]
    async with target.client(token=worker_token()) as client:
        run = await create(client)
        for frame in (
            {"type": "run_patch", "id": 5, "run": run, "patch": {"tags": tags}},
            {"type": "run_create", "id": 6, "value": new_run().to_wire() | {"tags": tags}},
        ):
            assert (await ask(client, **frame))["type"] == "error"


async def operations_on_a_long_list(target: Target) -> None:
    async with target.client(token=worker_token()) as client:
        run = await create(client)
        fields = {"type": "run_patch", "run": run, "patch": {}}
        numbers = list(range(10_000))
        operations: list[dict[str, Any]] = [{"op": "set", "key": "list", "value": numbers}]
        await ask(client, **fields, id=7, operations=operations)
        for op in ("remove", "append"):
            operations = [{"op": op, "key": "list", "value": n} for n in numbers[:1000]]
            await ask(client, **fields, id=8, operations=operations)


async def listings_of_large_runs(target: Target) -> None:
    async with target.client(token=worker_token()) as client:
        for _ in range(60):
            await create(client, payload={"text": "x" * 500_000}, tags=["large"])
        for frame in (
            {"type": "run_list", "id": 9, "tag": "large", "limit": 100},
            {"type": "runs_get", "id": 10, "runs": {"tag": "large"}, "limit": 100},
            {"type": "subscribe", "id": 11, "runs": {"tag": "large"}, "limit": 100},
        ):
            await client.socket.send(json.dumps(frame))
            text = await asyncio.wait_for(client.socket.recv(), DEADLINE_S)
            assert len(text) < ANSWER_BYTES, frame["type"]
            check(json.loads(text))
    async with httpx.AsyncClient(base_url=target.http, timeout=DEADLINE_S) as http:
        headers = {"Authorization": f"Bearer {SECRET}"}
        answer = await http.get("/v1/runs?tag=large&limit=100", headers=headers)
        assert answer.status_code == 200 and len(answer.content) < ANSWER_BYTES


LONG = "9" * 5000
NUMBERS = ["1e999", "-1e999", LONG, "9" * 400, "1" + "0" * 400 + ".5", "NaN", "-0", '"\\ud800"']
DEEP = "[" * 900 + "]" * 900


async def odd_numbers_and_depth_in_frames(target: Target) -> None:
    async with target.client(token=worker_token()) as client:
        run = await create(client)
        wire = json.dumps(new_run().to_wire())[:-1]
        for number in [*NUMBERS, DEEP, "[" * 30_000, "[" * 10_000 + "]" * 10_000]:
            for frame in (
                f'{{"type":"append","id":1,"run":"{run}","stream":"any-value","records":[{number}]}}',
                f'{{"type":"append","id":1,"run":"{run}","stream":"plain","records":[{number}]}}',
                f'{{"type":"append","id":{number},"run":"{run}","stream":"s","records":[1]}}',
                f'{{"type":"run_patch","id":1,"run":"{run}","patch":{{"output":{number}}}}}',
                f'{{"type":"run_patch","id":1,"run":"{run}","patch":{{"finished_at":{number}}}}}',
                f'{{"type":"run_create","id":1,"value":{wire},"payload":{{"a":{number}}}}}}}',
                f'{{"type":"run_list","id":1,"limit":{number}}}',
                f'{{"type":"read","id":1,"run":"{run}","stream":"s","max_bytes":{number}}}',
            ):
                await ask_raw(client, frame)


def signed(claims: str) -> str:
    """Sign a text of claims without changing it."""

    def packed(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    signing = packed(b'{"alg":"HS256","typ":"JWT"}') + "." + packed(claims.encode())
    return signing + "." + packed(hmac.digest(SECRET.encode(), signing.encode(), hashlib.sha256))


async def odd_numbers_and_depth_over_http(target: Target) -> None:
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with httpx.AsyncClient(base_url=target.http, timeout=DEADLINE_S) as http:
        answers = []
        for text in (LONG, "1e999", "-1", "x", "1_0"):
            for path in ("/v1/runs?limit=", "/v1/stream/a?offset=", "/v1/runs?status="):
                answers.append(await http.get(path + text, headers=headers))
        await http.put("/v1/stream/a", headers=headers | {"Content-Type": "application/json"})
        for number in [*NUMBERS, DEEP]:
            for path, body in (
                ("/v1/tokens", f'{{"scopes":["read:runs:*"],"ttl_s":{number}}}'),
                ("/v1/tokens/revoke", f'{{"subject":"x","issued_before_s":{number}}}'),
                ("/v1/tasks/waits/trigger", f'{{"payload":{{"text":{number}}}}}'),
                ("/v1/stream/a", number),
            ):
                more = headers | {"Content-Type": "application/json"}
                answers.append(await http.post(path, content=body, headers=more))
        now_s = round(time.time())
        for name in ("exp", "iat", "nbf"):
            for number in [*NUMBERS, DEEP]:
                claims = {"exp": f"{now_s + 100}", "iat": f"{now_s}"} | {name: number}
                fields = ",".join(f'"{key}":{value}' for key, value in claims.items())
                audience = '"aud":"realtime-streams","jti":"x","scopes":["read:runs:*"]'
                bearer = {"Authorization": f"Bearer {signed('{' + fields + ',' + audience + '}')}"}
                answers.append(await http.get("/v1/runs", headers=bearer))
        for answer in answers:
            assert answer.status_code < 500, (answer.request.url, answer.text[:200])
            for words in ("Traceback", "hostile.db", "set_int_max_str_digits"):
                assert words not in answer.text, answer.text[:200]


async def inputs_that_the_task_could_not_read(target: Target) -> None:
    async with httpx.AsyncClient(base_url=target.http, timeout=DEADLINE_S) as http:
        headers = {"Authorization": f"Bearer {SECRET}"}
        answer = await http.post("/v1/tasks/waits/trigger", content="{}", headers=headers)
        run = answer.json()["id"]
    async with target.client(token=token_for(f"write:streams:{run}/any-value")) as client:
        frame = f'{{"type":"append","id":1,"run":"{run}","stream":"any-value","records":[{DEEP}]}}'
        assert (await ask_raw(client, frame))["type"] == "error"


async def runs_put_into_the_lists_of_others(target: Target) -> None:
    async with target.client(token=worker_token()) as client:
        run, other = await create(client), await create(client)
    async with target.client(token=token_for(f"read:runs:{run}", f"write:runs:{run}")) as client:
        for patch in ({"tags": ["user_other"]}, {"parent_id": other}, {"batch_id": "batch_other"}):
            answer = await ask(client, type="run_patch", id=1, run=run, patch=patch)
            assert answer["type"] == "error", patch


async def restrictions_that_are_not_understood(target: Target) -> None:
    claims = f'"exp":{round(time.time()) + 100},"iat":{round(time.time())}'
    claims += ',"aud":"realtime-streams","scopes":["read:runs:*"]'
    good, *bad = (
        signed("{" + claims + more + "}")
        for more in (',"jti":"x"', "", ',"jti":"x","skips":["payload"]')
    )
    headers = {"Authorization": f"Bearer {SECRET}"}
    async with httpx.AsyncClient(base_url=target.http, timeout=DEADLINE_S) as http:
        for token in (good, *bad):
            bearer = {"Authorization": f"Bearer {token}"}
            answer = await http.get("/v1/runs?limit=1", headers=bearer)
            assert answer.status_code == (200 if token is good else 401), answer.text
        answer = await http.get("/v1/runs?parent=x", headers=headers)
        assert 400 <= answer.status_code < 500
        for path, body in (
            ("/v1/tokens/revoke", {"subject": ""}),
            ("/v1/tokens", {"scopes": ["read:runs:*"], "skip": ["payloads"]}),
        ):
            answer = await http.post(path, json=body, headers=headers)
            assert 400 <= answer.status_code < 500, path
    async with target.client(token=worker_token()) as client:
        run = await create(client)
        patch = {"finished_at": "x"}
        answer = await ask(client, type="run_patch", id=1, run=run, patch=patch)
        assert answer["type"] == "error"


ATTACKS = [
    inputs_that_are_sets,
    inputs_that_a_pattern_backtracks_on,
    schemas_that_cost_much,
    schemas_that_refer_elsewhere,
    thousands_of_tags,
    operations_on_a_long_list,
    listings_of_large_runs,
    odd_numbers_and_depth_in_frames,
    odd_numbers_and_depth_over_http,
    inputs_that_the_task_could_not_read,
    runs_put_into_the_lists_of_others,
    restrictions_that_are_not_understood,
]
