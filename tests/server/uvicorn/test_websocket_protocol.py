"""The direct path leans on uvicorn's internals: these fail loudly when they move."""

import asyncio
import inspect
import json
import random
from contextlib import AsyncExitStack, suppress

from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from gateway.model.records import StreamKey
from gateway.server.uvicorn.bulk_write import MIN_BATCH
from gateway.server.uvicorn.text_frames import encode_text_frame
from gateway.server.uvicorn.websocket_protocol import DirectWebSocketProtocol
from tests.support.gateways import new_run, serving, token_for, until


@given(st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 70000]), st.sampled_from(["a", "é"]))
def test_encoded_frame_equals_the_librarys(size, letter):
    text = letter * size
    assert encode_text_frame(text) == Frame(Opcode.TEXT, text.encode()).serialize(mask=False)


def test_overridden_methods_exist_in_uvicorn():
    ours = {"abort", "abort_later", "_mark_closed", "_free_handshake"}
    ours |= {"receive_batch", "_enqueue", "_reject_text"}
    ours |= {
        "_enqueue_texts",
        "_receive_handshake",
        "_reject_handshake",
        "_read_pieces",
        "_pause_reading",
    }
    ours |= {"raise_limit", "_account_unfinished", "_discard_unfinished", "_send_pong", "_drained"}
    methods = [name for name, it in vars(DirectWebSocketProtocol).items() if inspect.isfunction(it)]
    overridden = set(methods) - ours
    assert overridden and all(hasattr(WebSocketsSansIOProtocol, name) for name in overridden)
    source = inspect.getsource(WebSocketsSansIOProtocol.run_asgi)
    assert "self.app(self.scope" in source


async def follow(client, run, **more):
    await client.send(type="subscribe", id=1, run=run.id, stream="s", **more)
    assert (await client.receive())["type"] == "subscribed"


def sinks(gateway):
    return [
        c for c in gateway.server.server_state.connections if isinstance(c, DirectWebSocketProtocol)
    ]


async def test_caught_up_reader_gets_frames_directly():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        key = StreamKey(run.id, "s")
        async with gateway.client(token=token_for(f"read:runs:{run.id}")) as client:
            await follow(client, run)
            tail = gateway.hub._tails[key]
            await until(lambda: tail._groups)
            assert not tail._solo
            await gateway.store.append(key, [b'"one"'])
            assert (await client.receive())["records"][0]["data"] == "one"
            await client.send(type="unsubscribe", id=1)
            assert (await client.receive())["type"] == "unsubscribed"
            await until(lambda: not gateway.hub.live_streams)


async def test_paused_reader_is_evicted_and_catches_up_on_resume():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        key = StreamKey(run.id, "s")
        big = json.dumps("x" * 50_000).encode()
        async with gateway.client(token=token_for(f"read:runs:{run.id}")) as client:
            await follow(client, run)
            tail = gateway.hub._tails[key]
            await until(lambda: tail._groups)
            (sink,) = sinks(gateway)
            client.socket.transport.pause_reading()
            appended = 0
            while sink.is_open:
                await gateway.store.append(key, [big])
                await asyncio.sleep(0)
                appended += 1
                assert appended < 2000, "the connection's buffer has no bound"
            await gateway.store.append(key, [big] * 20)
            await until(lambda: not tail._groups)
            assert sink.transport.get_write_buffer_size() < 1 << 20
            client.socket.transport.resume_reading()
            offsets = []
            while len(offsets) < appended + 20:
                offsets += [r["offset"] for r in (await client.receive())["records"]]
            assert offsets == list(range(appended + 20))
            await gateway.store.append(key, [b'"last"'])
            assert (await client.receive())["records"][0]["data"] == "last"
            await until(lambda: tail._groups)  # and is handed its frames again


async def test_nothing_follows_the_frame_that_closes():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        key = StreamKey(run.id, "s")
        async with gateway.client(token=token_for(f"read:runs:{run.id}")) as client:
            await follow(client, run)
            await until(lambda: gateway.hub._tails[key]._groups)
            (sink,) = sinks(gateway)
            written = []
            write, sink.write = sink.write, lambda data: (written.append(data), write(data))
            await client.send(type="hello", protocol=1, token="x")  # refused, the connection lives
            await client.receive()
            for session in tuple(gateway.gateway._sessions):
                session.shut_down()
            await until(lambda: not sink.is_open)
            written.clear()  # answers and the reason
            await gateway.store.append(key, [b"1"])
            await client.close_code()
            assert not written


async def test_paused_client_in_group_loses_nothing_and_delays_none():
    async with serving() as gateway, AsyncExitStack() as stack:
        run = await gateway.store.create_run(new_run())
        key = StreamKey(run.id, "s")
        token = token_for(f"read:runs:{run.id}")
        clients = [
            await stack.enter_async_context(gateway.client(token=token))
            for _ in range(MIN_BATCH + 4)
        ]
        for client in clients:
            await follow(client, run)
        await until(lambda: not gateway.hub._tails[key]._solo)
        slow = clients.pop(3)
        slow.socket.transport.pause_reading()
        big = json.dumps("x" * 100_000).encode()
        appended = 0
        while all(sink.is_open for sink in sinks(gateway)):
            await gateway.store.append(key, [big])
            appended += 1
            await asyncio.sleep(0)
            assert appended < 1000, "a connection's buffer has no bound"
        await gateway.store.append(key, [b'"after"'])
        for client in clients:
            assert await offsets_until(client, "after") == list(range(appended + 1))
        assert sum(not sink.is_open for sink in sinks(gateway)) == 1
        slow.socket.transport.resume_reading()
        assert await offsets_until(slow, "after") == list(range(appended + 1))


async def offsets_until(client, last):
    offsets = []
    while True:
        for record in (await client.receive())["records"]:
            offsets.append(record["offset"])
            if record["data"] == last:
                return offsets


async def test_reused_descriptor_never_gets_previous_connections_bytes():
    chance = random.Random(5)
    async with serving() as gateway:
        runs = [await gateway.store.create_run(new_run()) for _ in range(2)]
        token = token_for("read:runs:*")
        open_: list[tuple[int, AsyncExitStack, asyncio.Task]] = []

        async def come(which):
            stack = AsyncExitStack()
            client = await stack.enter_async_context(gateway.client(token=token))
            await follow(client, runs[which], start="latest")
            open_.append((which, stack, asyncio.create_task(listen(which, client))))

        async def listen(which, client):
            """Every record is of its own stream, right after the one before."""
            last = None
            with suppress(ConnectionClosed):
                while True:
                    for record in (await client.receive()).get("records", []):
                        assert record["data"] == which
                        assert last is None or record["offset"] == last + 1
                        last = record["offset"]

        for number in range(2 * (MIN_BATCH + 8)):
            await come(number % 2)
        given_again = 0
        for _ in range(60):
            for run, which in zip(runs, (0, 1), strict=True):
                await gateway.store.append(StreamKey(run.id, "s"), [str(which).encode()])
            before = {sink.socket for sink in sinks(gateway)}
            which, stack, listening = open_.pop(chance.randrange(len(open_)))
            if chance.random() < 0.5:
                chance.choice(sinks(gateway)).abort()
            await stack.aclose()
            await listening
            await come(1 - which)
            given_again += {sink.socket for sink in sinks(gateway)} <= before
        assert given_again > 10
        for _, stack, listening in open_:
            await stack.aclose()
            await listening


async def test_whole_texts_go_past_the_librarys_parser_and_the_rest_does_not(monkeypatch):
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=token_for(f"read:runs:{run.id}")) as client:
            (sink,) = sinks(gateway)
            read, receive = [], sink.conn.receive_data
            monkeypatch.setattr(
                sink.conn, "receive_data", lambda it: (read.append(it), receive(it))
            )
            for id in range(3):
                await client.ask(type="head", id=id, run=run.id, stream="s")
            assert not read
            await (await client.socket.ping())
            assert len(read) == 1
            await client.ask(type="head", id=4, run=run.id, stream="s")
            assert len(read) == 1
