"""Every kind of store, opened for a block of a test."""

from contextlib import asynccontextmanager

from gateway._internal.counters import Counters
from gateway.sdk.session import opened
from gateway.stores.instrumented import counted
from gateway.stores.memory import MemoryStore
from gateway.stores.redis.store import RedisStore
from gateway.stores.remote.store import RemoteStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import gateway_process, serving, worker_token, working
from tests.support.redis.servers import fresh_url


def new_store(kind, folder):
    """Make a store of this process, not yet open: memory, counted, sqlite or redis."""
    if kind == "memory":
        return MemoryStore()
    if kind == "counted":
        return counted(MemoryStore(), Counters())
    if kind == "sqlite":
        return SqliteStore(folder / "test.db", durability="normal")
    assert kind == "redis", kind
    return RedisStore(fresh_url())


@asynccontextmanager
async def store_of(kind, folder):
    """Open a store: one of `new_store`, or remote over a gateway."""
    if kind == "remote":
        url = f"sqlite:{folder}/test.db?durability=normal"
        async with serving(url) as gateway, gateway.remote() as store:
            yield store
    else:
        async with opened(new_store(kind, folder)) as store:
            yield store


@asynccontextmanager
async def working_on(kind, folder):
    """Work with the SDK over a store: memory, sqlite, redis, or as a worker of a gateway."""
    if kind == "remote":
        with gateway_process("memory:", folder) as process:
            async with working(RemoteStore(process.url, worker_token), owner="worker_1") as active:
                yield active
    else:
        async with working(new_store(kind, folder)) as active:
            yield active
