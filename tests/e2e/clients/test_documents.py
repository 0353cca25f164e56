"""Execute each code block of docs/clients.md against a real gateway (the page: `test_page.py`)."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.clients.npm import install, tool
from tests.support.clients.pages import DOCUMENT, Written, block
from tests.support.gateways import DEADLINE_S, serving

HERE = Path(__file__).parent


@pytest.fixture
async def gateway():
    async with serving() as running:
        yield running


@pytest.fixture
async def written(gateway):
    return await Written(gateway).create()


class Program:
    """A running code block. Its environment has the gateway, the run and the token."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            return (await self._process.stdout.readline()).decode().rstrip("\n")

    async def rest(self) -> list[str]:
        # Not `communicate`, which closes standard input: at a terminal, it stays open.
        assert self._process.stdout is not None and self._process.stderr is not None
        async with asyncio.timeout(DEADLINE_S):
            out, errors = await asyncio.gather(
                self._process.stdout.read(), self._process.stderr.read()
            )
            await self._process.wait()
        assert self._process.returncode == 0, errors.decode()
        return out.decode().splitlines()


@pytest.fixture
def start(gateway, written, tmp_path):
    bins = [str(Path(sys.executable).parent), str(HERE / "node_modules" / ".bin")]
    env = {
        **os.environ,
        "GATEWAY": f"http://127.0.0.1:{gateway.port}",
        "RUN": written.id,
        "TOKEN": written.token,
        "PATH": os.pathsep.join([*bins, os.environ["PATH"]]),
        "PYTHONUNBUFFERED": "1",
    }

    async def start(language: str, containing: str) -> Program:
        command = {"python": (sys.executable, "-c"), "sh": ("bash", "-euc")}[language]
        process = await asyncio.create_subprocess_exec(
            *command,
            block(language, containing),
            env=env,
            cwd=tmp_path,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        return Program(process)

    return start


ONE, TWO = {"current": 1, "total": 2}, {"current": 2, "total": 2}


async def test_node_program_follows_stream_to_its_end(written, start):
    tool("node")
    await written.append(ONE)
    program = await start("sh", "client.mjs")
    assert await program.line() == "1 of 2"
    await written.append(TWO, end="completed")  # proves that the program follows the stream
    assert await program.rest() == ["2 of 2"]


async def test_websockets_program_resumes_after_disconnect(gateway, written, start):
    await written.append(ONE)
    program = await start("python", "websockets")
    assert await program.line() == f"0 {ONE}"
    for session in tuple(gateway.gateway._sessions):
        session.abort("the test says so")
    await written.append(TWO, end="completed")
    assert await program.rest() == [f"1 {TWO}"]


async def test_httpx_program_follows_stream_to_its_end(written, start):
    await written.append(ONE)
    program = await start("python", "httpx")
    assert await program.line() == "1 of 2"
    await written.append(TWO, end="completed")
    assert await program.rest() == ["2 of 2"]


async def test_curl_prints_records_when_they_are_appended(written, start):
    program = await start("sh", "live=sse")
    await written.append(ONE)
    while "data:" not in (line := await program.line()) or "current" not in line:
        pass
    assert '"current": 1' in line
    await written.append(end="completed")
    assert '"streamClosed":true' in (await program.rest())[-2]


async def test_curl_sends_input_to_run(written, start):
    assert await (await start("sh", "approval")).rest() == []
    assert await written.records("approval") == [{"ok": True}]


async def test_wscat_prints_frames(written, start):
    install(HERE)
    await written.append(ONE)
    lines = await (await start("sh", "wscat")).rest()
    types = re.findall(r'"type":"(\w+)"', "\n".join(lines))
    assert types == ["welcome", "subscribed", "records"]
    assert '"current": 1' in lines[-1]


def test_every_code_block_has_a_test():
    blocks = re.findall(r"```(\w+)\n", DOCUMENT.read_text())
    assert sorted(blocks) == sorted(["html", "sh", "python", "python", "sh", "sh", "sh"])
