"""Run the command line as a process, against real gateways and stores."""

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager
from typing import NamedTuple

from tests.support.gateways import DEADLINE_S, environment


class Done(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> list:
        return [json.loads(line) for line in self.lines]


class Command:
    """A running command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """Wait for the next line of output."""
        async with asyncio.timeout(DEADLINE_S):
            line = (await self.process.stdout.readline()).decode()
        assert line, f"the command ended: {(await self.process.stderr.read()).decode()}"
        return line.removesuffix("\n")

    async def say(self, line: str) -> None:
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()

    def interrupt(self) -> None:
        """Send SIGINT, like Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    async def done(self, given: bytes | None = None) -> Done:
        """Wait for the end, and return the remaining output."""
        async with asyncio.timeout(DEADLINE_S):
            out, err = await self.process.communicate(given)
        return Done(self.process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def running(*arguments: object, without: tuple[str, ...] = (), **env: str):
    """Run a command while the block executes."""
    variables = environment(**env)
    for name in without:
        variables.pop(name, None)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=variables,
        limit=16 << 20,
    )
    try:
        yield Command(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def realtime(*arguments: object, given: str | None = None, **options) -> Done:
    """Run a command and return its result."""
    async with running(*arguments, **options) as command:
        return await command.done(given.encode() if given is not None else b"")
