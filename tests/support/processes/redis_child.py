"""A process that works with a Redis store until it is killed: `append` or `runs`."""

import asyncio
import itertools
import sys

from gateway.model.records import StreamKey, Writer
from gateway.stores.redis.store import RedisStore
from tests.support.gateways import new_run


async def append(store, run_id):
    """Append one after the other; a line on stdout for each that was acknowledged."""
    key = StreamKey(run_id, "progress")
    for number in itertools.count():
        done = await store.append(key, [b"%d" % number], writer=Writer("child", 0, number))
        print(done.offset, flush=True)


async def runs(store, tag):
    """Make and change runs of a tag, ten at once; a line for each."""

    async def live(number):
        run = await store.create_run(new_run(tags=[tag, f"{tag}-{number % 3}"]))
        for step in range(3):
            await store.patch_run(run.id, {"metadata": {"step": step}})
        print(run.id, flush=True)

    for start in itertools.count(0, 10):
        await asyncio.gather(*(live(start + number) for number in range(10)))


async def main(work, url, argument):
    store = RedisStore(url)
    await store.open()
    await {"append": append, "runs": runs}[work](store, argument)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
