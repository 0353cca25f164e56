"""A worker beside the gateway: it appends numbered records through `REALTIME_URL`.

It prints the id of its run, appends `FIRST` records, and waits for a line on its standard input.
Then it appends until a second line says how many more there are to be, and prints the number of
its records last.
"""

import asyncio
import sys

import gateway
from gateway import streams, task

progress = streams.define("progress", dict[str, int])
INTERVAL_S = 0.05
FIRST = 20  # fewer than a page shows of a stream, so that one that opens late gets them all


@task
async def count_up() -> int:
    number = 0
    while number < FIRST:
        number = await _append(number)
    await asyncio.to_thread(sys.stdin.readline)
    asked = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
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


if __name__ == "__main__":
    asyncio.run(main())
