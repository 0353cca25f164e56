"""Streams over HTTP: a client, and an answer of events."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx

from tests.support.gateways import DEADLINE_S, token_for
from tests.support.http.events import events_of

JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}
EVERYTHING = ("read:paths:*", "write:paths:*", "read:runs:*", "write:runs:*")


@asynccontextmanager
async def visitor(gateway, *scopes, **options):
    headers = {"Authorization": f"Bearer {token_for(*scopes, **options)}"} if scopes else {}
    url = f"http://127.0.0.1:{gateway.port}/v1/stream/"
    many = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20, limits=many) as client:
        yield client


class Events:
    """An answer of events that is read as they come."""

    def __init__(self, response):
        self.headers = response.headers
        self.status = response.status_code
        self._lines = response.aiter_raw()
        self._buffer = b""

    async def next(self) -> tuple[str, object]:
        """Return the next event, or ("end", None); comments are skipped."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                block, found, rest = self._buffer.partition(b"\n\n")
                if found:
                    self._buffer = rest
                    if events := events_of(block + found):
                        name, data = events[0]
                        return name, json.loads(data) if name == "control" else data
                    continue
                try:
                    self._buffer += await anext(self._lines)
                except (StopAsyncIteration, httpx.RemoteProtocolError):
                    return "end", None


@asynccontextmanager
async def watching(client, path, offset="-1", **query):
    query = {"offset": offset, "live": "sse", **query}
    async with client.stream("GET", path, params=query) as response:
        yield Events(response)
