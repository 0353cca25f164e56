"""A worker that was written from PROTOCOL.md alone works with a real gateway."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.model.limits import Limits
from gateway.model.log import RunQuery
from gateway.model.records import StreamKey
from tests.support.gateways import DEADLINE_S, environment, serving, token_for, until, worker_token

SCRIPT = Path(__file__).parents[1] / "support" / "processes" / "protocol_worker.py"
FIRST_BACKOFF_S = "0.01"


class Cutter:
    """A proxy of a gateway that closes connections instead of forwarding certain frames.

    Attributes:
        cut_at: Words in frames of the gateway. When a frame has the first word, the proxy closes
            the connection, and watches the next connection for the next word.
        port: The port on which it listens.
    """

    def __init__(self, target: int, *cut_at: bytes) -> None:
        self._target = target
        self.cut_at = list(cut_at)
        self.port = 0

    @asynccontextmanager
    async def listen(self):
        async with await asyncio.start_server(self._accept, "127.0.0.1", 0) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    async def _accept(self, reader, writer) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        upstream = asyncio.create_task(self._copy(reader, back))
        try:
            while data := await there.read(1 << 16):
                if self.cut_at and self.cut_at[0] in data:
                    del self.cut_at[0]
                    break
                writer.write(data)
        finally:
            upstream.cancel()
            writer.transport.abort()
            back.transport.abort()

    async def _copy(self, reader, writer) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)


class Worker:
    """A process that runs the script."""

    def __init__(self, process: asyncio.subprocess.Process, id: str) -> None:
        self.process = process
        self.id = id

    async def ends(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            _, errors = await self.process.communicate()
        assert self.process.returncode == 0, errors.decode()


@asynccontextmanager
async def worker(port: int):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, SCRIPT, f"ws://127.0.0.1:{port}/v1/ws", worker_token(), FIRST_BACKOFF_S),
        env=environment(),
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            first = (await process.stdout.readline()).decode().strip()
        assert first.startswith("run_"), (await process.stderr.read()).decode()
        yield Worker(process, first)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
async def gateway():
    async with serving() as gateway:
        yield gateway


async def ask(gateway, run_id: str, *questions) -> None:
    token = token_for(f"write:streams:{run_id}/question")
    async with gateway.client(token=token) as page:
        to = {"type": "append", "id": 1, "run": run_id, "stream": "question"}
        assert (await page.ask(**to, records=questions))["type"] == "appended"


async def run_of(gateway, run_id: str):
    return (await gateway.store.get_run(run_id)).run


async def test_worker_from_the_document_loses_and_repeats_nothing_over_cuts(gateway):
    lost = (b'"result"', b'"subscribed"', b'"records"', b'"appended"', b'"result"', b'"completed"')
    async with (
        Cutter(gateway.port, *lost).listen() as cutter,
        worker(cutter.port) as foreign,
    ):
        await ask(gateway, foreign.id, 1, 2, 3)
        await until(lambda: len(cutter.cut_at) == 1)
        await ask(gateway, foreign.id, 4, None)
        await foreign.ends()
    assert cutter.cut_at == []
    page = await gateway.store.read(StreamKey(foreign.id, "answers"))
    assert [json.loads(each.data) for each in page.records] == [
        {"answer": number} for number in (2, 4, 6, 8)
    ]
    run = await run_of(gateway, foreign.id)
    assert (run.status, run.output, run.metadata) == ("completed", {"answered": 4}, {"answered": 4})
    log = await gateway.store.read(StreamKey(foreign.id, "$run"))
    assert len(log.records) == 1 + 4 + 1  # no change was made twice
    assert page.end == log.end == "completed"


async def test_worker_from_the_document_stops_when_asked_to_cancel(gateway):
    async with worker(gateway.port) as foreign:
        patch = {"cancel_requested_at": "2026-11-22T12:56:14.123Z"}
        await gateway.store.patch_run(foreign.id, patch)
        await foreign.ends()
    assert (await run_of(gateway, foreign.id)).status == "canceled"


async def test_runs_of_a_worker_that_was_killed_become_crashed():
    async with (
        serving(limits=Limits(lease_s=0.2)) as gateway,
        worker(gateway.port) as foreign,
    ):
        (run,) = await gateway.store.list_runs(RunQuery(tag="foreign"))
        assert (run.id, run.is_executing) == (foreign.id, True)
        async with gateway.client(token=token_for(f"read:runs:{run.id}")) as page:
            assert (await page.ask(type="subscribe", id=1, run=run.id))["type"] == "subscribed"
            foreign.process.kill()
            while (frame := await page.receive())["type"] != "end":
                pass
    assert frame["reason"] == "crashed"
