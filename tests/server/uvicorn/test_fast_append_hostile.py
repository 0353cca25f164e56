"""Malformed and ambiguous requests beside appends."""

import asyncio
import re

import pytest

from gateway.server.uvicorn import fast_append
from tests.support.gateways import DEADLINE_S, serving
from tests.support.http.raw_appends import connected, post, records

ENDLESS = 200 << 10  # bytes: over h11's limit of 64 KiB, and what its buffers may hold
HOSTILE = {
    "endless headers": (b"POST /v1/stream/a HTTP/1.1\r\nHost: x\r\n", b"X-A: b\r\n"),
    "an endless name": (b"POST /v1/stream/a HTTP/1.1\r\nHost: x\r\n", b"xxxxxxxx"),
    "an endless value": (b"POST /v1/stream/a HTTP/1.1\r\nHost: ", b"xxxxxxxx"),
    "an endless target": (b"POST /v1/stream/", b"aaaaaaaa"),
    "an endless method": (b"POST", b"POST"),
    "an endless chunk extension": (
        b"POST /v1/stream/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a=",
        b"xxxxxxxx",
    ),
    "an endless chunk size": (
        b"POST /v1/stream/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"00000000",
    ),
    "endless trailers": (
        b"POST /v1/stream/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"X-A: b\r\n",
    ),
}


@pytest.mark.parametrize(("begin", "more"), HOSTILE.values(), ids=HOSTILE)
async def test_what_does_not_end_is_ended(gateway, begin, more):
    async with connected(gateway) as client:
        client.writer.write(begin + more * (ENDLESS // len(more)))
        try:
            async with asyncio.timeout(DEADLINE_S):
                answer = await client.reader.read()  # to its end: the connection is closed
        except ConnectionResetError:
            answer = b""
        assert not answer or re.match(rb"HTTP/1.1 4(00|01|31) ", answer), answer
    assert await records(gateway) == []


SMUGGLED = {
    "a length and chunks": lambda: post(b"1\r\n7\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "two lengths": lambda: post(b"1", "Content-Length: 10"),
    "the same length twice": lambda: post(b"1", "Content-Length: 1"),
    "a length of no digits": lambda: post(b"1").replace(b"Length: 1", b"Length: +1"),
    "a length that is a list": lambda: post(b"1").replace(b"Length: 1", b"Length: 1, 1"),
    "lines that end in LF": lambda: post(b"1").replace(b"\r\n", b"\n"),
    "a bare CR": lambda: post(b"1", "X: a\rb"),
    "a folded line": lambda: post(b"1", "Transfer-Encoding:\r\n chunked"),
    "a space before the colon": lambda: post(b"1", "Transfer-Encoding : chunked"),
    "two hosts": lambda: post(b"1", "Host: y"),
    "no host": lambda: post(b"1").replace(b"Host: x\r\n", b""),
    "another coding": lambda: post(b"1", "Transfer-Encoding: gzip, chunked"),
    "an older version": lambda: post(b"1").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a byte too many": lambda: post(b"1") + b"1",
    "a line too many": lambda: post(b"1") + b"\r\n",
    "a wait for 100": lambda: post(b"1", "Expect: 100-continue"),
    "an upgrade": lambda: post(b"1", "Connection: upgrade", "Upgrade: h2c"),
}
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("make", SMUGGLED.values(), ids=SMUGGLED)
async def test_what_two_might_read_in_two_ways_is_answered_as_by_h11(make, taken, monkeypatch):
    said = []
    data = make() + LAST
    for begins in (fast_append.FAST_PATH_PREFIX, b"nothing"):
        monkeypatch.setattr(fast_append, "FAST_PATH_PREFIX", begins)
        async with serving() as gateway, connected(gateway) as client, asyncio.timeout(DEADLINE_S):
            client.writer.write(post(b"").replace(b"POST", b"PUT", 1))
            await client.answer()
            client.writer.write(data)
            answers = await client.reader.read()
            kept = await records(gateway)
        answers = re.sub(rb"date: [^\r]*|stream-next-offset: \w*", b"", answers)
        said.append((answers, kept))
    assert said[0] == said[1]
    assert said[0][0].startswith(b"HTTP/1.1 ")
    assert not taken
