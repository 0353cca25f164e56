"""A gateway in a separate process that is attacked, and the measured cost of an attack."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from websockets.asyncio.client import connect

from tests.support.gateways import Client, Process, environment
from tests.support.hostile.served import STALLS

SAMPLE_S = 0.01


@dataclass
class Cost:
    """The cost of an attack.

    Attributes:
        growth_mib: Growth of the process's memory, from its start to its peak.
        busy_s: CPU time of the event loop's thread in its longest pass.
        late_s: Wall-clock time of the longest pass of the event loop.
    """

    growth_mib: float = 0.0
    busy_s: float = 0.0
    late_s: float = 0.0


class Target(Process):
    """The attacked gateway."""

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(f"sqlite:{folder}/hostile.db", folder)
        self._command[2] = "tests.support.hostile.served"
        self._stalls = folder / "stalls"
        self._stalls.write_bytes(bytes(STALLS.size))
        self._environment = environment(HOSTILE_STALLS=str(self._stalls), **settings)
        self._started_mib = 0.0

    def start(self) -> None:  # type: ignore[override]
        super().start(self._environment)
        self._started_mib = self._memory_mib()

    def _memory_mib(self) -> float:
        assert self._process is not None
        return psutil.Process(self._process.pid).memory_info().rss / (1 << 20)

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def client(self, **hello: object) -> AsyncIterator[Client]:
        """Connect and send `hello`."""
        async with connect(f"{self.url}/v1/ws", max_size=None, compression=None) as opened:
            client = Client(opened)
            await client.ask(type="hello", protocol=1, **hello)
            yield client

    async def cost_of(self, attack: Callable[[Target], Awaitable[None]]) -> Cost:
        """Run an attack, and measure until the gateway answers other clients again."""
        cost = Cost()
        with self._stalls.open("r+b") as file:  # not truncated: the gateway has it mapped
            file.write(bytes(STALLS.size))
        with self._sampling(cost):
            await attack(self)
            answer = await asyncio.to_thread(httpx.get, f"{self.http}/healthz", timeout=60)
            assert answer.status_code == 200
        cost.busy_s, cost.late_s = STALLS.unpack(self._stalls.read_bytes())
        return cost

    @contextmanager
    def _sampling(self, cost: Cost) -> Iterator[None]:
        is_over = threading.Event()

        def sample() -> None:
            while True:
                cost.growth_mib = max(cost.growth_mib, self._memory_mib() - self._started_mib)
                if is_over.wait(SAMPLE_S):
                    return

        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            yield
        finally:
            is_over.set()
            sampler.join()


@contextmanager
def target_at(folder: Path, **settings: str) -> Iterator[Target]:
    target = Target(folder, **settings)
    target.start()
    try:
        yield target
    finally:
        target.kill()
