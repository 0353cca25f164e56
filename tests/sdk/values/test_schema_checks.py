"""Checks of inputs take bounded time, and no schema makes the gateway read a URL or a file."""

import asyncio
import json
import re
import time
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal, Union
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway import streams, task
from gateway.errors import InvalidValue
from gateway.model.limits import HASHED_ITEMS, REGISTERED_SCHEMAS, SCHEMA_BYTES, SCHEMA_PARTS
from gateway.sdk.values import input_schemas, schema_checks
from gateway.sdk.values.schema_checks import Checker
from tests.support.gateways import DEADLINE_S, serving, token_for

CPU_S = 2.0  # limit of one check; the slowest takes 0.5 on an idle machine
REPEATED = r"^(\w+\s?)*$"


class Left(BaseModel):
    child: "Left | Right | datetime | None" = None


class Right(BaseModel):
    child: "Left | Right | datetime | None" = None
    more: int = 0


class Literally(BaseModel):
    kind: Literal["literal"]
    value: int


class Negated(BaseModel):
    kind: Literal["negated"]
    of: "Expression"


class Sum(BaseModel):
    kind: Literal["sum"]
    of: list["Expression"]


Expression = Annotated[Union[Literally, Negated, Sum], Field(discriminator="kind")]  # noqa: UP007
Negated.model_rebuild()
Sum.model_rebuild()


def schema_of(type_):
    return TypeAdapter(type_).json_schema()


def nested(levels, inner, name="child"):
    for _ in range(levels):
        inner = {name: inner}
    return inner


def doubling(levels):
    """Each definition evaluates the next one twice, one level deeper."""
    defs = {"a0": {"type": "string"}}
    for i in range(1, levels):
        both = [{"$ref": f"#/$defs/a{i - 1}"}] * 2
        defs[f"a{i}"] = {"properties": {"child": {"allOf": both}}}
    return {"$defs": defs, "$ref": f"#/$defs/a{levels - 1}"}


MANY = 300_000
HOSTILE = {
    "unique items": ({"uniqueItems": True}, [[i] for i in range(60_000)]),
    "unique objects": ({"uniqueItems": True}, [{"a": i} for i in range(40_000)]),
    "pattern": ({"pattern": REPEATED}, "a" * 26 + "!"),
    "pattern and a long text": ({"pattern": REPEATED}, "a" * 1_000_000 + "!"),
    "pattern made to be slow": ({"pattern": "1(a?b?0?1?){512}Z"}, "ab01" * 700),
    "pattern with a long text": ({"pattern": "1(a?b?0?1?){16}Z"}, "ab01" * 250_000),
    "patterns for each item": ({"items": {"pattern": r"1(\w|\d){16}Z"}}, ["ab01" * 25] * 9_000),
    "patterns of names": (
        {"items": {"patternProperties": {f"p+{i}$": {} for i in range(100)}}},
        [{"a": 1}] * 100_000,
    ),
    "objects in an enum": ({"items": {"enum": [{"a": i} for i in range(5000)]}}, [{"a": 1}] * MANY),
    "dependent names": (
        {"items": {"dependentRequired": {f"p{i}": ["x"] for i in range(5000)}}},
        [{}] * MANY,
    ),
    "multiples": ({"items": {"multipleOf": 0.1}}, [1e308] * 100_000),
    "large multiple": ({"multipleOf": 10**4000, "maximum": -(10**4000)}, 1),
    "alternatives": (
        {"anyOf": [{"type": "string", "minLength": i} for i in range(500)]},
        [1] * MANY,
    ),
    "doubling references": (doubling(30), nested(29, "x")),
    "recursion in both members": (schema_of(Left | Right), nested(100, 1)),
    "not evaluated yet": ({"unevaluatedProperties": {"$ref": "#"}}, nested(100, 1)),
    "recursion without an end": ({"items": {"$ref": "#"}}, json.loads("[" * 127 + "]" * 127)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_check_takes_bounded_time(name):
    schema, value = HOSTILE[name]
    data = json.dumps(value).encode()
    begun = time.thread_time()
    checker = Checker(schema)
    checker.fault(data)
    assert time.thread_time() - begun < CPU_S


COLLIDING = [i * (2**61 - 1) for i in range(1, 20_000)]
BY_TYPE = {
    "set of texts": (set[str], [f"{i}" for i in range(100_000)]),
    "set of integers of one hash": (set[int], COLLIDING),
    "integers of one hash as keys": (dict[int, int], {str(i): 1 for i in COLLIDING}),
    "UUIDs of one hash": (set[UUID], [str(UUID(int=i)) for i in COLLIDING]),
    "decimals of one hash": (set[Decimal], [str(i) for i in COLLIDING]),
    "union of objects in themselves": (Left | Right, nested(100, None)),
    "faults in such a union": (Left | Right, nested(16, "no date")),
    "many faults": (list[int | float | bool], [""] * MANY),
    "many faults of form": (list[datetime | date], [""] * MANY),
}


@pytest.mark.parametrize("name", BY_TYPE)
def test_check_by_a_type_of_this_process_takes_bounded_time(name):
    type_, value = BY_TYPE[name]
    data = json.dumps(value).encode()
    streams.input("bounded-by-type", type_)
    begun = time.thread_time()
    try:
        input_schemas.check("bounded-by-type", data)
    except InvalidValue as error:
        assert "bounded-by-type" in error.message and len(error.message) < 1000
    assert time.thread_time() - begun < CPU_S


@pytest.mark.parametrize("type_", [set[UUID], dict[int, int], set[Decimal]])
def test_task_refuses_as_many_values_of_one_hash_as_the_gateway_does(type_):
    items = streams.input("of-one-hash", type_)
    values = COLLIDING[: HASHED_ITEMS + 1]
    texts = [str(UUID(int=i)) if type_ == set[UUID] else str(i) for i in values]
    given = texts if type_ != dict[int, int] else dict.fromkeys(texts, 1)
    for check in (items.decode, lambda data: input_schemas.check("of-one-hash", data)):
        with pytest.raises(InvalidValue, match=f"{HASHED_ITEMS + 1} items .* limit is"):
            check(json.dumps(given).encode())
    few = texts[:20] if type_ != dict[int, int] else dict.fromkeys(texts[:20], 1)
    assert len(items.decode(json.dumps(few).encode())) == 20


def test_many_ordinary_integers_may_be_keys():
    ids = streams.input("ordinary-keys", dict[int, str])
    data = json.dumps({str(i): "x" for i in range(5000)}).encode()
    input_schemas.check("ordinary-keys", data)
    assert len(ids.decode(data)) == 5000


def test_recursive_union_with_discriminator_is_checked_at_any_depth():
    checker = Checker(schema_of(Expression))
    value = {"kind": "literal", "value": 1}
    for _ in range(40):
        value = {"kind": "negated", "of": {"kind": "sum", "of": [value]}}
    assert checker.fault(json.dumps(value).encode()) is None
    wrong = {"kind": "negated", "of": {"kind": "literal", "value": "one"}}
    assert checker.fault(json.dumps(wrong).encode()) == 'of.value: "one" is not of type "integer"'
    assert "kind" in checker.fault(b'{"kind": "other"}')


def test_union_of_objects_in_themselves_is_checked_when_it_is_small():
    checker = Checker(schema_of(Left | Right))
    assert checker.fault(json.dumps(nested(8, None)).encode()) is None
    assert "discriminator" in checker.fault(json.dumps(nested(40, None)).encode())
    assert "deeper than 128" in checker.fault(json.dumps(nested(200, None)).encode())


@pytest.mark.parametrize(
    ("type_", "accepted", "refused"),
    [
        (Annotated[str, Field(pattern=r"^\w{3,30}$")], "Zoë", "a b"),
        (Annotated[str, Field(pattern=r"^[\w-]+$")], "Zoë-1", "a.b"),
        (Annotated[str, Field(pattern=r"^\d+\s\D$")], "\u0663 x", "3 4"),
        (Annotated[str, Field(pattern=r"^.{1,500}$")], "Zoë was here", "x" * 501),
        (Annotated[str, Field(pattern=r"^\S{3,300}$")], "Zoë", "a b"),
        (Annotated[str, Field(pattern=r'^[^"]{1,300}\.$')], "Zoë.", '"Zoë".'),
        (dict[Annotated[str, Field(pattern=r"^\w+$")], int], {"Zoë": 1}, {"Zoë": "1"}),
        (Annotated[float, Field(multiple_of=0.5)], 1.5, 1.2),
        (Annotated[int, Field(multiple_of=5)], 10, 12),
        (set[int], [1, 2], [1, 1]),
    ],
)
def test_schema_and_type_accept_the_same(type_, accepted, refused):
    adapter, checker = TypeAdapter(type_), Checker(schema_of(type_))
    assert checker.fault(json.dumps(accepted).encode()) is None
    adapter.validate_json(json.dumps(accepted))
    assert checker.fault(json.dumps(refused).encode()) is not None


def test_decimal_is_checked_by_the_pattern_that_pydantic_had_for_it():
    pattern = r"^(?!^[-+.]*$)[+-]?0*\d{0,3}(?:\.\d{0,2}0*)?$"  # of Pydantic 2.12
    checker = Checker({"anyOf": [{"type": "number"}, {"type": "string", "pattern": pattern}]})
    for right in ('"1.5"', '"-.50"', '"007"', "1.5"):
        assert checker.fault(right.encode()) is None, right
    for wrong in ('"."', '"-"', '""', '"1234"', '"1.555"', '"one"', "true"):
        assert checker.fault(wrong.encode()) is not None, wrong


def test_gateway_rejects_input_that_the_task_cannot_read():
    streams.input("due", datetime)
    with pytest.raises(InvalidValue, match=r"stream 'due'.*datetime"):
        input_schemas.check("due", b'"tomorrow"')  # a text, as the JSON Schema allows
    input_schemas.check("due", b'"2026-01-01"')
    input_schemas.check("due", b'"2026-01-01T10:00:00Z"')


@pytest.mark.parametrize("data", [b'"\\ud800"', b"[" * 900 + b"]" * 900, b"[" * 2000 + b"]" * 2000])
def test_what_no_reader_takes_is_refused(data):
    for schema in ({"type": "string"}, {}):
        assert Checker(schema).fault(data) is not None


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "http://127.0.0.1:1/x"}, "no reference leaves it"),
        ({"$ref": "file:///etc/passwd"}, "no reference leaves it"),
        ({"$ref": "other.json"}, "no reference leaves it"),
        ({"$ref": "#/$defs/missing"}, "names no schema in this document"),
        ({"properties": {"a": {"$ref": "//127.0.0.1/x"}}}, "no reference leaves it"),
        ({"$dynamicRef": "http://127.0.0.1:1/x"}, r"\$dynamicRef is not supported"),
        ({"$defs": {"a": {"$id": "http://127.0.0.1:1/x"}}}, r"\$id is supported at the top"),
        ({"$ref": "#"}, "refers to itself without descending"),
        (
            {"$defs": {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(99)} | {"a99": {}}},
            "by more than 64 references",
        ),
        (nested(100, {}, "items"), "nested deeper than 64"),
        ({"title": "x" * SCHEMA_BYTES}, f"the limit is {SCHEMA_BYTES}"),
        ({"anyOf": [{} for _ in range(SCHEMA_PARTS)]}, "schemas in it"),
        ({"anyOf": [{"pattern": "a"}] * 200}, "200 patterns; the limit is 128"),
        ({"pattern": "^(?=a)b"}, "cannot be checked in linear time"),
        ({"pattern": "^(.?b?){2000}$"}, r"(?<!InvalidValue: )the pattern .* are too large"),
        ({"allOf": [{"pattern": rf"\p{{L}}{{30}}{i}"} for i in range(128)]}, "too large"),
        ({"pattern": "a{1000}{1000}{1000}"}, "cannot be checked in linear time"),
        ({"patternProperties": {"^(?=a)b": {}}}, "pattern|regex"),
        ({"type": "no type"}, "no JSON Schema"),
        ({"properties": 3}, "no JSON Schema"),
        ({"patternProperties": 3}, "no JSON Schema"),
        ({"multipleOf": 0}, "no JSON Schema"),
        ({"enum": ["\ud800"]}, "no JSON Schema"),
        ({"maximum": 10**5000}, "no JSON Schema"),
        ({"oneOf": [3], "discriminator": {"mapping": {"a": 3}}}, "no JSON Schema"),
    ],
)
def test_schema_that_is_not_bounded_is_refused_with_the_reason(schema, reason):
    begun = time.thread_time()
    with pytest.raises(InvalidValue, match=f"stream 'vote': .*(?:{reason})"):
        input_schemas.check_schema("vote", schema)
    assert time.thread_time() - begun < CPU_S


async def test_registering_a_schema_fetches_nothing(tmp_path):
    asked = []

    async def answer(_, writer):
        asked.append(1)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/schema"
    there = tmp_path / "schema.json"
    there.write_text('{"type": "integer"}')
    worker = token_for("read:runs:*", "write:runs:*")
    async with serving() as gateway, gateway.client(token=worker) as client:
        for id, reference in enumerate([url, there.as_uri(), f"{url}#/$defs/a"], 1):
            frame = {"type": "register", "id": id, "schemas": {"fetched": {"$ref": reference}}}
            assert (await client.ask(**frame))["code"] == "invalid_value"
        known = {"$schema": url, "$id": f"{url}/2", "type": "integer"}
        frame = {"type": "register", "id": 9, "schemas": {"fetched": known}}
        assert (await client.ask(**frame))["type"] == "result"
    with pytest.raises(InvalidValue, match="is not of type"):
        input_schemas.check("fetched", b'"x"')
    assert not asked
    server.close()


async def test_registered_schema_is_compiled_once(monkeypatch):
    compiled = []

    class Counted(schema_checks.Checker):
        def __init__(self, schema):
            compiled.append(schema)
            super().__init__(schema)

    monkeypatch.setattr(schema_checks, "Checker", Counted)
    schema = {"type": "integer", "title": "Compiled once"}
    async with serving() as gateway:
        worker = token_for("read:runs:*", "write:runs:*")
        async with gateway.client(token=worker) as client:
            for id in (1, 2):
                frame = {"type": "register", "id": id, "schemas": {"compiled-once": schema}}
                assert (await client.ask(**frame))["type"] == "result"
        with pytest.raises(InvalidValue, match="is not of type"):
            input_schemas.check("compiled-once", b'"x"')
    assert compiled == [schema]


async def test_hostile_inputs_do_not_block_the_event_loop():
    names = streams.input("names", set[str])
    streams.input("words", Annotated[str, Field(pattern=REPEATED)])

    @task
    async def collect() -> int:
        return len(await names.once(timeout_s=DEADLINE_S))

    async with serving() as gateway:
        run = await collect.trigger()
        token = token_for(f"write:streams:{run.id}/names", f"write:streams:{run.id}/words")
        async with gateway.client(token=token) as client:
            used = time.thread_time()
            words = {"type": "append", "run": run.id, "stream": "words"}
            refused = await client.ask(**words, id=1, records=["a" * 26 + "!"])
            assert refused["code"] == "invalid_value" and "does not match" in refused["message"]
            many = [[f"{i:04}" for i in range(6000)]]
            accepted = await client.ask(**{**words, "stream": "names"}, id=2, records=many)
            assert accepted["type"] == "appended"
            assert time.thread_time() - used < CPU_S
        assert (await run.wait()).output == 6000


def test_pattern_for_the_engine_of_python_is_refused_where_the_input_is_defined():
    class Slow(BaseModel):
        model_config = ConfigDict(regex_engine="python-re")
        name: Annotated[str, Field(pattern="^(?=a)b")]

    for type_ in (Slow, list[Slow], Annotated[str, Field(pattern=re.compile("^(?=a)b"))]):
        with pytest.raises(InvalidValue, match=r"input 'slow': .*\(\?=a\).*rust-regex"):
            streams.input("slow", type_)


def test_schemas_of_workers_that_left_make_room():
    for number in range(2 * REGISTERED_SCHEMAS):
        input_schemas.register({f"left-{number}": {"type": "integer"}}, "worker_1")
        input_schemas.release("worker_1")
    assert len(input_schemas.registered()) <= REGISTERED_SCHEMAS
    assert f"left-{2 * REGISTERED_SCHEMAS - 1}" in input_schemas.registered()
    many = {f"held-{number}": {"type": "integer"} for number in range(REGISTERED_SCHEMAS + 1)}
    with pytest.raises(InvalidValue, match=f"the limit is {REGISTERED_SCHEMAS}"):
        input_schemas.register(many, "worker_2")
