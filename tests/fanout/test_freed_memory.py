"""What streams and connections that are over leave behind, without the garbage collector's help.

In production its full passes are hours apart, so that a cycle is a leak of that length.
"""

import asyncio
import gc
import tracemalloc
import weakref
from contextlib import contextmanager

import httpx
import pytest

from gateway.fanout.hub import Hub
from gateway.model.records import StreamKey
from tests.support.gateways import new_run, serving, token_for, until
from tests.support.stores import store_of

RECORD = b'"' + b"x" * 5000 + b'"'
HELD_BYTES = (
    6000  # per stream: caches of the store, bounded in number; a tail with this ring: 30 KB
)


@contextmanager
def no_collector():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def a_round(store, hub, count, how):
    """Follow so many live streams until they end, or their reader leaves."""
    keys = [StreamKey((await store.create_run(new_run())).id, "s") for _ in range(count)]
    cursors = [await hub.cursor(key, lambda head: head.position, 1, lambda: None) for key in keys]
    for key, cursor in zip(keys, cursors, strict=True):
        await store.append(key, [RECORD] * 4)
        await until(lambda cursor=cursor: cursor._tail.position.offset == 4)
        assert (await cursor.next()).record_count == 4
    if how == "ended":
        for key, cursor in zip(keys, cursors, strict=True):
            await store.append(key, [], end="completed")
            await until(lambda cursor=cursor: cursor._tail.end is not None)
            assert (await cursor.next()).end == "completed"
    for cursor in cursors:
        cursor.close()
    assert hub.live_streams == 0
    await asyncio.sleep(0.01)  # tasks that were cancelled end


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ended", "left"])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_a_stream_that_is_over_holds_no_memory(tmp_path, kind, how):
    count = 40
    async with store_of(kind, tmp_path) as store:
        hub = Hub(store)
        await a_round(store, hub, count, how)  # what is made once
        with no_collector():
            tracemalloc.start()
            try:
                await a_round(store, hub, count, how)
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
    assert held / count < HELD_BYTES, f"{held / count:.0f} bytes of each stream are still held"


@pytest.mark.parametrize("how", ["closed", "unsubscribed", "ended"])
async def test_a_connection_that_is_over_is_freed_with_its_tails(how):
    async with serving() as gateway:
        keys = [StreamKey((await gateway.store.create_run(new_run())).id, "s") for _ in range(3)]
        with no_collector():
            async with gateway.client(token=token_for("read:runs:*")) as client:
                for id, key in enumerate(keys):
                    await client.ask(type="subscribe", id=id, run=key.run_id, stream="s")
                (session,) = gateway.gateway._sessions
                parts = [session, session._outbound.sink, *gateway.hub.tails]
                gone = [weakref.ref(part) for part in parts]
                del parts, session
                assert len(gone) == 5
                for id, key in enumerate(keys):
                    if how == "ended":
                        await gateway.store.append(key, [], end="completed")
                        assert (await client.receive())["type"] == "end"
                    elif how == "unsubscribed":
                        await client.ask(type="unsubscribe", id=id)
            await until(lambda: all(ref() is None for ref in gone))


async def test_a_connection_over_http_that_is_over_is_freed():
    async with serving() as gateway:
        with no_collector():
            async with httpx.AsyncClient() as client:
                url = f"http://127.0.0.1:{gateway.port}/healthz"
                assert (await client.get(url)).status_code == 200
                (protocol,) = gateway.server.server_state.connections
                gone = weakref.ref(protocol)
                del protocol
            await until(lambda: gone() is None)
