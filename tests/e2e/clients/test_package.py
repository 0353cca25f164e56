"""`realtime client` writes a package that npm can pack, install, compile and run."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from gateway import streams, task
from gateway.sdk.parts import Finish, Part, TextDelta
from gateway.server.api.client_assets import client_module, package
from tests.support.clients.npm import install, tool
from tests.support.clients.typescript import check
from tests.support.gateways import DEADLINE_S, environment, serving, token_for

HERE = Path(__file__).parent
NAME = "realtime-streams-client"


def run(*command: object, folder: Path) -> str:
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment(PYTHONPATH=str(HERE.parents[2])),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with the installed archive that `npm pack` made of the written folder."""
    folder = tmp_path_factory.mktemp("project")
    run(sys.executable, "-m", "gateway", "client", "--output", "client", folder=folder)
    (packed,) = json.loads(run(tool("npm"), "pack", "--json", "./client", folder=folder))
    assert sorted(each["path"] for each in packed["files"]) == sorted(package())
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    quiet = ("--offline", "--no-audit", "--no-fund")
    run(tool("npm"), "install", *quiet, f"./{packed['filename']}", folder=folder)
    return folder


def test_package_is_what_the_gateway_serves_without_its_address():
    served = client_module().splitlines()
    differing = [line for line in package()["client.js"].splitlines() if line not in served]
    assert differing == ["const HOME = null;"]


def test_folder_of_another_package_is_not_written_into(tmp_path):
    (tmp_path / "package.json").write_text('{"name": "shop"}')
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "client", "--output", tmp_path],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "another package" in done.stderr
    assert (tmp_path / "package.json").read_text() == '{"name": "shop"}'


def test_programs_that_use_the_installed_package_compile(project):
    for name in ("page.ts", "react.ts"):
        text = (HERE / "types" / name).read_text().replace('"./client.js"', f'"{NAME}"')
        # Only a client that is served by a gateway knows the gateway's address.
        text = text.replace("connect();", 'connect({ url: "https://live.example.com" });')
        (project / name).write_text(text)
    (project / "wrong.ts").write_text(f'import {{ connect }} from "{NAME}";\nconnect();\n')
    install(HERE)  # the compiler, and React's types
    for name in ("@types", "csstype"):
        (project / "node_modules" / name).symlink_to(HERE / "node_modules" / name)
    faults = check(project, "page.ts", "react.ts", "wrong.ts").splitlines()
    assert [Path(line.partition("(")[0]).name for line in faults] == ["wrong.ts"]


answer: streams.Stream[Part] = streams.define("package-answer", Part)
approval = streams.input("package-approval", dict[str, bool])


async def test_program_triggers_follows_sends_and_cancels(project):
    @task
    async def ask_for_package(question: str) -> bool:
        if question == "forever":
            await asyncio.Event().wait()
        for part in (TextDelta(text="be"), TextDelta(text="cause"), Finish(reason="stop")):
            answer.append(part)
        return (await approval.wait())["ok"]

    shutil.copy(HERE / "package.mjs", project)
    async with serving() as gateway:
        process = await asyncio.create_subprocess_exec(
            *(tool("node"), "package.mjs"),
            cwd=project,
            env=environment(
                GATEWAY=f"http://127.0.0.1:{gateway.port}",
                TOKEN=token_for("trigger:tasks:*", "read:runs:*", "write:runs:*"),
                READER=token_for("read:runs:*"),
            ),
            stdout=PIPE,
            stderr=PIPE,
        )
        async with asyncio.timeout(DEADLINE_S):
            out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    seen = json.loads(out)
    assert "connect({ url:" in seen.pop("withoutUrl")
    assert seen == {
        "states": [[False, 0], [True, 0], [False, 1], [True, 1], [False, 2]],
        "text": "because",
        "sent": {"isPending": False, "count": 1, "error": None, "handle": None},
        "output": True,
        "asked": "string",
        "ended": "canceled",
        "refused": "forbidden",
        "notCanceled": "forbidden",
    }
