"""`realtime serve` whose event loop reports its longest stall. Run with the command's arguments.

The file that HOSTILE_STALLS names holds two floats: the CPU time that the loop's thread used in its
longest pass, which does not depend on the machine's load, and the wall-clock time of that pass.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from pydantic import Field

from gateway import streams, task
from gateway.cli import main
from gateway.server import gateway as gateway_module

EVERY_S = 0.02
STALLS = struct.Struct("dd")

sets = streams.input("sets", set[str])
words = streams.input("words", Annotated[str, Field(pattern=r"^(\w+\s?)*$")])
anything = streams.input("any-value", Any)


@task
async def waits(text: str = "") -> str:
    await anything.once()
    return text


def _map_stalls() -> mmap.mmap:
    with open(os.environ["HOSTILE_STALLS"], "r+b") as file:
        return mmap.mmap(file.fileno(), STALLS.size)


async def _watch() -> None:
    stalls = _map_stalls()
    cpu_s, wall_s = time.thread_time(), time.monotonic()
    while True:
        await asyncio.sleep(EVERY_S)
        before_cpu_s, before_wall_s = cpu_s, wall_s
        cpu_s, wall_s = time.thread_time(), time.monotonic()
        busy_s, late_s = STALLS.unpack_from(stalls)
        longest = max(busy_s, cpu_s - before_cpu_s), max(late_s, wall_s - before_wall_s - EVERY_S)
        STALLS.pack_into(stalls, 0, *longest)


@asynccontextmanager
async def _watching(*arguments: object) -> AsyncIterator[None]:
    watching = asyncio.create_task(_watch())
    async with _measuring_lag(*arguments):
        try:
            yield
        finally:
            watching.cancel()


if __name__ == "__main__":
    _measuring_lag, gateway_module.measure_loop_lag = gateway_module.measure_loop_lag, _watching
    main()
