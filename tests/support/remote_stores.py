"""A remote store, and a relay that drops its connection."""

import asyncio
import json
from contextlib import aclosing, asynccontextmanager

from websockets.asyncio.client import connect as connect_socket
from websockets.asyncio.server import serve

from gateway.sdk.session import opened as open_for_block
from gateway.stores.remote.store import RemoteStore
from tests.support.gateways import (
    serving,
    worker_token,
)


def opened(url, token=worker_token, **options):
    return open_for_block(RemoteStore(url, token, jitter=lambda: 0.2, **options))


async def follow(store, key, into):
    async with aclosing(store.follow(key)) as pages:
        async for page in pages:
            assert page.gap is None
            assert page.reset is None
            into += page.records


class Relay:
    """Passes messages on, until it is told to drop the connection instead of the next answer."""

    def __init__(self, gateway, ping_ms):
        self._gateway = gateway
        self._ping_ms = ping_ms
        self.drop_answer_of = None
        self.is_mute = False
        self.dropped = self.connections = 0

    async def run(self, client):
        self.connections += 1
        self.is_mute = False
        async with connect_socket(f"{self._gateway.url}/v1/ws", compression=None) as onward:
            up = asyncio.create_task(self._pass(client, onward))
            down = asyncio.create_task(self._answers(onward, client))
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            for passing in (up, down):
                passing.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _pass(self, source, sink):
        async for message in source:
            await sink.send(message)

    async def _answers(self, source, sink):
        async for message in source:
            if self.is_mute:
                continue
            if self.drop_answer_of and json.loads(message)["type"] == self.drop_answer_of:
                self.drop_answer_of = None
                self.dropped += 1
                sink.transport.abort()
                return
            if self._ping_ms is not None and (frame := json.loads(message))["type"] == "welcome":
                message = json.dumps(frame | {"ping_ms": self._ping_ms})
            await sink.send(message)


@asynccontextmanager
async def relayed(token=worker_token, ping_ms=None, max_size=None):
    async with serving() as gateway:
        relay = Relay(gateway, ping_ms)
        async with serve(relay.run, "127.0.0.1", 0, max_size=max_size) as server:
            port = server.sockets[0].getsockname()[1]
            async with opened(f"ws://127.0.0.1:{port}", token) as store:
                yield relay, gateway, store


KB = 1000


def text(kilobytes):
    return "x" * (kilobytes * KB)


def record(kilobytes):
    return json.dumps(text(kilobytes)).encode()
