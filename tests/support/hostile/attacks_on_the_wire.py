"""Attacks by bytes, without a token."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.support.hostile.raw import (
    BINARY,
    CONTINUATION,
    HELLO,
    PING,
    TEXT,
    connected,
    frame,
    head,
    push,
    upgrade,
    websocket,
)
from tests.support.hostile.target import Target

MIB = bytes(1 << 20)


async def unfinished_messages_that_are_closed(target: Target) -> None:
    for _ in range(150):
        fragments = [frame(TEXT, MIB, is_final=False)]
        fragments += [frame(CONTINUATION, MIB, is_final=False)] * 3
        async with websocket(target.port) as (_, writer):
            await push(writer, *fragments)


async def unfinished_messages_that_stay(target: Target) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(60):
            _, writer = await stack.enter_async_context(websocket(target.port))
            await push(writer, head(TEXT, 4 << 20), *[MIB] * 3)


async def unfinished_messages_after_hello(target: Target) -> None:
    async with AsyncExitStack() as stack:
        for number in range(60):
            opened = websocket(target.port, frame(TEXT, HELLO))
            _, writer = await stack.enter_async_context(opened)
            if number % 2:
                await push(writer, head(TEXT, 4 << 20), *[MIB] * 3)
            else:
                await push(writer, frame(TEXT, MIB, is_final=False))
                await push(writer, *[frame(CONTINUATION, MIB, is_final=False)] * 2)


async def lines_without_an_end_over_http(target: Target) -> None:
    async with AsyncExitStack() as stack:
        for number in range(60):
            _, writer = await stack.enter_async_context(connected(target.port))
            request = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"
            await push(writer, request + (HELLO + b"\n" if number % 2 else b""))
            await push(writer, *[MIB.replace(b"\0", b"x")] * 2)


async def empty_fragments(target: Target) -> None:
    async with websocket(target.port, frame(TEXT, b"{", is_final=False)) as (_, writer):
        await push(writer, *[frame(CONTINUATION, is_final=False) * 10_000] * 30)


async def empty_messages_behind_a_full_client(target: Target) -> None:
    for opcode in (TEXT, BINARY):
        async with websocket(target.port, frame(TEXT, HELLO)) as (reader, writer):
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            try:
                async with asyncio.timeout(1):
                    await push(writer, *[frame(opcode) * 10_000] * 100)
            except TimeoutError:
                pass  # the gateway has stopped reading, as it should


async def pings_whose_answers_nobody_takes(target: Target) -> None:
    async with websocket(target.port) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await push(writer, *[frame(PING, bytes(125)) * 1000] * 60)


async def pings_between_fragments(target: Target) -> None:
    async with websocket(target.port, frame(TEXT, b"{", is_final=False)) as (_, writer):
        await push(writer, *[frame(PING) * 10_000] * 20)


async def requests_that_never_come(target: Target) -> None:
    async with AsyncExitStack() as stack:
        for number in range(400):
            _, writer = await stack.enter_async_context(connected(target.port))
            await push(writer, [b"", b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 12_000][number % 2])


async def heads_of_many_headers(target: Target) -> None:
    for line in (b"a:\r\n", b"a: %b\r\n" % (b"x" * 250)):
        head_bytes = b"GET / HTTP/1.1\r\nHost: x\r\n" + line * (250_000 // len(line)) + b"\r\n"
        for _ in range(3):
            async with connected(target.port) as (_, writer):
                await push(writer, head_bytes)
    async with connected(target.port) as (_, writer):
        await push(writer, upgrade(*["a: x"] * 30_000))


ATTACKS = [
    unfinished_messages_that_are_closed,
    unfinished_messages_that_stay,
    unfinished_messages_after_hello,
    lines_without_an_end_over_http,
    empty_fragments,
    empty_messages_behind_a_full_client,
    pings_whose_answers_nobody_takes,
    pings_between_fragments,
    requests_that_never_come,
    heads_of_many_headers,
]
