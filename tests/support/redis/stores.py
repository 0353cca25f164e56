"""Redis stores of several processes, and what they read."""

import asyncio
import json
from contextlib import asynccontextmanager

from gateway.model.records import StreamKey
from gateway.stores.redis.store import RedisStore
from tests.support.gateways import DEADLINE_S, new_run


@asynccontextmanager
async def opened(*urls, **options):
    stores = [RedisStore(url, **options) for url in urls]
    try:
        for store in stores:
            await store.open()
        yield stores[0] if len(stores) == 1 else stores
    finally:
        for store in stores:
            await store.close()


async def new_key(store, **fields):
    run = await store.create_run(new_run(**fields))
    return StreamKey(run.id, "progress")


async def take(pages, count):
    records = []
    async with asyncio.timeout(DEADLINE_S):
        while len(records) < count:
            records += (await anext(pages)).records
    return [json.loads(record.data) for record in records]


async def whole(store, key):
    records, after = [], None
    while not (page := await store.read(key, after)).is_empty:
        records, after = records + page.records, page.position
        if page.end is not None:
            break
    return records


async def follow(store, key, held=None):
    """Return why a follower was sent back, and what it held in the end."""
    resets, held = [], [] if held is None else held
    async for page in store.follow(key):
        if page.reset is not None:
            resets.append(page.reset)
            held.clear()
        held += [json.loads(record.data) for record in page.records]
    return resets, held
