"""Writers through the SDK, as a process: `sdk_writers.py URL ACKNOWLEDGED RUN/STREAM…`.

Each appends to one stream until a line comes on the standard input, then all is flushed. Every
value whose receipt says durable is written to the file ACKNOWLEDGED, with its stream and offset.
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

MAX_UNDER_WAY = 100
PAUSE_S = 0.02


async def write(number: int, name: str, file: TextIO, stopping: asyncio.Event) -> None:
    """Append until told to stop; order comes from the calls, not from awaiting them."""
    run, stream = name.split("/")
    values: Any = streams.define(stream, str)
    chance = random.Random(number)
    count = 0
    under_way: asyncio.Queue[Any] = asyncio.Queue(MAX_UNDER_WAY)

    async def take_receipts() -> None:
        while (item := await under_way.get()) is not None:
            value, receipt = item
            offset = await receipt
            file.write(json.dumps([run, stream, value, offset]) + "\n")

    taking = asyncio.create_task(take_receipts())
    while not stopping.is_set():
        value = f"sdk{number}:{count}"
        await under_way.put((value, values.append(value, target=run)))
        count += 1
        await asyncio.sleep(chance.random() * 2 * PAUSE_S)
    await under_way.put(None)
    await taking


async def main(url: str, file: TextIO, *names: str) -> None:
    """Write until a line, or the end of the input, comes."""
    stopping = asyncio.Event()
    async with connect(url):
        print("ready", flush=True)
        async with asyncio.TaskGroup() as group:
            for number, name in enumerate(names):
                group.create_task(write(number, name, file, stopping))
            await asyncio.to_thread(sys.stdin.readline)
            stopping.set()


if __name__ == "__main__":
    logging.getLogger("realtime").setLevel(logging.ERROR)  # that it connects anew is the point
    url, path, *names = sys.argv[1:]
    with Path(path).open("w") as file:
        asyncio.run(main(url, file, *names))
