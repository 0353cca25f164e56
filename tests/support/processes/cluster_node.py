"""`realtime serve` with tasks of its own: a gateway that executes, as a process of the tests."""

from __future__ import annotations

import asyncio

from gateway import Retry, streams, task
from gateway.cli import main

numbers = streams.define("numbers", int)


@task
async def count_up(upto: int, pause_s: float = 0.05) -> int:
    """Append a number now and then."""
    for number in range(upto):
        numbers.append(number)
        await asyncio.sleep(pause_s)
    return upto


@task(retry=Retry(max_attempts=2))
async def count_again(upto: int, pause_s: float = 0.05) -> int:
    """Count up, and do it once more should the process die."""
    return await count_up(upto, pause_s)


if __name__ == "__main__":
    main()
