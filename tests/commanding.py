"""The command line as a process, against gateways and stores that are real."""

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager
from typing import NamedTuple

from serving import DEADLINE_S, environment


class Done(NamedTuple):
    """How a command ended, and what it said."""

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
    """A command that goes on."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        """Wait for its next line."""
        async with asyncio.timeout(DEADLINE_S):
            line = (await self.process.stdout.readline()).decode()
        assert line, f"it has ended: {(await self.process.stderr.read()).decode()}"
        return line.removesuffix("\n")

    async def say(self, line: str) -> None:
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()

    def interrupt(self) -> None:
        """Do what Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    async def done(self, given: bytes | None = None) -> Done:
        """Wait until it has ended, and return what it had not said yet."""
        async with asyncio.timeout(DEADLINE_S):
            out, err = await self.process.communicate(given)
        return Done(self.process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def going(*arguments: object, without: tuple[str, ...] = (), **env: str):
    """Run a command beside what the block does."""
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
    """Run a command to its end."""
    async with going(*arguments, **options) as command:
        return await command.done(given.encode() if given is not None else b"")
