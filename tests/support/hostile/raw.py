"""Clients that send arbitrary bytes to a gateway on this machine."""

from __future__ import annotations

import asyncio
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.support.gateways import DEADLINE_S

TEXT, BINARY, CONTINUATION, CLOSE, PING = 0x1, 0x2, 0x0, 0x8, 0x9
HELLO = b'{"type":"hello","protocol":1}'

Connection = tuple[StreamReader, StreamWriter]


def upgrade(*headers: str, target: str = "/v1/ws") -> bytes:
    """Make the HTTP request that opens a WebSocket."""
    lines = [
        f"GET {target} HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def frame(opcode: int, payload: bytes = b"", *, is_final: bool = True) -> bytes:
    """Make a client's frame; its mask is zero, so that the payload is unchanged."""
    return head(opcode, len(payload), is_final=is_final) + payload


def head(opcode: int, size: int, *, is_final: bool = True) -> bytes:
    """Make the header of a frame with a payload of `size` bytes."""
    first = opcode | (0x80 if is_final else 0)
    if size < 126:
        return struct.pack("!BB4x", first, 0x80 | size)
    if size < 1 << 16:
        return struct.pack("!BBH4x", first, 0x80 | 126, size)
    return struct.pack("!BBQ4x", first, 0x80 | 127, size)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """Open a TCP connection, and abort it at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def websocket(port: int, *first: bytes) -> AsyncIterator[Connection]:
    """Open a WebSocket and send frames."""
    async with connected(port) as (reader, writer):
        writer.write(upgrade())
        async with asyncio.timeout(DEADLINE_S):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        await push(writer, *first)
        yield reader, writer


async def push(writer: StreamWriter, *data: bytes) -> bool:
    """Send data as fast as the gateway reads it; False if it has closed the connection."""
    try:
        for each in data:
            writer.write(each)
            await writer.drain()
    except OSError:
        return False
    return not writer.transport.is_closing()


async def rest(reader: StreamReader) -> bytes:
    """Read to the end of the connection."""
    data = bytearray()
    async with asyncio.timeout(DEADLINE_S):
        with suppress(OSError):
            while piece := await reader.read(1 << 16):
                data += piece
    return bytes(data)


async def answer(port: int, request: bytes) -> bytes:
    """Send a request and read to the end of the connection."""
    async with connected(port) as (reader, writer):
        await push(writer, request)
        return await rest(reader)
