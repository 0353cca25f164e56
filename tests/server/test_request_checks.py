"""Messages and requests are bounded while they arrive; the bound depends on the client's token."""

import json

import pytest

from gateway.model.limits import Limits
from gateway.server.uvicorn import unauthenticated_memory
from gateway.server.uvicorn.http_protocol import AbortableHttpProtocol
from gateway.server.uvicorn.unauthenticated_memory import BufferShare
from gateway.server.uvicorn.websocket_protocol import DirectWebSocketProtocol
from tests.support.gateways import SECRET, new_run, serving, token_for, until
from tests.support.hostile.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    HELLO,
    PING,
    TEXT,
    answer,
    connected,
    frame,
    head,
    push,
    rest,
    upgrade,
    websocket,
)

LIMITS = Limits(frame_bytes=5000, record_bytes=30_000, data_frame_bytes=40_000)


@pytest.fixture
async def gateway():
    async with serving(limits=LIMITS) as running:
        yield running


def protocols(gateway):
    connections = gateway.server.server_state.connections
    return [each for each in connections if isinstance(each, DirectWebSocketProtocol)]


async def close_of(reader) -> tuple[int, str]:
    """Read to the end of the connection and return its last frame, the close frame."""
    data = await rest(reader)
    while data:
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4]), 4
        payload, opcode, data = data[start : start + size], data[0] & 15, data[start + size :]
    assert opcode == CLOSE
    return int.from_bytes(payload[:2]), payload[2:].decode()


@pytest.mark.parametrize(
    "frames",
    [
        [head(TEXT, 5001)],
        [head(BINARY, 5001)],
        [frame(TEXT, b"x" * 3000, is_final=False), head(CONTINUATION, 2001)],
        [frame(TEXT, b"x" * 3000, is_final=False), frame(PING), head(CONTINUATION, 2001)],
        [frame(TEXT, b"x" * 5001)],
    ],
    ids=["a head", "binary", "a fragment's head", "with a ping between", "a whole one"],
)
async def test_a_message_over_the_limit_before_hello_closes_while_it_arrives(gateway, frames):
    async with websocket(gateway.port, *frames) as (reader, _):
        code, reason = await close_of(reader)
    assert code == 1009 and "5000" in reason


async def test_a_message_at_the_limit_before_hello_is_read(gateway):
    hello = HELLO.ljust(5000)
    for frames in (
        [frame(TEXT, hello)],
        [frame(TEXT, hello[:9], is_final=False), frame(CONTINUATION, hello[9:])],
    ):
        async with websocket(gateway.port, *frames) as (reader, _):
            assert b'"type":"welcome"' in await reader.readuntil(b"}}")


async def test_large_append_with_token_may_follow_hello_in_one_write(gateway):
    run = await gateway.store.create_run(new_run())
    append = {"type": "append", "id": 1, "run": run.id, "stream": "s", "records": ["x" * 20_000]}
    append["token"] = token_for(f"write:streams:{run.id}/s")
    data = json.dumps(append).encode()
    for append_frames in (
        frame(TEXT, data),
        frame(TEXT, data[:9000], is_final=False) + frame(PING) + frame(CONTINUATION, data[9000:]),
    ):
        async with websocket(gateway.port, frame(TEXT, HELLO) + append_frames) as (reader, _):
            assert b'"offset":' in await reader.readuntil(b'"duplicate"')


async def test_clients_without_a_token_have_one_amount_for_their_large_messages(
    gateway, monkeypatch
):
    monkeypatch.setattr(unauthenticated_memory, "MAX_BYTES", 50_000)
    large = [head(TEXT, 40_000), b"x" * 30_000]
    hello = frame(TEXT, HELLO)
    token = token_for("write:runs:*")
    known = frame(TEXT, json.dumps({"type": "hello", "protocol": 1, "token": token}).encode())
    async with (
        websocket(gateway.port, hello, *large),
        websocket(gateway.port, known, *large) as (_, writer),
    ):
        await until(lambda: unauthenticated_memory._held.bytes >= 30_000)
        async with websocket(gateway.port, hello, *large) as (reader, _):
            assert (await close_of(reader))[0] == 1013
        async with websocket(gateway.port, hello, head(TEXT, 4900), b"x" * 4000) as (_, small):
            assert await push(small, b"x" * 500)  # a message within the free bytes still arrives
            await until(lambda: len(protocols(gateway)) == 3)
        assert await push(writer, b"x" * 1000)  # and one of a client with a token
    await until(lambda: unauthenticated_memory._held.bytes == 0)


@pytest.mark.parametrize("goes", ["by itself", "refused"])
async def test_an_unfinished_message_is_freed_when_its_connection_closes(gateway, goes):
    async with websocket(gateway.port, frame(TEXT, HELLO)) as (reader, writer):
        await reader.readuntil(b"}}")
        (protocol,) = protocols(gateway)
        await push(writer, frame(TEXT, b"x" * 20_000, is_final=False), head(CONTINUATION, 9000))
        await push(writer, b"x" * 8000)
        await until(lambda: len(protocol.conn.reader.buffer) == 8000)
        assert len(protocol.frames[0]) == 20_000 and unauthenticated_memory._held.bytes == 28_000
        if goes == "refused":
            await push(writer, b"x" * 1000, head(CONTINUATION, 1 << 30))
            assert (await close_of(reader))[0] == 1009
            assert not protocol.frames and not protocol.conn.reader.buffer
    await until(lambda: protocol.disconnected)
    assert (
        not protocol.frames
        and not protocol.conn.reader.buffer
        and not unauthenticated_memory._held.bytes
    )
    assert protocol.conn.parser.gi_frame is None  # a live frame would hold the message's bytes


async def test_a_connection_that_is_being_closed_gathers_no_message(gateway):
    async with websocket(gateway.port, frame(TEXT, b"[]")) as (reader, writer):
        await reader.readuntil(b"hello_expected")
        (protocol,) = protocols(gateway)
        await until(lambda: protocol.close_sent)
        for _ in range(3):
            await push(writer, frame(BINARY, b"x" * 3000, is_final=False), frame(PING))
            await push(writer, frame(CONTINUATION, b"x"), frame(TEXT, b"{}"), head(TEXT, 4000))
            await push(writer, b"x" * 4000)
        await push(writer, frame(TEXT, b"x" * 3000, is_final=False), head(CONTINUATION, 1000))
        await push(writer, bytes(900))
        await until(lambda: protocol._splitter._passthrough_bytes == 100)
        assert not protocol.frames and not protocol.conn.reader.buffer
        await push(writer, bytes(100), frame(CLOSE, b"\x0f\xa0"))
        await rest(reader)
        assert protocol.conn.close_rcvd is not None  # it read the close frame among all this


async def test_only_the_latest_ping_is_answered_to_a_client_that_took_nothing(gateway):
    async with websocket(gateway.port, frame(TEXT, HELLO)) as (reader, writer):
        await reader.readuntil(b"}}")
        (protocol,) = protocols(gateway)
        protocol.pause_writing()  # as the transport does
        await push(writer, *[frame(PING, b"%d" % number) for number in range(1000)])
        await until(lambda: protocol._pong.endswith(b"999"))
        protocol.resume_writing()
        assert await reader.readexactly(5) == b"\x8a\x03999"
        await push(writer, frame(PING, b"next"))
        assert await reader.readexactly(6) == b"\x8a\x04next"


def test_buffer_share_counts_bytes_above_free_quota_until_end():
    share = BufferShare(100)
    assert share.hold(100) and unauthenticated_memory._held.bytes == 0
    assert share.hold(101) and unauthenticated_memory._held.bytes == 101
    assert not share.hold(unauthenticated_memory.MAX_BYTES + 1)
    share.end()
    assert unauthenticated_memory._held.bytes == 0 and share.hold(
        unauthenticated_memory.MAX_BYTES + 1
    )


# Requests.


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["X: " + "x" * 9000], 431),
        (["X: x"] * 140, 431),
        (["Content-Length: 5"], 400),
        (["Transfer-Encoding: chunked"], 400),
        (["X: " + "x" * 300_000], 400),
    ],
)
async def test_an_upgrade_that_is_none_is_answered_and_closed(gateway, headers, status):
    said = await answer(gateway.port, upgrade(*headers))
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert len(said.partition(b"\r\n\r\n")[2]) > 20  # says why


async def test_a_request_with_two_lengths_is_refused_with_the_reason(gateway):
    request = b"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    request += (
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    said = await answer(gateway.port, request)
    assert said.count(b"HTTP/1.1 ") == 1 and said.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Length and Transfer-Encoding" in said


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJ4In0.c2lnbmF0dXJl"


async def test_a_token_anywhere_in_the_query_is_refused_and_not_repeated(gateway):
    queries = [JWT, f"a=1&{JWT}", f"x={JWT}", f"x=Bearer%20{JWT}", f"{JWT}=1", f"%65yJ{JWT[3:]}"]
    for query in queries:
        request = f"GET /v1/runs?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        said = await answer(gateway.port, request.encode())
        assert said.startswith(b"HTTP/1.1 400 ") and b"token_in_url" in said
        async with connected(gateway.port) as (reader, writer):
            await push(writer, upgrade(target=f"/v1/ws?{query}"))
            opened = await reader.readuntil(b"retryable")
        assert b"token_in_url" in opened
        assert b"eyJ" not in said + opened


async def test_a_request_that_begins_after_another_has_a_deadline_too(monkeypatch):
    monkeypatch.setattr(AbortableHttpProtocol, "request_s", 0.1)
    async with serving() as gateway, connected(gateway.port) as (reader, writer):
        await push(writer, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await push(writer, b"GET /healthz HTTP/1.1\r\nX")
        await rest(reader)


async def test_a_body_that_breaks_off_into_nonsense_under_its_answer_ends_the_connection(
    gateway, caplog
):
    async with connected(gateway.port) as (reader, writer):
        request = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await push(writer, request + b"%x\r\n%b\n\r\n" % (len(HELLO) + 1, HELLO))
        await reader.readuntil(b"welcome")
        await push(writer, b"no size\r\n")
        await rest(reader)
    await until(lambda: not gateway.gateway._sessions)
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("path", ["/v1/tokens", "/v1/stream/a", "/v1/events"])
async def test_missing_body_times_out(monkeypatch, path):
    monkeypatch.setattr(AbortableHttpProtocol, "body_s", 0.1)
    request = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\n"
    request += "Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    async with serving() as gateway, connected(gateway.port) as (reader, writer):
        await push(writer, request.encode(), b"{")
        await rest(reader)


@pytest.mark.parametrize(
    "line",
    [
        "POST /v1/tokens",
        "POST /v1/tokens/revoke",
        "POST /v1/tasks/x/trigger",
        "PUT /v1/stream/a",
        "POST /v1/events",
    ],
)
async def test_client_disconnect_within_body_logs_no_error(gateway, caplog, line):
    bearer = SECRET if "/v1/tokens" in line else token_for("trigger:tasks:*", "write:paths:*")
    request = f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n"
    request += "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    state = gateway.server.server_state
    async with connected(gateway.port) as (_, writer):
        await push(writer, request.encode())
        await until(lambda: state.tasks)
    await until(lambda: not state.tasks)
    assert not [record for record in caplog.records if record.exc_info]


async def test_complete_body_clears_the_deadline(monkeypatch):
    monkeypatch.setattr(AbortableHttpProtocol, "body_s", 0.1)
    async with serving() as gateway, connected(gateway.port) as (reader, writer):
        request = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(HELLO)
        await push(writer, request, HELLO[:9])
        await until(lambda: gateway.gateway._sessions)
        await push(writer, HELLO[9:])
        await reader.readuntil(b"welcome")
        (protocol,) = gateway.server.server_state.connections
        await until(lambda: protocol._deadline is None)
        assert not protocol.transport.is_closing()


async def test_oldest_silent_connections_are_closed_above_the_limit(monkeypatch):
    monkeypatch.setattr(AbortableHttpProtocol, "silent_connections", 2)
    monkeypatch.setattr(
        AbortableHttpProtocol, "request_s", 300.0
    )  # so that no deadline cuts them off
    async with (
        serving() as gateway,
        connected(gateway.port) as (first, _),
        connected(gateway.port),
        gateway.client() as client,  # has made its request, and does not count
        connected(gateway.port),
        connected(gateway.port),
    ):
        await rest(first)
        await until(lambda: len(gateway.server.server_state.connections) == 3)
        assert await client.ask(type="ping") == {"type": "pong"}
