"""The types that mypy infers for a user of the library; pyright infers the same."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SNIPPET = """
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

import gateway.ui
import ui
from gateway import runs, streams, task, wait
from gateway.sdk.parts import ErrorPart, Part
from gateway.ui import RealtimeRun, use_realtime_run, use_realtime_run_with_streams


@dataclass
class A:
    x: int


@dataclass
class B:
    y: str


reveal_type(streams.define("x"))  # Stream[str]
reveal_type(streams.define("x", A))  # Stream[A]
reveal_type(streams.define("x", A | B))  # Stream[A | B]
reveal_type(streams.define("x", Annotated[A | B, Field(description="")]))  # Stream[A | B]
reveal_type(streams.define("x", list[A | None]))  # Stream[list[A | None]]
reveal_type(streams.define("x", dict[str, Any]))  # Stream[dict[str, Any]]
reveal_type(streams.input("x", A | B))  # InputStream[A | B]
parts = streams.define("x", Part)


async def read() -> None:
    async for part in parts.read("run_1"):
        if isinstance(part, ErrorPart):
            reveal_type(part.message)  # str
    async for either in streams.define("x", A | B).read("run_1"):
        reveal_type(either)  # A | B


@task
async def add(a: int, b: int) -> int:
    return a + b


@task
def make(a: int) -> A:
    return A(a)


reveal_type(use_realtime_run("run_1", task=add).output)  # NumberVar[int]
reveal_type(use_realtime_run("run_1", task=make).output)  # ObjectVar[A]
reveal_type(use_realtime_run_with_streams("run_1", task=make).output)  # ObjectVar[A]
untyped: RealtimeRun = use_realtime_run("run_1")


def of_either_import_path(run: gateway.ui.PageRun) -> ui.PageRun:
    return run


def of_a_computed_type(type_: Any) -> None:
    reveal_type(streams.define("x", type_))  # Stream[Any]


@task
async def count(to: int, name: str = "") -> list[int]:
    return []


def plain_code() -> None:
    reveal_type(count.trigger_sync(3, name="a"))  # RunHandle[list[int]]
    reveal_type(count.trigger_sync(3).wait_sync().output)  # list[int]
    reveal_type(count.trigger_and_wait_sync(3))  # RunResult[list[int]]
    count.trigger_sync(m=3)  # type: ignore[call-arg]
    for value in streams.define("x", A | B).read_sync("run_1", timeout_s=1):
        reveal_type(value)  # A | B
    for run in runs.subscribe_sync("run_1"):
        reveal_type(run)  # Run
    reveal_type(wait.for_token_sync(wait.create_token_sync(A)))  # A
"""


def test_types_are_inferred_from_definitions(tmp_path):
    snippet = tmp_path / "snippet.py"
    snippet.write_text(SNIPPET)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    checked = subprocess.run(
        [*command, "--no-error-summary", str(snippet)], cwd=ROOT, capture_output=True, text=True
    )
    lines = [re.sub(r"[\w.]+\.(?=[A-Z])", "", line) for line in checked.stdout.splitlines()]
    found = {
        int(line.split(":")[1]): re.sub(r'.*Revealed type is "(.*)"', r"\1", line)
        for line in lines
        if "Revealed type" in line
    }
    wanted = {
        number: line.partition("  # ")[2]
        for number, line in enumerate(SNIPPET.splitlines(), 1)
        if "reveal_type" in line
    }
    assert {number: type_.removeprefix("builtins.") for number, type_ in found.items()} == wanted
    assert checked.returncode == 0, checked.stdout + checked.stderr
