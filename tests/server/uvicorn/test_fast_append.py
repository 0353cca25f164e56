"""Appends that arrive whole, beside the same in pieces, on real sockets; and hostile requests."""

import asyncio
import json
import re
from contextlib import asynccontextmanager, suppress
from functools import partial

import h11
import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway import tokens
from gateway.model.records import REVOCATIONS, path_data
from gateway.server.durable_streams import DurableStreams
from gateway.server.uvicorn import fast_append
from gateway.server.uvicorn.fast_append import FastAppendProtocol
from gateway.server.uvicorn.request_head import read_head
from tests.support.gateways import DEADLINE_S, new_run, serving, token_for, until

PATH = "/v1/stream/a"
ENDLESS = 200 << 10  # bytes: over h11's limit of 64 KiB, and what its buffers may hold


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


@pytest.fixture(params=["memory", "sqlite"])
async def gateway(request, tmp_path):
    store = "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/test.db"
    async with serving(store, origins=("https://app.example",)) as running:
        async with connected(running) as client:
            put = post(b"").replace(b"POST", b"PUT", 1)
            await client.send(put)
            assert (await client.answer())[0] == 201
        yield running


@pytest.fixture
def taken(monkeypatch):
    """List the requests that were read past h11."""
    found, answer = [], FastAppendProtocol._answer

    def answering(protocol, head, body):
        found.append(body)
        answer(protocol, head, body)

    monkeypatch.setattr(FastAppendProtocol, "_answer", fast_append)
    return found


@pytest.fixture
def begun(monkeypatch):
    """List what was said of each request that might be answered without a task."""
    found, begin = [], DurableStreams.begin_append

    def beginning(*given):
        found.append(begin(*given))
        return found[-1]

    monkeypatch.setattr(DurableStreams, "begin_append", beginning)
    return found


def held_back(gateway, monkeypatch):
    """Hold back the appends that are begun; gives what lets them go on."""
    store, held = gateway.gateway._store, []
    begin = store.begin_append
    monkeypatch.setattr(
        store, "begin_append", lambda *args, **more: held.append(partial(begin, *args, **more))
    )

    def go_on():
        monkeypatch.setattr(store, "begin_append", begin)
        for each in held:
            each()

    return go_on


async def records(gateway, path="a"):
    client = gateway.app.state.gateway._paths
    stream = await client.open(path)
    page = await gateway.store.read(path_data(path, stream.configuration.generation))
    return [json.loads(record.data) for record in page.records]


async def test_appends_on_one_connection_are_kept_in_their_order(gateway, taken, begun):
    gateway.server.server_state.default_headers = [(b"server", b"uvicorn")]
    async with connected(gateway) as client:
        for n in range(5):
            await client.send(post(b"%d" % n))
            status, headers, body = await client.answer()
            assert (status, body) == (204, b"")
            assert headers[b"stream-next-offset"].endswith(b"%d" % (n + 1))
            assert headers[b"server"] == b"uvicorn"
    assert await records(gateway) == [0, 1, 2, 3, 4]
    assert len(taken) == 5
    assert begun[1:] == [True] * 4  # before the first it may be that the path has to be read


REQUESTS = {
    "good": lambda: post(),
    "an array": lambda: post(b"[1, 2]"),
    "closing": lambda: post(b"1", "Stream-Closed: true"),
    "a producer": lambda: post(b"1", "Producer-Id: p", "Producer-Epoch: 0", "Producer-Seq: 0"),
    "a gap": lambda: post(b"1", "Producer-Id: p", "Producer-Epoch: 0", "Producer-Seq: 7"),
    "half a producer": lambda: post(b"1", "Producer-Id: p"),
    "no token": lambda: post(token=""),
    "a token that is none": lambda: post(token="x"),
    "two tokens": lambda: post(b"1", "Authorization: Bearer x"),
    "a scope of something else": lambda: post(token=token_for("read:paths:*")),
    "an expired token": lambda: post(token=token_for("write:paths:*", ttl_s=60, age_s=600)),
    "no such stream": lambda: post(path="/v1/stream/b"),
    "no such run": lambda: post(path="/v1/stream/run_x/s"),
    "a reserved stream": lambda: post(path="/v1/stream/__x"),
    "an empty segment": lambda: post(path="/v1/stream/a//b"),
    "dots": lambda: post(path="/v1/stream/a/../b"),
    "nothing": lambda: post(path="/v1/stream/"),
    "no JSON": lambda: post(b"{"),
    "no body": lambda: post(b""),
    "another type": lambda: post(type="text/plain"),
    "no type": lambda: post(type=""),
    "a type that is none": lambda: post(type="json"),
    "a page of a known origin": lambda: post(b"1", "Origin: https://app.example"),
    "a page of another origin": lambda: post(b"1", "Origin: https://evil.example"),
    "behind a proxy": lambda: post(b"1", "X-Forwarded-For: 1.2.3.4", "X-Forwarded-Proto: https"),
}


def split(data: bytes) -> list[bytes]:
    head, end, body = data.partition(b"\r\n\r\n")
    return [head + end, body]


# How it comes otherwise, and whether it is read past h11 all the same.
WAYS = {
    "its last byte apart": (lambda data: [data[:-1], data[-1:]], True),
    "its head and its body": (split, True),
    "its body byte by byte": (
        lambda data: [split(data)[0], *map(bytes, zip(split(data)[1]))],
        True,
    ),
    "its head in two": (lambda data: [data[:30], data[30:]], False),
    "with a space less": (lambda data: [data.replace(b"Host: x", b"Host:x", 1)], False),
}


@pytest.mark.parametrize(("way", "is_past"), WAYS.values(), ids=WAYS)
async def test_what_arrives_whole_is_answered_as_what_comes_otherwise(way, is_past, taken, begun):
    for what, make in REQUESTS.items():
        answers, counts = [], []
        for pieces in ([make()], way(make())):
            async with (
                serving(origins=("https://app.example",)) as gateway,
                connected(gateway) as client,
            ):
                await client.send(post(b"").replace(b"POST", b"PUT", 1))
                await client.answer()
                taken.clear()
                await client.send(*pieces)
                status, headers, body = await client.answer()
                counts.append(len(taken))
                offset = headers.pop(b"stream-next-offset", b"")
                counters = gateway.gateway.counters
                told = (dict(counters.refusals), counters.records_appended)
                answers.append((status, headers, body, offset[-10:], told, counters.bytes_received))
        assert answers[0] == answers[1], what
        if what != "no body" or not is_past:  # the last byte of which is its head's
            assert counts == [1, is_past], what
        # What a proxy adds matters to the log alone, which is off here. What the store refuses was
        # begun all the same.
        at_once = {"good", "an array", "closing", "a producer", "behind a proxy"}
        assert (begun[:1] == [True]) == (what in at_once | {"a gap", "no such run"}), what
        begun.clear()


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_what_is_begun_at_once_is_answered_as_by_the_application(
    store, monkeypatch, tmp_path
):
    """The same requests, one after the other, to two gateways of which one begins nothing."""
    said = []
    begin = DurableStreams.begin_append
    for n, is_begun in enumerate((True, False)):
        begun = []

        def beginning(*given, begun=begun, is_begun=is_begun):
            begun.append(is_begun and begin(*given))
            return begun[-1]

        monkeypatch.setattr(DurableStreams, "begin_append", beginning)
        url = "memory:" if store == "memory" else f"sqlite:{tmp_path}/{n}.db"
        answers = []
        async with serving(url) as gateway, connected(gateway) as client:
            await client.send(post(b"").replace(b"POST", b"PUT", 1))
            await client.answer()
            for body, *lines in (
                [b"0"],
                [b"1"],
                [b"[2, 3]"],
                [b"4", "Producer-Id: p", "Producer-Epoch: 0", "Producer-Seq: 0"],
                [b"5", "Producer-Id: p", "Producer-Epoch: 0", "Producer-Seq: 1"],
                [b"5", "Producer-Id: p", "Producer-Epoch: 0", "Producer-Seq: 1"],  # again
                [b"6", "Producer-Id: p", "Producer-Epoch: 0", "Producer-Seq: 9"],
                [b"6", "Producer-Id: p", "Producer-Epoch: 2", "Producer-Seq: 0"],
                [b"7", "Producer-Id: p", "Producer-Epoch: 1", "Producer-Seq: 0"],
                [b"8", "Stream-Seq: b"],
                [b"9", "Stream-Seq: a"],
                [b"x"],
                [b"[]"],
                [b"10", "Stream-Closed: true"],
                [b"11"],
                [b"11", "Stream-Closed: true"],
                [b"", "Stream-Closed: true"],
            ):
                await client.send(post(body, *lines))
                status, headers, text = await client.answer()
                if b"stream-next-offset" in headers:
                    headers[b"stream-next-offset"] = headers[b"stream-next-offset"][-16:]
                answers.append((status, headers, re.sub(rb"data-\w+", b"", text)))
            counters = gateway.gateway.counters
            counted = (dict(counters.refusals), counters.records_appended, counters.bytes_received)
            said.append((answers, await records(gateway), counted))
            assert (begun.count(True) >= 10) == is_begun
    for answer, other in zip(*(answers for answers, *_ in said), strict=True):
        assert answer == other
    assert said[0] == said[1]
    assert said[0][1] == [*range(7), 8, 10]
    assert len({status for status, *_ in said[0][0]}) >= 5


async def test_a_stream_whose_life_slides_is_touched_by_what_is_begun_at_once(gateway, begun):
    async with connected(gateway) as client:
        put = post(b"", "Stream-TTL: 100", path="/v1/stream/ttl").replace(b"POST", b"PUT", 1)
        await client.send(put)
        assert (await client.answer())[0] == 201
        paths = gateway.gateway._paths
        now_ms = paths._clock_ms()
        paths._clock_ms = lambda: now_ms
        for later_ms, changes in ((1_000, 1), (2_000, 0), (30_000, 1), (120_000, 1)):
            paths._clock_ms = lambda later_ms=later_ms: now_ms + later_ms
            before = (await paths.read("ttl")).version.offset
            await client.send(post(b"1", path="/v1/stream/ttl"))
            assert (await client.answer())[0] == 204
            assert (await paths.read("ttl")).version.offset == before + changes
        assert True in begun
        paths._clock_ms = lambda: now_ms + 250_000
        await client.send(post(b"1", path="/v1/stream/ttl"))
        assert (await client.answer())[0] == 404
        assert begun[-1] is False


async def test_an_answer_that_cannot_be_written_is_a_fault_of_that_connection_alone(
    gateway, monkeypatch, caplog
):
    def failing(*_):
        raise RuntimeError("no answer")

    async with connected(gateway) as client, connected(gateway) as other:
        for each in (client, other):
            await each.send(post())
            assert (await each.answer())[0] == 204
        go_on = held_back(gateway, monkeypatch)
        await client.send(post(b"2"))
        await other.send(post(b"3"))
        cycles = [each.cycle for each in gateway.server.server_state.connections]
        broken = next(cycle for cycle in cycles if cycle.body == b"2")
        monkeypatch.setattr(broken, "_written", failing)
        go_on()
        assert (await other.answer())[0] == 204
        assert await client.is_closed()
    assert "Exception in an answer" in caplog.text
    assert await records(gateway) == [1, 1, 2, 3]


async def test_the_log_says_of_whom_a_proxy_speaks(gateway, begun, caplog):
    caplog.set_level("INFO", "uvicorn.access")
    async with connected(gateway) as client:
        for line in ((), (), ("X-Forwarded-For: 203.0.113.9",)):
            await client.send(post(b"1", *line))
            assert (await client.answer())[0] == 204
    lines = [each.getMessage() for each in caplog.records if each.name == "uvicorn.access"]
    assert all(
        re.fullmatch(r'127.0.0.1:\d+ - "POST /v1/stream/a HTTP/1.1" 204', x) for x in lines[:2]
    )
    assert lines[2].startswith("203.0.113.9:")
    assert len(begun) == 2 and begun[1] is True


async def test_requests_of_both_kinds_take_turns_on_one_connection(gateway, taken):
    async with connected(gateway) as client:
        for n in range(3):
            await client.send(post(b"%d" % n))
            assert (await client.answer())[0] == 204
            await client.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await client.answer("GET"))[0] == 200
            request = post(b"%d" % -n)
            await client.send(request[:50], request[50:])  # a part of its head
            assert (await client.answer())[0] == 204
    assert await records(gateway) == [0, 0, 1, -1, 2, -2]
    assert len(taken) == 3


@pytest.mark.parametrize("count", [2, 50])
async def test_what_comes_before_the_answer_waits_and_is_answered_in_its_order(gateway, count):
    requests = [post(b"%d" % n) for n in range(count)]
    async with connected(gateway) as client:
        client.writer.write(b"".join(requests))  # in one piece
        for _ in range(count):
            assert (await client.answer())[0] == 204
        for request in requests:  # or each by itself
            client.writer.write(request)
            await asyncio.sleep(0)
        for _ in range(count):
            assert (await client.answer())[0] == 204
    assert await records(gateway) == [*range(count), *range(count)]


async def test_what_comes_before_the_answer_is_bounded(gateway, monkeypatch):
    async with connected(gateway) as client:
        await client.send(post())
        assert (await client.answer())[0] == 204
        go_on = held_back(gateway, monkeypatch)
        await client.send(post())
        (protocol,) = (
            each
            for each in gateway.server.server_state.connections
            if isinstance(each.cycle, fast_append._Cycle)
        )
        more = asyncio.create_task(client.send(b"GET / HTTP/1.1\r\nX: " + b"x" * (8 << 20)))
        await until(lambda: protocol._later)
        await more
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(protocol._later) <= 256 << 10  # what is read at once
        assert protocol.flow.read_paused
        go_on()
        assert (await client.answer())[0] == 204
        with suppress(ConnectionResetError):  # with what was not read of it
            assert (await client.answer())[0] == 400


async def test_a_client_that_leaves_before_the_answer_leaves_its_record(gateway, caplog):
    async with connected(gateway) as client:
        await client.send(post(b"6"))
        assert (await client.answer())[0] == 204
        await client.send(post(b"7"))
        client.writer.transport.abort()
    await until(lambda: gateway.gateway.counters.records_appended == 3)  # a path's log is one too
    await until(lambda: not gateway.server.server_state.tasks)
    assert await records(gateway) == [6, 7]
    await until(lambda: not gateway.server.server_state.connections)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_body_that_is_long_in_coming_is_waited_for_by_h11(gateway, taken, monkeypatch):
    monkeypatch.setattr(fast_append, "HELD_S", 0.01)
    async with connected(gateway) as client, connected(gateway) as stranger:
        head, body = split(post(b"12345"))
        await client.send(head + body[:2])
        await stranger.send(split(post(token="x"))[0])
        assert (await stranger.answer())[0] == 401  # without the body: who may not is told so
        protocols = gateway.server.server_state.connections
        await until(lambda: all(each._head is None for each in protocols))
        await client.send(body[2:4], body[4:])
        assert (await client.answer())[0] == 204
    assert await records(gateway) == [12345]
    assert not taken


async def test_a_head_that_comes_again_is_read_once_and_judged_each_time(gateway, monkeypatch):
    read = []
    good = partial(post, token=token_for("write:paths:*"))
    monkeypatch.setattr(
        fast_append, "read_head", lambda *given: read.append(given) or read_head(*given)
    )
    async with connected(gateway) as client:
        for data, status, count in (
            (good(b"1"), 204, 1),
            (good(b"2"), 204, 1),
            (good(b"{"), 400, 1),
            (good(b"12"), 204, 2),  # another length
            (post(b"3", token="x"), 401, 3),
            (good(b"3"), 204, 4),
            (good(b"4", "X: " + "y" * fast_append.KNOWN_BYTES), 204, 5),
            (good(b"5", "X: " + "y" * fast_append.KNOWN_BYTES), 204, 6),  # too long to be kept
        ):
            await client.send(data)
            assert ((await client.answer())[0], len(read)) == (status, count)
        await client.send(good(b"6"), b"")
        assert (await client.answer())[0] == 204
        await client.send(good(b"7") + good(b"8"))
        assert [(await client.answer())[0] for _ in range(2)] == [204, 204]
    assert await records(gateway) == [1, 2, 12, 3, 4, 5, 6, 7, 8]


async def test_a_body_that_never_comes_leaves_nothing(gateway):
    async with connected(gateway) as client:
        await client.send(split(post())[0])
        client.writer.transport.abort()
    await until(lambda: not gateway.server.server_state.connections)
    assert await records(gateway) == []


async def test_a_gateway_that_goes_down_waits_for_a_body_that_is_under_way(gateway):
    async with connected(gateway) as client:
        head, body = split(post(b"12"))
        await client.send(head, body[:1])
        (protocol,) = gateway.server.server_state.connections
        protocol.shutdown()
        await client.send(body[1:])
        assert (await client.answer())[0] == 204
        assert await client.is_closed()


async def test_a_run_is_appended_to_as_well(gateway, taken):
    run = await gateway.store.create_run(new_run())
    async with connected(gateway) as client:
        await client.send(post(b'{"a":1}', path=f"/v1/stream/{run.id}/s"))
        assert (await client.answer())[0] == 204
    assert len(taken) == 1


async def test_a_token_that_was_revoked_is_refused_at_the_next_append(gateway):
    token = token_for("write:paths:*")
    async with connected(gateway) as client:
        await client.send(post(token=token))
        assert (await client.answer())[0] == 204
        revocation = tokens.Revocation(token_id=tokens.id_of(token))
        await gateway.store.append(REVOCATIONS, [revocation.encode()])
        await until(lambda: len(gateway.gateway._revocations._list))
        await client.send(post(token=token))
        status, _, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (401, "token_revoked")


async def test_a_connection_that_is_idle_after_an_append_is_closed():
    async with serving() as gateway:
        gateway.server.config.timeout_keep_alive = 0.05
        async with connected(gateway) as client:
            await client.send(post())
            assert (await client.answer())[0] == 404
            assert await client.is_closed()


async def test_a_gateway_that_goes_down_answers_and_then_closes(gateway, monkeypatch):
    async with connected(gateway) as client:
        await client.send(post())
        assert (await client.answer())[0] == 204
        go_on = held_back(gateway, monkeypatch)
        await client.send(post())
        (protocol,) = gateway.server.server_state.connections
        protocol.shutdown()
        go_on()
        assert (await client.answer())[0] == 204
        assert await client.is_closed()


# What is no request of the plain form, or no request at all.


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
    for begins in (fast_append.BEGINS, b"nothing"):
        monkeypatch.setattr(fast_append, "BEGINS", begins)
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


# What an application may answer.


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written, self.is_over = b"", False

    def write(self, data):
        self.written += data

    def close(self):
        self.is_over = True

    def is_closing(self):
        return self.is_over


async def answered(*messages, fails=False):
    """Have an application answer an append; gives what is written, and whether that was the end."""

    async def app(scope, receive, send):
        assert (await receive())["body"] == b"1"
        for message in messages:
            await send(message)
        if fails:
            raise ValueError("a fault of the application")

    config = uvicorn.Config(app, http=FastAppendProtocol, log_config=None, proxy_headers=False)
    config.load()
    protocol = FastAppendProtocol(config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    protocol.connection_made(transport)
    protocol.data_received(post(token="x"))
    await asyncio.gather(*protocol.tasks)
    protocol.connection_lost(None)
    return transport.written, transport.is_over


def start(status=200, *headers):
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data=b"", **more):
    return {"type": "http.response.body", "body": data, **more}


@pytest.mark.parametrize(
    ("messages", "written"),
    [
        ([start(), body(b"ab")], b"200 OK\r\ncontent-length: 2\r\n\r\nab"),
        (
            [start(200, (b"Content-Length", b"2")), body(b"ab")],
            b"200 OK\r\nContent-Length: 2\r\n\r\nab",
        ),
        ([start(204), body()], b"204 No Content\r\n\r\n"),
        ([start(404, (b"x", b"y")), body()], b"404 Not Found\r\nx: y\r\ncontent-length: 0\r\n\r\n"),
    ],
)
async def test_an_answer_is_written_in_one_piece(messages, written):
    assert await answered(*messages) == (b"HTTP/1.1 " + written, True)


async def test_an_answer_may_end_the_connection():
    written, is_over = await answered(start(413, (b"connection", b"close")), body())
    assert written.startswith(b"HTTP/1.1 413") and is_over


@pytest.mark.parametrize(
    "messages",
    [
        [start(), body(b"a", more_body=True)],
        [start(200, (b"x", b"a\r\nset-cookie: b")), body()],
        [start(200, (b"x\n", b"a")), body()],
        [start(200, (b"x", b"a\0")), body()],
        [start(200, (b"content-length", b"7")), body(b"ab")],
        [start(204), body(b"ab")],
        [start(), start()],
        [start()],
    ],
)
async def test_what_is_no_answer_is_not_written_and_ends_the_connection(messages, caplog):
    assert await answered(*messages) == (b"", True)
    assert caplog.records


@pytest.mark.parametrize("fails", [True, False])
async def test_an_application_that_does_not_answer_is_a_fault(fails, caplog):
    written, _ = await answered(fails=fails)
    assert written.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert written.endswith(b"\r\n\r\nInternal Server Error")
    assert caplog.records


async def test_nothing_is_written_after_the_answer(caplog):
    written, is_over = await answered(start(204), body(), body())
    assert written == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert is_over and caplog.records
