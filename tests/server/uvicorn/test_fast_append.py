"""Appends that arrive whole, beside the same in pieces, on real sockets; and hostile requests."""

import asyncio
import json
import re
from contextlib import suppress
from functools import partial

import pytest

from gateway import tokens
from gateway.model.records import REVOCATIONS
from gateway.server.durable_streams import DurableStreams
from gateway.server.uvicorn import fast_append
from gateway.server.uvicorn.request_head import read_head
from tests.support.gateways import new_run, serving, token_for, until
from tests.support.http.raw_appends import connected, post, records


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
async def test_fast_append_responds_like_the_application(store, monkeypatch, tmp_path):
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


async def test_fast_append_extends_sliding_ttl(gateway, begun):
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


async def test_response_write_failure_affects_only_its_connection(gateway, monkeypatch, caplog):
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
        monkeypatch.setattr(broken, "_serialize", failing)
        go_on()
        assert (await other.answer())[0] == 204
        assert await client.is_closed()
    assert "Exception in an answer" in caplog.text
    assert await records(gateway) == [1, 1, 2, 3]


async def test_log_names_the_client_address_from_the_proxy(gateway, begun, caplog):
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
async def test_pipelined_requests_are_answered_in_order(gateway, count):
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


async def test_pipelined_bytes_are_bounded(gateway, monkeypatch):
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
        await until(lambda: protocol._pipelined)
        await more
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(protocol._pipelined) <= 256 << 10  # what is read at once
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
    monkeypatch.setattr(fast_append, "PARTIAL_TIMEOUT_S", 0.01)
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


async def test_repeated_head_is_parsed_once_and_checked_each_time(gateway, monkeypatch):
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
            (good(b"4", "X: " + "y" * fast_append.CACHED_HEAD_BYTES), 204, 5),
            (
                good(b"5", "X: " + "y" * fast_append.CACHED_HEAD_BYTES),
                204,
                6,
            ),  # too long to be kept
        ):
            await client.send(data)
            assert ((await client.answer())[0], len(read)) == (status, count)
        await client.send(good(b"6"), b"")
        assert (await client.answer())[0] == 204
        await client.send(good(b"7") + good(b"8"))
        assert [(await client.answer())[0] for _ in range(2)] == [204, 204]
    assert await records(gateway) == [1, 2, 12, 3, 4, 5, 6, 7, 8]


async def test_missing_body_leaves_no_state(gateway):
    async with connected(gateway) as client:
        await client.send(split(post())[0])
        client.writer.transport.abort()
    await until(lambda: not gateway.server.server_state.connections)
    assert await records(gateway) == []


async def test_shutdown_waits_for_a_body_in_transit(gateway):
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


async def test_shutdown_responds_then_closes(gateway, monkeypatch):
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
