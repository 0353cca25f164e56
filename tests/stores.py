"""Every kind of store, opened for a block of a test."""

from contextlib import asynccontextmanager

from redis_serving import fresh_url
from serving import serving

from gateway.counters import Counters
from gateway.sdk.session import opened
from gateway.stores.counted import counted
from gateway.stores.memory import MemoryStore
from gateway.stores.redis import RedisStore
from gateway.stores.sqlite import SqliteStore


@asynccontextmanager
async def store_of(kind, folder):
    """Open a store: memory, counted, sqlite, redis, or remote over a gateway."""
    if kind == "memory":
        async with opened(MemoryStore()) as store:
            yield store
    elif kind == "counted":
        async with opened(counted(MemoryStore(), Counters())) as store:
            yield store
    elif kind == "sqlite":
        async with opened(SqliteStore(folder / "test.db", durability="normal")) as store:
            yield store
    elif kind == "redis":
        async with opened(RedisStore(fresh_url())) as store:
            yield store
    else:
        url = f"sqlite:{folder}/test.db?durability=normal"
        async with serving(url) as gateway, gateway.remote() as store:
            yield store
