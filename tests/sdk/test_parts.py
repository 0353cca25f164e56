"""Parts on the wire, and the assembler: the same cases as the browser's."""

import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway import connect, current_run, streams, task
from gateway.errors import InvalidValue, StreamIncomplete
from gateway.integrations.langchain import from_langchain
from gateway.sdk import parts as all_parts
from gateway.sdk.assembler import AssembledParts, Assembler, assemble, assemble_by_source
from gateway.sdk.parts import (
    PART,
    DataPart,
    ErrorPart,
    Finish,
    Part,
    ReasoningDelta,
    Source,
    Step,
    TextDelta,
    ToolApproval,
    ToolCall,
    ToolInputDelta,
    ToolInputStart,
    ToolResult,
    UnknownPart,
)
from gateway.sdk.stream_reader import ReadRecord
from gateway.sdk.writers.stream_writer import MAX_RECORD_BYTES
from tests.support.gateways import SECRET, gateway_process
from tests.support.protocol_cases import CASES

EVERY_PART = [
    TextDelta("Hi"),
    ReasoningDelta("Hm"),
    ToolInputStart("c1", "weather"),
    ToolInputDelta("c1", '{"city": "Os'),
    ToolCall("c1", "weather", {"city": "Oslo"}),
    ToolApproval("c1", "denied", "too far"),
    ToolResult("c1", {"celsius": 3}, is_error=False),
    Source("doc_1", "https://example.com", "A page"),
    DataPart("chart", [1, 2]),
    Step(0, "start"),
    ErrorPart("overloaded"),
    Finish("stop", {"input_tokens": 3}),
]


def test_every_part_is_here() -> None:
    named = set(get_args(get_args(Part)[0]))
    assert {type(part) for part in EVERY_PART} | {UnknownPart} == named
    assert set(all_parts._CLASSES.values()) | {UnknownPart} == named


def test_the_document_names_every_part_and_field() -> None:
    text = (Path(__file__).parents[2] / "docs" / "parts.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| ((?:`\w+`(?:, )?)+) \|", text, re.MULTILINE))
    assert {type_: re.findall(r"\w+", fields) for type_, fields in rows.items()} == {
        part.type: [field.name for field in fields(part) if field.name != "type"]
        for part in EVERY_PART
    }


@pytest.mark.parametrize("part", EVERY_PART, ids=lambda part: part.type)
def test_a_part_is_read_as_it_was_written(part: Part) -> None:
    answer = streams.define("answer", Part)
    written = answer.encode(part)
    assert json.loads(written) == asdict(part)
    assert answer.decode(written) == part
    assert answer.decode(answer.encode(json.loads(written))) == part


@pytest.mark.parametrize(
    ("wire", "part"),
    [
        ({"type": "tool-call", "id": "c1", "name": "now"}, ToolCall("c1", "now", {})),
        ({"type": "tool-result", "id": "c1"}, ToolResult("c1", None, is_error=False)),
        ({"type": "finish"}, Finish("stop", None)),
        ({"type": "source"}, Source(None, None, None)),
        ({"type": "text-delta", "text": "a", "annotations": [1]}, TextDelta("a")),
    ],
)
def test_fields_may_be_left_out_or_be_new(wire: dict[str, object], part: Part) -> None:
    assert PART.validate_python(wire) == part
    assert PART.validate_json(json.dumps(wire)) == part


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(deadline=None)
@given(
    fields=st.dictionaries(
        st.sampled_from(["copy", "json", "model_config", "model_extra", "__dict__", "text", ""])
        | st.text(st.characters(exclude_categories=["Cs"])),
        _JSON,
        max_size=5,
    ),
    type_=st.sampled_from(["citation", "unknown", "", "Text-Delta", "text-delta "]),
)
def test_a_part_of_an_unknown_type_keeps_all_its_fields(
    fields: dict[str, object], type_: str
) -> None:
    wire = fields | {"type": type_}
    from_python, from_json = PART.validate_python(wire), PART.validate_json(json.dumps(wire))
    assert isinstance(from_python, UnknownPart) and from_python.type == type_
    for part in (from_python, from_json):
        assert json.loads(PART.dump_json(part)) == wire
    Assembler().add(from_json)


@pytest.mark.parametrize(
    ("wire", "named"),
    [
        ({"text": "no type"}, "type"),
        ({"type": None}, "type"),
        ({"type": ["text-delta"]}, "type"),
        ({"type": "text-delta"}, "text"),
        ({"type": "text-delta", "text": 4}, "text"),
        ({"type": "tool-approval", "id": "c1", "state": "maybe"}, "state"),
        ("text-delta", "unknown"),
    ],
)
def test_encode_rejects_invalid_part(wire: object, named: str) -> None:
    with pytest.raises(InvalidValue, match=f"'answer'.*{named}"):
        streams.define("answer", Part).encode(wire)


# The assembler.


@pytest.mark.parametrize("case", CASES["parts"], ids=lambda case: case["name"])
def test_assembled(case: dict[str, object]) -> None:
    from_dicts, from_parts = Assembler(), Assembler()
    for wire in case["parts"]:
        from_dicts.add(wire)
        from_parts.add(PART.validate_python(wire))
        _ = from_parts.parts  # looking changes nothing
    assert asdict(from_dicts.parts) == case["result"]
    assert asdict(from_parts.parts) == case["result"]
    assert list(from_parts.tool_calls) == [call["id"] for call in case["result"]["tool_calls"]]


@pytest.mark.parametrize("case", CASES["parts_by_source"], ids=lambda case: case["name"])
async def test_assembled_by_source(case: dict[str, object]) -> None:
    async def records():
        for offset, wire in enumerate(case["records"]):
            value = PART.validate_python(wire["data"])
            yield ReadRecord(value, offset, 0, wire.get("source", case["run"]), "")

    answers = await assemble_by_source(records())
    assert [
        {"source": source, "parts": asdict(answer.parts)} for source, answer in answers.items()
    ] == case["result"]


def test_returned_parts_are_immutable_snapshots() -> None:
    for case in CASES["parts"]:
        assembler = Assembler()
        handed_out: list[tuple[AssembledParts, AssembledParts]] = []
        for wire in case["parts"]:
            assembler.add(wire)
            handed_out.append((assembler.parts, AssembledParts(**vars(assembler.parts))))
            assert all(value == copy for value, copy in handed_out)


def test_a_dict_that_is_no_part_is_refused() -> None:
    with pytest.raises(ValidationError):
        Assembler().add({"type": "text-delta"})


# Through a store.


async def test_an_answer_is_written_by_a_run_and_assembled_by_a_reader() -> None:
    answer = streams.define("answer", Part)

    @task
    async def ask() -> int:
        await answer.pipe([*EVERY_PART, {"type": "citation", "page": 4}])
        return 1

    async with connect(store="memory:"):
        run = await ask.trigger()
        whole = await assemble(answer.read(run.id, timeout_s=10))
        assert (whole.text, whole.reasoning, whole.error) == ("Hi", "Hm", "overloaded")
        assert whole.tool_calls["c1"].state == "denied"
        assert whole.finish is not None and whole.finish.usage == {"input_tokens": 3}
        values = [value async for value in answer.read(run.id, timeout_s=10)]
        assert values[-1].model_extra == {"page": 4}


async def test_parts_are_assembled_separately_by_source() -> None:
    answer = streams.define("answer", Part)

    @task
    async def research(topic: str) -> str:
        for piece in (topic, " is old."):
            answer.append(TextDelta(piece), target="parent")
        return current_run().id

    @task
    async def ask() -> str:
        answer.append(TextDelta("I ask. "))
        result = await research.trigger_and_wait(topic="Rome")
        answer.append(TextDelta("Thanks."))
        return result.output

    async with connect(store="memory:"):
        run = await ask.trigger()
        answers = await assemble_by_source(answer.read_records(run.id, timeout_s=10))
        assert {source: whole.text for source, whole in answers.items()} == {
            run.id: "I ask. Thanks.",
            (await run.wait()).output: "Rome is old.",
        }


# What a record cannot carry.


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (ToolResult("c1", "x" * 1_500_000), "output"),
        (ToolResult("c1", {"page": "\u20ac" * 700_000, "n": 1}), "output"),
        (ToolResult("c1", "\0" * 300_000), "output"),
        (ToolCall("c1", "write", {"lines": ["x" * 1000] * 1500}), "input"),
        (TextDelta("y" * 2_000_000), "text"),
        (ToolInputDelta("c1", '"' * 900_000), "delta"),
        (ErrorPart("no" * 1_000_000), "message"),
        (Source(None, "https://a.example/" + "a" * 2_000_000, "t" * 2_000_000), "url"),
    ],
)
def test_part_over_the_record_limit_is_truncated_with_its_size(part: Part, field: str) -> None:
    answer = streams.define("answer", Part)
    size = len(PART.dump_json(part))
    for value in (part, asdict(part)):
        written = answer.encode(value)
        assert len(written) <= MAX_RECORD_BYTES
        read = answer.decode(written)
        cut, mark = re.fullmatch(r"(.*)… \[truncated: (\d+) bytes in full]", getattr(read, field),
                                 re.DOTALL).groups()  # fmt: skip
        assert size - 200 <= int(mark) <= size or isinstance(part, Source)
        assert len(written) > 0.9 * MAX_RECORD_BYTES or isinstance(part, Source)
        whole = getattr(part, field)
        if not isinstance(whole, str):
            whole = PART.dump_json(ToolResult("", whole)).decode().partition('"output":')[2]
        assert whole.startswith(cut)
        assert (read.type, getattr(read, "id", None)) == (part.type, getattr(part, "id", None))


def test_part_with_values_that_json_has_not_is_stored() -> None:
    answer = streams.define("answer", Part)
    half, deep = "a\ud83d", "bottom"
    for _ in range(300):
        deep = [deep]
    for part, read in [
        (TextDelta(half), TextDelta("a\ufffd")),
        (ToolResult(half, [half, "\ud83d\ude00"]), ToolResult("a\ufffd", ["a\ufffd", "😀"])),
        (ToolResult("c1", {half: 1}), ToolResult("c1", {"a\ufffd": 1})),
        (ToolResult("c1", [float("nan"), -float("inf")]), ToolResult("c1", ["NaN", "-Infinity"])),
        (ToolCall("c1", "f", {"id": 2**63}), ToolCall("c1", "f", {"id": str(2**63)})),
    ]:
        assert answer.decode(answer.encode(part)) == read
    assert b"bottom" not in answer.encode(ToolResult("c1", deep))


def test_value_of_the_application_is_refused_and_never_truncated() -> None:
    answer = streams.define("answer", Part)
    assert len(answer.encode(DataPart("page", "x" * 1_500_000))) > MAX_RECORD_BYTES
    with pytest.raises(InvalidValue):
        answer.encode(DataPart("page", "\ud83d"))
    text = streams.define("text", str)
    assert len(text.encode("x" * 1_500_000)) > MAX_RECORD_BYTES


async def test_part_over_record_limit_is_truncated_and_pipe_continues() -> None:
    answer = streams.define("answer", Part)

    @task
    async def ask() -> None:
        async def parts():
            yield ToolResult("c1", {"page": "x" * 1_500_000})
            yield TextDelta("It says x.")

        await answer.pipe(parts())
        answer.append(ToolResult("c2", "y" * 1_500_000))

    async with connect(store="memory:"):
        run = await ask.trigger()
        whole = await assemble(answer.read(run.id, timeout_s=10))
        assert (await run.wait()).ok
    assert whole.text == "It says x."
    assert whole.tool_calls["c1"].output.startswith('{"page":"xxx')
    assert whole.tool_calls["c2"].output.endswith("… [truncated: 1500002 bytes in full]")


async def test_part_over_the_limit_of_a_workers_gateway_is_truncated_to_that(tmp_path) -> None:
    answer = streams.define("answer", Part)

    @task
    async def ask() -> None:
        async def events():
            yield "y" * 100_000

        answer.append(ToolResult("c1", "x" * 100_000))
        await answer.pipe(from_langchain(events()))

    env = {"REALTIME_RECORD_BYTES": "20000", "REALTIME_SECRET_KEY": SECRET}
    with gateway_process("memory:", tmp_path, **env) as gateway:
        async with connect(gateway.url, secret_key=SECRET):
            run = await ask.trigger()
            whole = await assemble(answer.read(run.id, timeout_s=10))
            assert (await run.wait()).ok
    assert whole.text == "y" * 100_000
    assert whole.tool_calls["c1"].output.endswith("x… [truncated: 100002 bytes in full]")
    assert 18_000 < len(whole.tool_calls["c1"].output) < 20_000


async def test_assembling_an_answer_that_broke_off_raises() -> None:
    answer = streams.define("answer", Part)

    @task
    async def ask() -> None:
        answer.append(ErrorPart("overloaded"))
        raise RuntimeError("overloaded")

    async with connect(store="memory:"):
        run = await ask.trigger()
        with pytest.raises(StreamIncomplete):
            await assemble(answer.read(run.id, timeout_s=10))
