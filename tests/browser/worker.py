"""A worker beside the gateway: it appends numbered records through `REALTIME_URL`.

It goes on until a line on its standard input says how many more there are to be, and prints the
id of its run first and the number of its records last.
"""

import asyncio
import sys

import gateway
from gateway import streams, task

progress = streams.define("progress", dict[str, int])
INTERVAL_S = 0.05


@task
async def count_up() -> int:
    asked = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    number = 0
    while not asked.done():
        number = await _append(number)
    for _ in range(int(asked.result())):
        number = await _append(number)
    return number


async def _append(number: int) -> int:
    progress.append({"number": number})
    await asyncio.sleep(INTERVAL_S)
    return number + 1


async def main() -> None:
    async with gateway.connect():
        handle = await count_up.trigger()
        print(handle.id, flush=True)
        result = await handle.wait()
        print(result.output, flush=True)


asyncio.run(main())
