"""A worker beside the gateway: it appends numbered records through `REALTIME_URL`."""

import asyncio
import sys

import gateway
from gateway import streams, task

progress = streams.define("progress", dict[str, int])


@task
async def count_up(records: int, interval_s: float) -> int:
    for number in range(records):
        progress.append({"number": number})
        await asyncio.sleep(interval_s)
    return records


async def main() -> None:
    async with gateway.connect():
        handle = await count_up.trigger(records=int(sys.argv[1]), interval_s=float(sys.argv[2]))
        print(handle.id, flush=True)
        result = await handle.wait()
        assert result.output == int(sys.argv[1])


asyncio.run(main())
