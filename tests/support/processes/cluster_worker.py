"""A worker as a process: `cluster_worker UPTO` executes one run of a task and says its id."""

from __future__ import annotations

import asyncio
import logging
import sys

import gateway
from tests.support.processes.cluster_node import count_up


async def main(upto: int) -> None:
    async with gateway.connect():
        handle = await count_up.trigger(upto=upto)
        print(handle.id, flush=True)
        result = await handle.wait()
        print(result.status, flush=True)


if __name__ == "__main__":
    logging.getLogger("realtime").setLevel(logging.ERROR)
    asyncio.run(main(int(sys.argv[1])))
