"""What is done to a gateway under load, and what has to hold all the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from faults.history import Verdict
from faults.load import load
from faults.process import Gateway, gateway_at

Say = Callable[[str], None]


def quiet(_: str) -> None:
    """Say nothing."""


async def kills(folder: Path, *, times: int, say: Say = quiet, **shape: int) -> Verdict:
    """`kill -9` the gateway again and again under load."""
    chance = random.Random(9)
    async with gateway_at(folder) as gateway, load(gateway.url, folder, **shape) as it:
        for number in range(1, times + 1):
            await asyncio.sleep(0.2 + chance.random() * 1.2)
            gateway.kill()
            await asyncio.to_thread(gateway.start)
            it.check_alive()
            say(f"kill {number}/{times}: {it.acknowledged()} records acknowledged to raw writers")
        await asyncio.sleep(1)
        return _counted(await it.finish(), gateway)


async def stops(folder: Path, *, times: int, say: Say = quiet, **shape: int) -> Verdict:
    """SIGTERM it under load: it ends by itself, within its stated time."""
    chance = random.Random(15)
    async with gateway_at(folder) as gateway, load(gateway.url, folder, **shape) as it:
        for number in range(1, times + 1):
            await asyncio.sleep(0.5 + chance.random())
            took_s = await asyncio.to_thread(gateway.stop)
            await asyncio.to_thread(gateway.start)
            it.check_alive()
            say(f"stop {number}/{times}: took {took_s:.2f} s")
        await asyncio.sleep(1)
        return _counted(await it.finish(), gateway)


def _counted(verdict: Verdict, gateway: Gateway) -> Verdict:
    verdict.kills, verdict.stops = gateway.kills, gateway.stops
    return verdict
