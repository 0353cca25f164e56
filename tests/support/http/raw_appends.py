"""Appends over HTTP as bytes of a socket."""

import asyncio
import json
from contextlib import asynccontextmanager

import h11

from gateway.model.records import path_data
from tests.support.gateways import DEADLINE_S, token_for

PATH = "/v1/stream/a"


def post(body=b"1", *lines, path=PATH, token=None, type="application/json") -> bytes:
    token = token_for("write:paths:*", "read:paths:*", "write:runs:*") if token is None else token
    head = [f"POST {path} HTTP/1.1", "Host: x", *lines]
    head += [f"Authorization: Bearer {token}"] if token else []
    head += [f"Content-Type: {type}"] if type else []
    head += [f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


class Connection:
    """One to the gateway, as bytes."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.left = b""  # of what was read with the last answer

    async def send(self, *pieces: bytes):
        for piece in pieces:
            self.writer.write(piece)
            for _ in range(10):  # the server, in the same loop, takes each by itself
                await asyncio.sleep(0)

    async def answer(self, method="POST"):
        """Read the next answer: its status, its headers but the date, its body."""
        conn = h11.Connection(h11.CLIENT)
        conn.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        conn.send(h11.EndOfMessage())
        if self.left:
            conn.receive_data(self.left)
        body, head = b"", None
        async with asyncio.timeout(DEADLINE_S):
            while not isinstance(event := conn.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    conn.receive_data(await self.reader.read(65536))
                elif isinstance(event, h11.Response):
                    head = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    raise ConnectionError(f"{event}")
        self.left = conn.trailing_data[0]
        headers = {name: value for name, value in head.headers if name != b"date"}
        return head.status_code, headers, bytes(body)

    async def is_closed(self) -> bool:
        async with asyncio.timeout(DEADLINE_S):
            try:
                return not await self.reader.read(1)
            except ConnectionResetError:
                return True


@asynccontextmanager
async def connected(gateway):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


async def records(gateway, path="a"):
    client = gateway.app.state.gateway._paths
    stream = await client.open(path)
    page = await gateway.store.read(path_data(path, stream.configuration.generation))
    return [json.loads(record.data) for record in page.records]


def body(data=b"", **more):
    return {"type": "http.response.body", "body": data, **more}
