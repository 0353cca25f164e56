"""One set of rules for untrusted JSON, on every interface."""

import asyncio
import json
import random

import httpx
import msgspec
import orjson
import pydantic_core
import pytest

from gateway import protocol, streams, task
from gateway.cli.runs import _payload
from gateway.errors import InvalidValue, MalformedFrame
from gateway.model.limits import FRAME_DEPTH, JSON_DEPTH
from gateway.model.untrusted_json import NotJson, check_json, check_values, read_json
from gateway.sdk import task_registry
from gateway.sdk.values import input_schemas
from tests.support.gateways import SECRET, new_run, serving, token_for, worker_token
from tests.support.malformed_json import DEEPEST, REFUSED

ACCEPTED = {
    "deepest": DEEPEST,
    "brackets in texts": json.dumps(["[" * 500, '\\"[[' * 200, "{[" * 200]),
    "many side by side": json.dumps([[{"a": [i]}] for i in range(500)]),
    "the largest double": "1.7976931348623157e308",
    "next to nothing": "1e-999",
    "300 digits": "1" * 300,
    "a text like a large number": '["deadbee0e999", "' + "0" * 400 + '"]',
    "the same name twice": '{"a": 1, "a": 2}',
    "a pair of surrogates": r'"\ud83d\ude00"',
}


@pytest.mark.parametrize("name", REFUSED)
def test_json_that_only_some_parsers_read_is_refused(name):
    with pytest.raises(NotJson) as refusal:
        read_json(REFUSED[name])
    assert len(str(refusal.value)) < 200, "a reason repeats the value"


@pytest.mark.parametrize("name", ACCEPTED)
def test_json_that_every_parser_reads_is_accepted(name):
    value = read_json(ACCEPTED[name])
    check_values(ACCEPTED[name].encode())
    assert value == msgspec.json.decode(ACCEPTED[name])
    orjson.loads(ACCEPTED[name])
    pydantic_core.from_json(ACCEPTED[name])


def test_the_last_of_members_with_one_name_counts():
    assert read_json('{"a": 1, "b": 0, "\\u0061": 2}') == {"a": 2, "b": 0}


def test_half_a_pair_that_is_no_escape_is_refused():
    with pytest.raises(NotJson, match="half of a surrogate pair"):
        read_json('"\ud800"')


def _depth_of(value) -> int:
    if not isinstance(value, list | dict):
        return 0
    parts = value.values() if isinstance(value, dict) else value
    return 1 + max(map(_depth_of, parts), default=0)


def test_depth_is_counted_as_it_is():
    chance = random.Random(7)

    def make(levels: int):
        if levels == 0 or chance.random() < 0.2:
            return chance.choice(["[", '"', "\\", '{"', "]\\", 1.5, None, ""])
        parts = [make(levels - 1) for _ in range(chance.randrange(3))]
        if chance.random() < 0.5:
            return parts
        return {
            chance.choice(["a", '"', "[[", "\\"]) + str(i): part for i, part in enumerate(parts)
        }

    for _ in range(2000):
        value = make(chance.randrange(8))
        data = orjson.dumps(value)
        depth = _depth_of(value)
        check_json(data, depth)
        if depth:
            with pytest.raises(NotJson, match="deeper"):
                check_json(data, depth - 1)


# ---- every way in ----

FRAMES = {
    "record": '{"type":"append","id":1,"run":"run_1","stream":"s","records":[1,%s]}',
    "input": '{"type":"append","id":1,"run":"run_1","stream":"typed","records":[%s]}',
    "payload": '{"type":"run_create","id":1,"value":{"payload":%s}}',
    "metadata": '{"type":"run_patch","id":1,"run":"run_1","patch":{"metadata":{"k":%s}}}',
    "output": '{"type":"run_patch","id":1,"run":"run_1","patch":{"output":%s}}',
    "operation": '{"type":"run_patch","id":1,"run":"run_1",'
    '"operations":[{"op":"set","key":"k","value":%s}]}',
    "schema": '{"type":"register","id":1,"schemas":{"s":{"const":%s}}}',
    "start": '{"type":"subscribe","id":1,"run":"run_1","stream":"s","start":%s}',
    "limit": '{"type":"run_list","id":1,"limit":%s}',
    "uses": '{"type":"spend","id":1,"token_id":"t","uses":%s,"expires_at_ms":1}',
    "a time": '{"type":"spend","id":1,"token_id":"t","uses":1,"expires_at_ms":%s}',
}


# The limit of a frame leaves more depth than its envelope needs; the limit of records is exact.
FAR = {name: value for name, value in REFUSED.items() if "level too many" not in name}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("value", FAR)
def test_frames_with_such_a_value_are_malformed(name, value):
    text = FRAMES[name] % REFUSED[value]
    with pytest.raises(MalformedFrame) as refusal:
        frame = protocol.decode(text)
        assert isinstance(frame, protocol.Subscribe)
        protocol.start_of(frame)
    assert len(refusal.value.message) < 500


@pytest.mark.parametrize("name", ["record", "payload", "metadata", "output", "operation"])
def test_a_frame_may_have_a_value_of_any_allowed_depth(name):
    protocol.decode(FRAMES[name] % DEEPEST)
    assert FRAME_DEPTH > JSON_DEPTH


def test_malformed_frame_error_names_the_fault():
    with pytest.raises(MalformedFrame, match="surrogate"):
        protocol.decode(FRAMES["record"] % r'"\ud800"')
    with pytest.raises(MalformedFrame, match="deeper than 132 levels"):
        protocol.decode(FRAMES["record"] % ("[" * 5000))


async def test_no_entry_point_fails_internally_on_hostile_json(monkeypatch, caplog):
    monkeypatch.setitem(task_registry._tasks, "takes", task(id="takes")(_takes))
    monkeypatch.setattr(input_schemas, "_registered", {})
    input_schemas.register({"typed": {"type": ["array", "object", "number", "string"]}}, "worker_1")
    async with serving() as gateway:
        await gateway.store.create_run(new_run(id="run_1"))
        async with (
            httpx.AsyncClient(base_url=gateway.url.replace("ws", "http", 1)) as http,
            gateway.client(token=worker_token()) as client,
        ):
            http.headers["Authorization"] = f"Bearer {SECRET}"
            for value in FAR.values():
                for frame in FRAMES.values():
                    await client.socket.send(frame % value)
                    answer = await client.receive()
                    assert answer["code"] == "malformed_frame", answer
                for answer in await asyncio.gather(*_requests(http, value)):
                    assert 400 <= answer.status_code < 500, answer.text
                    code = answer.json()["code"]
                    assert code in ("invalid_value", "malformed_request"), answer.text
                    assert len(answer.text) < 600, "an answer repeats what it was sent"
            assert await client.ask(type="ping") == {"type": "pong"}
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def _requests(http: httpx.AsyncClient, value: str):
    def post(path: str, body: str):
        headers = {"Content-Type": "application/json"}
        return http.post(path, content=body.encode("utf-8", "surrogatepass"), headers=headers)

    for path, body in BODIES:
        yield post(path, body % value)
    yield post("/v1/stream/run_1/s", value)
    yield post("/v1/stream/run_1/typed", value)
    yield http.get("/v1/runs", params={"limit": value[:6000]})
    yield http.get("/v1/stream/run_1/s", params={"offset": value[:6000]})


BODIES = (
    ("/v1/tasks/takes/trigger", '{"payload": {"x": %s}}'),
    ("/v1/tasks/takes/trigger", '{"tags": %s}'),
    ("/v1/tokens", '{"scopes": ["read:runs:run_1"], "ttl_s": %s}'),
    ("/v1/tokens", '{"scopes": ["read:runs:run_1"], "subject": %s}'),
    ("/v1/tokens/revoke", '{"subject": "a", "issued_before_s": %s}'),
)


async def _takes(x: object = None, tags: object = None) -> int:
    return 1


async def test_frames_over_http_have_the_same_rules():
    async with serving() as gateway, httpx.AsyncClient() as http:
        url = gateway.url.replace("ws", "http", 1) + "/v1/events"
        hello = json.dumps({"type": "hello", "protocol": 1, "token": token_for("write:runs:*")})
        body = "\n".join([hello, *(FRAMES["record"] % value for value in REFUSED.values())])
        codes = []
        async with http.stream("POST", url, content=body.encode()) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    codes.append(json.loads(line[6:]).get("code"))
                if len(codes) == 1 + len(REFUSED):
                    break
        assert codes == [None, *["malformed_frame"] * len(REFUSED)]


def test_sdk_rejects_too_deep_value_before_sending():
    nested: object = 1
    for _ in range(JSON_DEPTH):
        nested = [nested]
    stream = streams.define("deep-in-untrusted", object)
    assert stream.decode(stream.encode(nested)) == nested
    with pytest.raises(InvalidValue, match="nested deeper than 128 levels"):
        stream.encode([nested])


@pytest.mark.parametrize("value", REFUSED)
def test_the_command_line_refuses_it(value):
    with pytest.raises(InvalidValue, match="not JSON"):
        _payload(f'{{"x": {REFUSED[value]}}}')


def test_the_command_line_sends_large_whole_numbers_as_they_are():
    assert _payload('{"n": 123456789012345678901234567890}')["n"] == 123456789012345678901234567890


@pytest.mark.parametrize("record", [f"[{DEEPEST}]", f'{{"a":{DEEPEST}}}'])
def test_a_record_may_be_no_deeper_than_it_can_be_read(record):
    protocol.decode(FRAMES["record"] % DEEPEST)
    with pytest.raises(MalformedFrame, match="nested deeper"):
        protocol.decode(FRAMES["record"] % record)
