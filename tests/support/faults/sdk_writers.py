"""SDK writers as a process: `sdk_writers URL ACKNOWLEDGED RUN/STREAM…`.

Each writer appends to one stream until standard input has a line, then all appends are flushed.
Every acknowledged value is written to the file ACKNOWLEDGED, with its stream and offset.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
from pathlib import Path
from typing import Any, TextIO

from gateway import connect, streams

MAX_IN_FLIGHT = 100
PAUSE_S = 0.02


async def write(number: int, name: str, file: TextIO, stopping: asyncio.Event) -> None:
    """Append until `stopping` is set. The order of the calls decides, not when they are awaited."""
    run, stream = name.split("/")
    values: Any = streams.define(stream, str)
    rng = random.Random(number)
    count = 0
    in_flight: asyncio.Queue[Any] = asyncio.Queue(MAX_IN_FLIGHT)

    async def collect_receipts() -> None:
        while (item := await in_flight.get()) is not None:
            value, receipt = item
            offset = await receipt
            file.write(json.dumps([run, stream, value, offset]) + "\n")

    collecting = asyncio.create_task(collect_receipts())
    while not stopping.is_set():
        value = f"sdk{number}:{count}"
        await in_flight.put((value, values.append(value, target=run)))
        count += 1
        await asyncio.sleep(rng.random() * 2 * PAUSE_S)
    await in_flight.put(None)
    await collecting


async def main(url: str, file: TextIO, *names: str) -> None:
    """Write until standard input has a line or ends."""
    stopping = asyncio.Event()
    async with connect(url):
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(names):
                group.create_task(write(number, name, file, stopping))
            await asyncio.to_thread(sys.stdin.readline)
            stopping.set()


if __name__ == "__main__":
    logging.getLogger("realtime").setLevel(logging.ERROR)  # reconnections are expected here
    url, path, *names = sys.argv[1:]
    with Path(path).open("w") as file:
        asyncio.run(main(url, file, *names))
