"""The tables and sentences of PROTOCOL.md agree with the gateway."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import jsonschema
import pytest

from gateway import protocol
from gateway.errors import BY_CODE, on_the_wire
from gateway.fanout import page_cache
from gateway.model.limits import DEFAULT_LIMITS, LIST_BYTES, MAX_METADATA_BYTES
from gateway.model.retention import Retention
from gateway.model.runs import FINAL_STATUSES, Run
from gateway.server import durable_streams
from gateway.server.api import asyncapi
from gateway.server.durable_streams import errors as durable_streams_errors
from tests.support.gateways import new_run, serving, worker_token
from tests.support.protocol_cases import CASES
from tests.tools import protocol_tables
from tests.tools.protocol_tables import PROTOCOL

TEXT = PROTOCOL.read_text()
LARGEST = 8 << 20  # largest message from the gateway; section 2 requires clients to take it


def section(number: int) -> str:
    (found,) = re.findall(rf"^## {number}\. .*?(?=^## )", TEXT, flags=re.M | re.S)
    return re.sub(r"^```.*?^```", "", found, flags=re.M | re.S)


def words(*numbers: int) -> set[str]:
    """Return the words between backticks in these sections."""
    quoted = re.findall(r"`[^`]+`", " ".join(map(section, numbers)))
    return set(re.findall(r"\w+", " ".join(quoted)))


def rows(text: str, head: str) -> list[list[str]]:
    """Return the cells of the table with this head, row by row."""
    (body,) = re.findall(rf"^ *{re.escape(head)}\n *\|[-|]+\n((?: *\|.*\n)+)", text, flags=re.M)
    return [[cell.strip() for cell in row.strip()[1:-1].split(" | ")] for row in body.splitlines()]


@pytest.mark.parametrize("name", protocol_tables.TABLES)
def test_documented_tables_match_the_code(name):
    """`python -m tests.tools.protocol_tables` writes them."""
    assert protocol_tables.written(name) == protocol_tables.TABLES[name]()


# Frames and fields.


def frames(union) -> list[tuple[str, set[str]]]:
    return [
        (str(each.__struct_config__.tag), set(each.__struct_encode_fields__))
        for each in union.__args__
    ]


@pytest.mark.parametrize(("tag", "fields"), frames(protocol.ClientFrame), ids=lambda each: each)
def test_section_4_names_each_field_of_each_frame_of_a_client(tag, fields):
    assert {tag, *fields} <= words(4)


@pytest.mark.parametrize(("tag", "fields"), frames(protocol.ReceivedFrame), ids=lambda each: each)
def test_section_5_names_each_field_of_each_frame_of_the_gateway(tag, fields):
    assert {tag, *fields} <= words(5)


def test_section_6_describes_every_run_field():
    head = "| field of a run | value |"
    said = {name for row in rows(section(6), head) for name in re.findall(r"`(\w+)`", row[0])}
    assert said == {field.name for field in dataclasses.fields(Run)}


# Close codes.

CLOSE_CODES = {
    int(code): row
    for row in rows(section(7), "| close code | meaning | reconnect? |")
    for code in row[0].split(", ")
}


def test_close_codes_say_in_both_places_whether_to_come_back():
    rule = {case["code"]: case["reconnect"] for case in CASES["close_codes"]}
    for code, (_, _, come_back) in CLOSE_CODES.items():
        assert come_back.startswith("yes" if rule[code] else "no"), code
    for error in on_the_wire():
        if error.close_code is not None:
            come_back = CLOSE_CODES[error.close_code][2]
            assert come_back.startswith("yes" if error.retryable else "no"), error.code


def test_documented_close_codes_match_the_errors():
    codes = {error.close_code for error in on_the_wire() if error.close_code is not None}
    assert {code for code in CLOSE_CODES if code >= 4000} == {code for code in codes if code > 4000}


# Errors of streams over HTTP.


def refused_with() -> set[tuple[int, str]]:
    """Find the status and code of each refusal in the source of the endpoints."""
    found = set()
    for path in Path(durable_streams.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "HttpRefusal":
                status, code = node.args[:2]
                found.add((ast.literal_eval(status), ast.unparse(code)))
    return found


def test_documented_http_errors_match_the_endpoints():
    table = rows(section(12), "| status | code | when |")
    said = {(int(status), code.strip("`")) for status, code, _ in table}
    literal = {(status, code.strip("'")) for status, code in refused_with() if code[0] == "'"}
    assert durable_streams_errors.malformed("").code == "malformed_request"
    assert literal <= said
    # The other calls use the code of an error: the table has the code of the named class.
    named = {status for status, code in refused_with() if code[0] != "'"}
    assert named == {400, 403, 409}
    assert {code for status, code in said - literal} <= set(BY_CODE)


# Sizes.


def test_no_message_of_the_gateway_is_larger_than_clients_are_asked_to_take():
    limits = DEFAULT_LIMITS
    run = 2 * limits.data_frame_bytes + MAX_METADATA_BYTES  # one frame creates it, another ends it
    around = 64 << 10
    page = (1 << 20) + limits.record_bytes
    for size in (page_cache.FRAME_BYTES + run, LIST_BYTES, page, run):
        assert size + around <= LARGEST
    assert f"MUST take messages of {LARGEST >> 20} MiB" in TEXT


# Sentences, against a real gateway.


@pytest.fixture
async def gateway():
    async with serving() as gateway:
        yield gateway


async def test_record_is_delivered_byte_by_byte_and_a_frames_last_member_counts(client, run):
    record = '{"a":1,"a":2,  "b":1.0}'
    frame = f'{{"type":"append","id":9,"id":1,"run":"{run.id}","stream":"s","records":[{record}]}}'
    await client.socket.send(frame)
    assert (await client.receive())["id"] == 1
    await client.send(type="read", id=2, run=run.id, stream="s")
    assert f'"data":{record}' in await client.socket.recv()


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "Infinity", "[1,]", "[1] // one"])
async def test_invalid_json_is_refused_and_connection_continues(client, run, value):
    frame = f'{{"type":"append","id":1,"run":"{run.id}","stream":"s","records":[{value}]}}'
    await client.socket.send(frame)
    assert (await client.receive())["code"] == "malformed_frame"
    assert (await client.ask(type="ping"))["type"] == "pong"


async def test_text_that_is_no_utf8_closes_with_1007(client):
    await client.socket.send(b'{"type":"\xff"}', text=True)
    assert await client.close_code() == 1007


async def test_position_of_a_stream_without_records_has_no_epoch(client, run):
    at = {"id": 1, "run": run.id, "stream": "s"}
    head = await client.ask(type="head", **at)
    assert head["value"]["position"] == "0" * 16 + "_" + "0" * 16
    await client.ask(type="append", **at, records=[1, 2])
    opened = await client.ask(type="subscribe", **at, start={"position": head["value"]["position"]})
    assert opened["type"] == "subscribed"
    assert [each["offset"] for each in (await client.receive())["records"]] == [0, 1]


async def test_id_is_free_after_each_kind_of_answer(client, run):
    at = {"id": 1, "run": run.id, "stream": "s"}
    assert (await client.ask(type="append", **at, records=[1]))["type"] == "appended"
    assert (await client.ask(type="head", **at))["type"] == "result"
    assert (await client.ask(type="read", id=1, run="x", stream="s"))["type"] == "error"
    assert (await client.ask(type="subscribe", **at, start="latest"))["type"] == "subscribed"
    taken = await client.ask(type="head", **at)
    assert (taken["code"], "id" in taken) == ("duplicate_id", False)
    assert (await client.ask(type="unsubscribe", id=1))["type"] == "unsubscribed"
    await client.ask(type="append", **at, records=[], end="completed")
    assert (await client.ask(type="subscribe", **at, start="latest"))["type"] == "subscribed"
    assert (await client.receive())["type"] == "end"
    assert (await client.ask(type="unsubscribe", id=1))["code"] == "unknown_subscription"
    assert (await client.ask(type="head", **at))["type"] == "result"


async def test_new_epoch_of_a_writer_begins_with_0_in_each_stream(client, run):
    async def append(stream: str, epoch: int, sequence: int) -> str:
        writer = {"id": "w", "epoch": epoch, "sequence": sequence}
        to = {"id": 1, "run": run.id, "stream": stream, "records": [1], "writer": writer}
        answer = await client.ask(type="append", **to)
        return answer.get("code", answer["type"])

    assert await append("s", 0, 1) == "writer_gap"
    assert [await append("s", 0, number) for number in (0, 1)] == ["appended"] * 2
    assert await append("s", 5, 1) == "writer_gap"
    assert await append("s", 5, 0) == "appended"
    assert await append("s", 0, 2) == "writer_fenced"
    assert await append("other", 0, 0) == "appended"


async def test_repeat_is_partly_new_and_is_answered_after_the_end(client, run):
    def to(records: list, **more) -> dict:
        writer = {"id": "w", "epoch": 0, "sequence": 0}
        return {"id": 1, "run": run.id, "stream": "s", "records": records, "writer": writer, **more}

    await client.ask(type="append", **to([1, 2]))
    assert (await client.ask(type="append", **to([1, 2, 3])))["position"].endswith("3")
    writer = {"id": "w", "epoch": 0, "sequence": 0}
    patch = {"type": "run_patch", "id": 2, "run": run.id, "writer": writer}
    patch["patch"] = {"status": "failed", "error": {"type": "E", "message": "m"}}
    first = await client.ask(**patch)
    assert (await client.ask(**patch)) == first
    assert (await client.ask(type="append", **to([1, 2, 3])))["duplicate"] is True


async def test_a_request_that_is_sent_again_is_answered_as_the_table_says(client, run):
    value = new_run().to_wire()
    assert (await client.ask(type="run_create", id=1, value=value))["type"] == "result"
    assert (await client.ask(type="run_create", id=1, value=value))["code"] == "run_exists"
    deleted = [await client.ask(type="run_delete", id=1, run=value["id"]) for _ in range(2)]
    assert [each["value"] for each in deleted] == [True, False]
    spend = {"type": "spend", "id": 1, "token_id": "t", "uses": 1, "expires_at_ms": 2**50}
    assert [(await client.ask(**spend))["value"] for _ in range(2)] == [True, False]
    register = {"type": "register", "id": 1, "schemas": {"vote": {"type": "integer"}}}
    assert [(await client.ask(**register))["type"] for _ in range(2)] == ["result"] * 2


@pytest.mark.parametrize("field", ["payload", "created_at", "metadata_nulls", "colour"])
async def test_patch_of_a_field_that_may_not_change_is_refused(client, run, field):
    patch = {"tags": ["x"], field: None}
    answer = await client.ask(type="run_patch", id=1, run=run.id, patch=patch)
    assert answer["code"] == "invalid_value"
    assert (await client.ask(type="run_get", id=1, run=run.id))["value"]["run"]["tags"] == []


@pytest.mark.parametrize("status", sorted(FINAL_STATUSES))
async def test_new_run_that_has_ended_is_refused(client, status):
    value = new_run(status=status).to_wire()
    answer = await client.ask(type="run_create", id=1, value=value)
    assert (answer["code"], f"cannot be {status}" in answer["message"]) == ("invalid_value", True)
    assert (await client.ask(type="run_get", id=1, run=value["id"]))["code"] == "run_not_found"


async def test_gateway_fills_in_no_field_of_a_run_that_it_is_not_sent(client):
    run = new_run()
    required = ("id", "task", "status", "root_id", "created_at")
    value = {name: run.to_wire()[name] for name in required} | {"status": "executing"}
    kept = (await client.ask(type="run_create", id=1, value=value))["value"]
    assert (kept["started_at"], kept["owner"], kept["duration_ms"]) == (None, "", None)
    patch = {"status": "completed"}
    kept = (await client.ask(type="run_patch", id=1, run=run.id, patch=patch))["value"]
    assert (kept["finished_at"], kept["duration_ms"]) == (None, None)


async def test_reset_comes_before_gap_and_gap_before_records():
    async with (
        serving(retention=Retention(records=2)) as gateway,
        gateway.client(token=worker_token()) as client,
    ):
        run = await gateway.store.create_run(new_run())
        at = {"id": 1, "run": run.id, "stream": "s"}
        for value in range(5):
            await client.ask(type="append", **at, records=[value])
        await gateway.store.sweep()
        given = "0000000000000001_0000000000000002"
        opened = await client.ask(type="subscribe", **at, start={"position": given})
        assert (opened["type"], opened["position"]) == ("subscribed", given)
        reset, gap, records = [await client.receive() for _ in range(3)]
        assert (reset["type"], reset["reason"]) == ("reset", "epoch_changed")
        assert (gap["type"], gap["from"]) == ("gap", reset["position"])
        assert reset["position"].endswith("_0000000000000000")
        assert [each["data"] for each in records["records"]] == [3, 4]
        assert gap["to"] == records["position"][:17] + "0000000000000003"


# The description for machines.


async def test_results_are_of_the_shapes_that_the_asyncapi_document_says(client):
    document = asyncapi.document("1")
    value = new_run(tags=["x"]).to_wire()
    at = {"run": value["id"], "stream": "s"}
    asked = [
        {"type": "register", "schemas": {"vote": {"type": "integer"}}},
        {"type": "run_create", "value": value},
        {"type": "append", **at, "records": [1]},
        {"type": "head", **at},
        {"type": "read", **at},
        {"type": "run_patch", "run": value["id"], "patch": {"metadata": {"a": None}}},
        {"type": "run_get", "run": value["id"]},
        {"type": "runs_get", "runs": {"tag": "x"}},
        {"type": "run_list", "tag": "x"},
        {"type": "spend", "token_id": "t", "uses": 1, "expires_at_ms": 2**50},
        {"type": "delete", **at},
        {"type": "head", **at},
        {"type": "run_delete", "run": value["id"]},
    ]
    for request in asked:
        answer = await client.ask(id=1, **request)
        operation = document["operations"][request["type"]]
        names = [each["$ref"].rpartition("/")[2] for each in operation["reply"]["messages"]]
        message = document["components"]["messages"][names[0]]
        assert message["name"] == answer["type"], answer
        schema = {**message["payload"], "components": document["components"]}
        jsonschema.validate(answer, schema)
        if answer["type"] == "result":  # another shape fails, so the schema is a restriction
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(answer | {"value": [7]}, schema)
    assert {each["type"] for each in asked} == {
        str(request.__struct_config__.tag) for request in protocol.Request.__args__
    }


def test_asyncapi_document_has_every_code_of_an_error():
    errors = asyncapi.document("1")["x-errors"]
    said = {each["code"]: each["close_code"] for each in errors}
    assert said == {error.code: error.close_code for error in on_the_wire()}
