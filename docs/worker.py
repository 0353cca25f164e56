"""A worker process that counts and appends through the gateway at `REALTIME_URL`."""

import asyncio
import sys

import gateway
from gateway import streams, task

progress = streams.define("progress", dict[str, int])


@task
async def count(to: int, pause_s: float) -> int:
    """Append one record per number."""
    for number in range(1, to + 1):
        progress.append({"current": number, "total": to})
        await asyncio.sleep(pause_s)
    return to


async def main(to: int, pause_s: float) -> None:
    """Trigger the task and wait until its run has finished."""
    async with gateway.connect():
        run = await count.trigger(to, pause_s)
        print("open the page /runs/" + run.id, flush=True)
        print((await run.wait()).status)


if __name__ == "__main__":
    default = ["60", "0.5"]  # [TO [PAUSE_S]]
    arguments = sys.argv[1:] + default[len(sys.argv) - 1 :]
    asyncio.run(main(int(arguments[0]), float(arguments[1])))
