"""An answer that is lost on the way costs nothing: through store, WebSocket and SDK, nothing twice.

Between the two sides stands a real TCP proxy that cuts the connection when the answer comes.
"""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import ConnectionClosed

from gateway import connect, streams, task
from gateway.errors import WriterFenced, WriterGap
from gateway.model.records import StreamKey, Writer
from gateway.sdk.writers.stream_writer import StreamWriter
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    Client,
    gateway_process,
    new_run,
    serving,
    worker_token,
)

numbers = streams.define("numbers", int)


class Proxy:
    """Passes bytes on; told to, it cuts the connection where the gateway's next answer is due."""

    def __init__(self, port):
        self._port = port
        self._cuts = 0
        self.was_cut = 0

    def cut(self, answer):
        self._answer = answer
        self._cuts += 1

    async def serve(self, reader, writer):
        onward = await asyncio.open_connection("127.0.0.1", self._port)
        up = asyncio.create_task(self._pass(reader, onward[1], None))
        down = asyncio.create_task(self._pass(onward[0], writer, writer))
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        for passing in (up, down):
            passing.cancel()
        await asyncio.gather(up, down, return_exceptions=True)
        for side in (writer, onward[1]):
            side.transport.abort()

    async def _pass(self, reader, writer, answering):
        while data := await reader.read(65536):
            if answering and self._cuts and self._answer in data:
                self._cuts -= 1
                self.was_cut += 1
                return
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxied(port):
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    try:
        yield proxy, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def values_of(store, key):
    page = await store.read(key)
    return [json.loads(record.data) for record in page.records]


@asynccontextmanager
async def client_of(url):
    async with connect_socket(f"{url}/v1/ws", compression=None) as opened:
        client = Client(opened)
        await client.ask(type="hello", protocol=1, token=worker_token())
        yield client


def append(run, sequence, *values, epoch=0):
    return {
        "type": "append",
        "id": 1,
        "run": run.id,
        "stream": "s",
        "records": list(values),
        "writer": {"id": "w", "epoch": epoch, "sequence": sequence},
    }


async def test_over_the_socket_a_retry_writes_nothing_twice_and_a_zombie_is_refused():
    async with serving() as gateway, proxied(gateway.port) as (proxy, url):
        run = await gateway.store.create_run(new_run())
        async with client_of(url) as client:
            proxy.cut(b'"appended"')
            with pytest.raises(ConnectionClosed):
                await client.ask(**append(run, 0, 1, 2))
        async with client_of(url) as client:
            answer = await client.ask(**append(run, 0, 1, 2))
            assert (answer["type"], answer["duplicate"], answer["offset"]) == ("appended", True, 0)
            answer = await client.ask(**append(run, 2, 3))
            assert (answer["duplicate"], answer["offset"]) == (False, 2)
            successor = await client.ask(**append(run, 0, 4, epoch=1))
            assert (successor["duplicate"], successor["offset"]) == (False, 3)
            zombie = await client.ask(**append(run, 3, 5))
            assert (zombie["code"], zombie["retryable"]) == ("writer_fenced", False)
            ahead = await client.ask(**append(run, 7, 6, epoch=1))
            assert ahead["code"] == "writer_gap"
        assert await values_of(gateway.store, StreamKey(run.id, "s")) == [1, 2, 3, 4]
        assert proxy.was_cut == 1


async def test_sdk_stores_records_once_in_order_when_replies_are_lost(tmp_path):
    @task
    async def work() -> list[int | None]:
        receipts = []
        for i in range(300):
            receipts.append(numbers.append(i))
            if i % 60 == 30:
                proxy.cut(b'"appended"')
            if i % 10 == 0:
                await receipts[-1]
        return [await receipt for receipt in receipts]

    with gateway_process(f"sqlite:{tmp_path}/test.db?durability=normal", tmp_path) as process:
        async with proxied(process.port) as (proxy, url), connect(url, secret_key=SECRET) as it:
            result = await asyncio.wait_for(work.trigger_and_wait(), 3 * DEADLINE_S)
            assert result.ok, result.error
            values = await values_of(it.store, StreamKey(result.run_id, "numbers"))
        assert values == list(range(300))
        assert proxy.was_cut == 5
        # Of a repeat that is no longer the writer's last append the offset is not known.
        assert all(offset in (None, i) for i, offset in enumerate(result.output))


async def test_sdk_reports_superseded_or_skipping_writer():
    """The store lost what the writer had sent, or another took over under its id."""
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        key = StreamKey(run.id, "s")
        loop = asyncio.get_running_loop()
        zombie = StreamWriter(gateway.store, key, None, "w", loop)
        assert await zombie.put(b"1") == 0
        await gateway.store.append(key, [b"2"], writer=Writer("w", 5, 0))
        with pytest.raises(WriterFenced, match="epoch"):
            await zombie.put(b"3")
        ahead = StreamWriter(gateway.store, key, None, "v", loop)
        ahead._sequence = 10
        with pytest.raises(WriterGap, match="sent sequence 10; 0 is expected next"):
            await ahead.put(b"4")
        assert await ahead.put(b"5") == 2
        assert await values_of(gateway.store, key) == [1, 2, 5]
