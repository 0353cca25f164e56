"""The client's types, checked by the TypeScript compiler."""

import re
import shutil
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from gateway.cli.typescript import declare
from gateway.model.runs import STATUSES, Run
from gateway.server.api.client_assets import FOLDER, client_types
from tests.support.clients.typescript import check

HERE = Path(__file__).parent


def with_types(folder: Path, name: str) -> Path:
    shutil.copy(FOLDER / "client.d.ts", folder)
    shutil.copy(HERE / "types" / name, folder)
    return folder


def test_program_that_uses_whole_api_compiles(tmp_path):
    assert check(with_types(tmp_path, "page.ts"), "page.ts") == ""


def test_hooks_compile_with_types_of_react(tmp_path):
    assert check(with_types(tmp_path, "react.ts"), "react.ts") == ""


def test_misuse_of_types_does_not_compile(tmp_path):
    with_types(tmp_path, "page.ts")
    wrong = 'import { connect } from "./client.js";\nconnect().stream("run_1");\n'
    (tmp_path / "wrong.ts").write_text(wrong)
    assert "wrong.ts(2," in check(tmp_path, "wrong.ts")


class Leaf(BaseModel):
    """A leaf of a tree."""

    name: str
    children: list["Leaf"] = []
    point: tuple[int, float] | None = None


def test_generated_stream_types_compile_and_check(tmp_path):
    with_types(tmp_path, "page.ts")
    schemas = {"tree": TypeAdapter(Leaf).json_schema(mode="serialization"), "a b": {}}
    (tmp_path / "streams.ts").write_text(declare(schemas))
    (tmp_path / "uses.ts").write_text(
        'import { connect } from "./client.js";\n'
        'import type { Streams } from "./streams.js";\n'
        'for await (const leaf of connect().stream<Streams["tree"]>("run_1", "tree")) {\n'
        "  const x: number | undefined = leaf.children?.[0]?.point?.[1];\n"
        "  // @ts-expect-error: no such field\n"
        "  leaf.size;\n"
        "  void x;\n"
        "}\n"
    )
    assert check(tmp_path, "uses.ts") == ""


def test_types_list_every_field_and_status_of_run():
    types = client_types()
    (run,) = re.findall(r"export interface RunFields<.*?\{(.*?)\n\}", types, flags=re.S)
    fields = set(re.findall(r"readonly (\w+):", run))
    wire = set(Run(id="run_1", task="t", status="queued", root_id="run_1", created_at="").to_wire())
    assert wire - fields == set()
    (statuses,) = re.findall(r"type RunStatus =(.*?);", types, flags=re.S)
    assert set(re.findall(r'"(\w+)"', statuses)) == set(STATUSES)
