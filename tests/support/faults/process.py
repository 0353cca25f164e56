"""A gateway as a process: kill, stop, start again, and measure it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.support.gateways import DEADLINE_S, Process, environment


class ProcessStats(NamedTuple):
    """The resources of a gateway's process at one moment; `connections` are those of clients."""

    cpu_s: float
    rss_mib: float
    descriptors: int
    connections: int
    tasks: int


class Gateway(Process):
    """One gateway on one port, over several processes.

    Attributes:
        kills: How often it was killed.
        stops: How often it stopped after SIGTERM.
    """

    def __init__(
        self, folder: Path, *, store: str | None = None, host: str = "127.0.0.1", **more: str
    ) -> None:
        super().__init__(store or f"sqlite:{folder}/faults.db", folder)
        self.kills = 0
        self.stops = 0
        self._tasks_file = folder / "tasks"
        self._command[2] = "tests.support.faults.served"
        self._command += ["--host", host]
        self._environment = environment(FAULTS_TASKS=str(self._tasks_file), **more)

    def start(self) -> None:
        super().start(self._environment)

    def kill(self) -> None:
        if self._process is not None:
            self.kills += 1
        super().kill()

    def stop(self, timeout_s: float = DEADLINE_S) -> float:
        """Send SIGTERM and wait for the end. Returns the time it took, in seconds.

        Raises:
            AssertionError: it did not stop in time, or not with a good exit code.
        """
        assert self._process is not None
        began_s = time.monotonic()
        self._process.terminate()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the gateway did not stop within {timeout_s:g} s") from None
        assert code in (0, -signal.SIGTERM), f"exit code {code}: {self.log()}"
        self.stops += 1
        self._process = None
        return time.monotonic() - began_s

    def log(self) -> str:
        """Return its log so far."""
        return self._log.read_text()

    async def stats(self) -> ProcessStats:
        """Return the process's current resources."""
        assert self._process is not None
        seen = psutil.Process(self._process.pid)
        self._tasks_file.unlink(missing_ok=True)
        os.kill(self._process.pid, signal.SIGUSR1)
        async with asyncio.timeout(DEADLINE_S):
            while not self._tasks_file.exists():  # noqa: ASYNC110 - written by another process
                await asyncio.sleep(0.01)
        times = seen.cpu_times()
        return ProcessStats(
            times.user + times.system,
            seen.memory_info().rss / (1 << 20),
            seen.num_fds(),
            len(
                [
                    one
                    for one in seen.net_connections("tcp")
                    if one.status != "LISTEN" and one.laddr.port == self.port
                ]
            ),
            int(self._tasks_file.read_text()),
        )

    async def cpu_share(self, for_s: float) -> float:
        """Return the share of a core that it uses during `for_s` seconds."""
        assert self._process is not None
        seen = psutil.Process(self._process.pid)
        before = sum(seen.cpu_times()[:2])
        await asyncio.sleep(for_s)
        return (sum(seen.cpu_times()[:2]) - before) / for_s


@asynccontextmanager
async def gateway_at(
    folder: Path, *, store: str | None = None, host: str = "127.0.0.1", **more: str
) -> AsyncIterator[Gateway]:
    """Run a gateway over a store; by default, a SQLite file in the folder."""
    gateway = Gateway(folder, store=store, host=host, **more)
    await asyncio.to_thread(gateway.start)
    try:
        yield gateway
    finally:
        kills = gateway.kills
        gateway.kill()
        gateway.kills = kills


class Child:
    """A child process of the tests."""

    def __init__(self, module: str, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", f"{__package__}.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(PYTHONPATH=path),
        )

    async def line(self) -> str:
        """Read a line of its output."""
        assert self.process.stdout is not None
        return await asyncio.to_thread(self.process.stdout.readline)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    async def finish(self, timeout_s: float) -> None:
        """Close its standard input, and wait until it ends with exit code 0."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = await asyncio.to_thread(self.process.wait, timeout_s)
        assert code == 0, f"{self.process.args} ended with {code}"

    def close(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
