"""TypeScript types of streams, and `realtime types`."""

import asyncio
import enum
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import pytest
from pydantic import BaseModel, Field, TypeAdapter

from gateway import streams
from gateway.cli.typescript import declare
from gateway.sdk import stream_registry
from tests.support.gateways import SECRET, environment, serving, token_for

ROOT = Path(__file__).parents[2]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    """A place in a tree."""

    name: str = Field(description="What it is called. */ ends nothing.")
    children: list["Node"] = []
    color: Color | None = None


@dataclass
class Step:
    kind: Literal["step"]
    at: tuple[int, str]
    extra: dict[str, list[int | None]]


def schema(type_) -> dict:
    return TypeAdapter(type_).json_schema(mode="serialization")


def test_declare_writes_readable_types():
    text = declare({"tree": schema(Node), "my-steps": schema(Step | str), "text": schema(str)})
    assert text == (
        "// Written by `realtime types`. Do not edit: run it again when a stream's type changes.\n"
        "\n"
        "export interface Step {\n"
        '  kind: "step";\n'
        "  at: [number, string];\n"
        "  extra: { [key: string]: (number | null)[] };\n"
        "}\n"
        "\n"
        "/** A place in a tree. */\n"
        "export interface Node {\n"
        "  /** What it is called. * / ends nothing. */\n"
        "  name: string;\n"
        "  children?: Node[];\n"
        "  color?: Color | null;\n"
        "}\n"
        "\n"
        'export type Color = "red" | "blue";\n'
        "\n"
        "export interface Streams {\n"
        '  "my-steps": Step | string;\n'
        "  text: string;\n"
        "  tree: Node;\n"
        "}\n"
    )


def test_declare_renames_types_of_equal_name():
    one, other = schema(Node), schema(Node)
    other = {**other, "$defs": {**other["$defs"]}}
    other["$defs"]["Node"] = {**other["$defs"]["Node"], "description": "Another."}
    text = declare({"a": one, "b": other, "c": one})
    assert "export interface Node {" in text and "export interface Node2 {" in text
    assert "  a: Node;\n" in text and "  b: Node2;\n" in text and "  c: Node;\n" in text


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ({}, "unknown"),
        (True, "unknown"),
        ({"type": "object"}, "{ [key: string]: unknown }"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"anyOf": [{"type": "string"}, {}]}, "unknown"),
        ({"$ref": "https://example.com/other.json"}, "unknown"),
        ({"type": "array", "items": {"enum": [1, "a", None]}}, '(1 | "a" | null)[]'),
        ({"type": "array", "prefixItems": [{"type": "number"}]}, "[number, ...unknown[]]"),
        ({"allOf": [{"type": "string"}, {"type": "number"}]}, "string & number"),
    ],
)
def test_declare_maps_unsupported_schemas_to_unknown(given, written):
    schemas = {"s": {"type": "array", "items": given}}
    wrapped = f"({written})" if " | " in written or " & " in written else written
    assert f"  s: {wrapped}[];\n" in declare(schemas)


@pytest.fixture
def defined(monkeypatch):
    monkeypatch.setattr(stream_registry, "_defined", {})
    streams.define("tree", Node)
    streams.input("approval", bool)


async def test_schemas_require_read_scope_for_all_runs(defined):
    async with (
        serving() as gateway,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as http,
    ):

        async def ask(token: str) -> httpx.Response:
            return await http.get("/v1/schemas", headers={"Authorization": f"Bearer {token}"})

        assert (await http.get("/v1/schemas")).status_code == 401
        assert (await ask(token_for("read:runs:run_1"))).status_code == 403
        for token in (SECRET, token_for("read:runs:*")):
            found = (await ask(token)).raise_for_status().json()
            assert found["streams"]["tree"] == schema(Node)
            assert found["streams"]["approval"] == {"type": "boolean"}


STREAMS = """
from dataclasses import dataclass
from gateway import streams

@dataclass
class Progress:
    current: int
    total: int

progress = streams.define("progress", Progress)
"""


async def realtime(folder: Path, *arguments: str, **env: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "types", *arguments),
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT), **env),
        stdout=PIPE,
        stderr=PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def test_types_writes_and_checks_types_of_module(tmp_path):
    (tmp_path / "shop_streams.py").write_text(STREAMS)
    code, out, errors = await realtime(tmp_path, "shop_streams")
    assert code == 0, errors
    assert "export interface Progress {\n  current: number;\n  total: number;\n}\n" in out
    assert "  progress: Progress;\n" in out
    checked = ("shop_streams", "--check", "-o", "streams.ts")
    code, _, errors = await realtime(tmp_path, *checked)
    assert (code, "streams.ts is out of date" in errors) == (1, True)
    assert (await realtime(tmp_path, "shop_streams", "-o", "streams.ts"))[0] == 0
    assert (tmp_path / "streams.ts").read_text() == out
    assert (await realtime(tmp_path, *checked))[0] == 0
    (tmp_path / "shop_streams.py").write_text(STREAMS.replace("total: int", "total: float | None"))
    assert (await realtime(tmp_path, *checked))[0] == 1


async def test_types_reads_streams_of_gateway(defined, tmp_path):
    async with serving() as gateway:
        code, out, errors = await realtime(tmp_path, "--url", gateway.url)
        assert code == 0, errors
        assert "  tree: Node;\n" in out and "  approval: boolean;\n" in out
        token = token_for("read:runs:run_1")
        code, _, errors = await realtime(tmp_path, "--url", gateway.url, "--token", token)
        assert (code, errors.count("\n")) == (1, 1) and "read:runs:*" in errors


async def test_types_reports_missing_module_in_one_line(tmp_path):
    code, _, errors = await realtime(tmp_path, "nowhere.streams")
    assert (code, errors.count("\n")) == (1, 1) and "nowhere" in errors
