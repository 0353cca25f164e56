"""Attacks by values, with a token: what a client sends that is small and costs much."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
from serving import DEADLINE_S, SECRET, Client, new_run, token_for, worker_token

from hostile.target import Target

OURS = {"internal", "store_unavailable", "store_locked", "shutting_down", "not_started"}


def check(answer: dict[str, Any]) -> dict[str, Any]:
    """Whatever is refused is refused as the client's, in words of ours."""
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
        for other in (1, None, [], {}):  # which cannot be sorted among the others
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


LONG = "9" * 5000
NUMBERS = ["1e999", "-1e999", LONG, "9" * 400, "1" + "0" * 400 + ".5", "NaN", "-0", '"\\ud800"']
DEEP = "[" * 900 + "]" * 900


async def odd_numbers_and_depth_in_frames(target: Target) -> None:
    async with target.client(token=worker_token()) as client:
        run = await create(client)
        wire = json.dumps(new_run().to_wire())[:-1]
        for number in [*NUMBERS, DEEP, "[" * 30_000, "[" * 10_000 + "]" * 10_000]:
            for frame in (
                f'{{"type":"append","id":1,"run":"{run}","stream":"anything","records":[{number}]}}',
                f'{{"type":"append","id":1,"run":"{run}","stream":"plain","records":[{number}]}}',
                f'{{"type":"append","id":{number},"run":"{run}","stream":"s","records":[1]}}',
                f'{{"type":"run_patch","id":1,"run":"{run}","patch":{{"output":{number}}}}}',
                f'{{"type":"run_patch","id":1,"run":"{run}","patch":{{"finished_at":{number}}}}}',
                f'{{"type":"run_create","id":1,"value":{wire},"payload":{{"a":{number}}}}}}}',
                f'{{"type":"run_list","id":1,"limit":{number}}}',
                f'{{"type":"read","id":1,"run":"{run}","stream":"s","max_bytes":{number}}}',
            ):
                await ask_raw(client, frame)


async def inputs_that_the_task_could_not_read(target: Target) -> None:
    async with httpx.AsyncClient(base_url=target.http, timeout=DEADLINE_S) as http:
        headers = {"Authorization": f"Bearer {SECRET}"}
        answer = await http.post("/v1/tasks/waits/trigger", content="{}", headers=headers)
        run = answer.json()["id"]
    async with target.client(token=token_for(f"write:streams:{run}/anything")) as client:
        frame = f'{{"type":"append","id":1,"run":"{run}","stream":"anything","records":[{DEEP}]}}'
        assert (await ask_raw(client, frame))["type"] == "error"


ATTACKS = [
    inputs_that_are_sets,
    inputs_that_a_pattern_backtracks_on,
    schemas_that_cost_much,
    schemas_that_refer_elsewhere,
    thousands_of_tags,
    operations_on_a_long_list,
    odd_numbers_and_depth_in_frames,
    inputs_that_the_task_could_not_read,
]
