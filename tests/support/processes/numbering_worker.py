"""A worker in another process than the gateway: it appends numbered records to `REALTIME_URL`.

It prints the id of its run, appends `FIRST` records, and waits for a line on standard input. Then
it appends until a second line, which contains the number of records still to append. At the end it
prints the number of its records.
"""

import asyncio
import sys

import gateway
from gateway import streams, task

progress = streams.define("progress", dict[str, int])
INTERVAL_S = 0.05
FIRST = 20  # fewer than a page shows, so that a page that opens late shows all of them


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
