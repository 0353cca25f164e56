"""The gateway under servers that are not its own: granian, as in a Reflex app, and hypercorn."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from gateway.model.records import StreamKey
from gateway.stores.remote.store import RemoteStore
from tests.support.gateways import (
    DEADLINE_S,
    environment,
    free_socket,
    new_run,
    token_for,
    worker_token,
)
from tests.support.http.frames import HELLO, asking, subscribe

HYPERCORN = ["--log-level", "warning", "gateway.server.app:create_app()"]
GRANIAN = ["--interface", "asgi", "--factory", "--log-level", "warning", "gateway:create_app"]


class Server:
    """A gateway under a server of some kind.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, kind, port):
        self.kind = kind
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def command(self):
        if self.kind == "granian":
            return ["granian", "--port", str(self.port), *GRANIAN]
        return ["hypercorn", "--bind", f"127.0.0.1:{self.port}", *HYPERCORN]

    def is_up(self):
        try:
            return httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    async def until_it_has(self, **wanted):
        """Wait until its metrics are so."""
        async with httpx.AsyncClient() as http, asyncio.timeout(DEADLINE_S):
            while True:
                text = (await http.get(f"{self.url}/metrics")).text
                families = text_string_to_metric_families(text)
                found = {sample.name: sample.value for each in families for sample in each.samples}
                if all(found[f"realtime_{name}"] == value for name, value in wanted.items()):
                    return

    @asynccontextmanager
    async def store(self):
        """Open a remote store over it."""
        store = RemoteStore(self.url.replace("http", "ws"), worker_token)
        await store.open()
        try:
            yield store
        finally:
            await store.close()


@contextmanager
def running(kind, **settings):
    with free_socket() as chosen:
        server = Server(kind, chosen.getsockname()[1])
    env = environment(REALTIME_STORE="memory:", **settings)
    with subprocess.Popen([sys.executable, "-m", *server.command], env=env) as process:
        try:
            until_s = time.monotonic() + DEADLINE_S
            while not server.is_up():
                assert time.monotonic() < until_s and process.poll() is None
                time.sleep(0.05)
            yield server
        finally:
            process.terminate()


@pytest.fixture(scope="module", params=["granian", "hypercorn"])
def server(request):
    settings = {"REALTIME_IDLE_S": "0.2", "REALTIME_SEND_S": "1", "REALTIME_EVENTS_S": "2"}
    with running(request.param, **settings) as it:
        yield it


def greeting(name):
    token = token_for("read:runs:run_a")
    return {
        "no hello": {"type": "ping"},
        "another version": {"type": "hello", "protocol": 9},
        "no token": {"type": "hello", "protocol": 1, "token": "x"},
        "nothing wanted": {"type": "hello", "protocol": 1, "token": token},
    }[name]


ENDINGS = pytest.mark.parametrize(
    ("hello", "code", "close"),
    [
        ("no hello", "hello_expected", 4400),
        ("another version", "protocol_version", 4406),
        ("no token", "invalid_token", 4401),
        ("nothing wanted", "idle", 4509),
    ],
)


# By WebSocket.


@ENDINGS
async def test_why_a_connection_is_closed_reaches_the_client(server, hello, code, close):
    url = server.url.replace("http", "ws") + "/v1/ws"
    async with connect(url, compression=None) as client, asyncio.timeout(DEADLINE_S):
        await client.send(json.dumps(greeting(hello)))
        told = json.loads(await client.recv())
        if told["type"] == "welcome":
            told = json.loads(await client.recv())
        await client.wait_closed()
        assert (told["code"], client.close_code) == (code, close)


async def test_foreign_origin_is_refused_with_reason(server):
    url = server.url.replace("http", "ws") + "/v1/ws"
    async with connect(url, origin="https://evil.example") as client, asyncio.timeout(DEADLINE_S):
        assert json.loads(await client.recv())["code"] == "origin_forbidden"
        await client.wait_closed()
        assert client.close_code == 4403


# Frames over HTTP.


@ENDINGS
async def test_why_an_answer_of_events_ends_reaches_the_client(server, hello, code, close):
    async with asyncio.timeout(DEADLINE_S), asking(server, greeting(hello)) as answer:
        told = await answer.frame()
        if told["type"] == "welcome":
            told = await answer.frame()
        kind, data = await answer.event()
        assert (told["code"], kind, json.loads(data)["code"]) == (code, "close", close)
        with pytest.raises(EOFError):
            await answer.event()


async def test_http_subscriber_gets_each_record_and_releases_its_state(server):
    async with server.store() as store, asyncio.timeout(DEADLINE_S):
        run = await store.create_run(new_run())
        async with asking(server, HELLO, subscribe(run, stream="s")) as answer:
            assert answer.response.headers["x-accel-buffering"] == "no"
            assert [(await answer.frame())["type"] for _ in range(2)] == ["welcome", "subscribed"]
            for n in range(5):
                await store.append(StreamKey(run.id, "s"), [b"%d" % n])
                assert [record["data"] for record in (await answer.frame())["records"]] == [n]
            await server.until_it_has(connections=2, subscriptions=1, live_streams=1)
        await server.until_it_has(connections=1, subscriptions=0, live_streams=0)


async def test_http_response_ends_after_limit_and_next_resumes(server):
    async with server.store() as store, asyncio.timeout(DEADLINE_S):
        run = await store.create_run(new_run())
        async with asking(server, HELLO, subscribe(run, stream="s")) as answer:
            await answer.frame(), await answer.frame()
            await store.append(StreamKey(run.id, "s"), [b"1"])
            start = {"position": (await answer.frame())["position"]}
            assert await answer.event() == ("close", '{"code": 1001, "reason": ""}')
        await store.append(StreamKey(run.id, "s"), [b"2"])
        async with asking(server, HELLO, subscribe(run, stream="s", start=start)) as answer:
            await answer.frame(), await answer.frame()
            assert [record["data"] for record in (await answer.frame())["records"]] == [2]


async def test_a_client_that_takes_nothing_is_given_up(server):
    async with server.store() as store, asyncio.timeout(DEADLINE_S):
        run = await store.create_run(new_run())
        record = json.dumps("x" * 250_000).encode()
        for _ in range(40):  # 10 MB: more than the server's and the kernel's buffers take
            await store.append(StreamKey(run.id, "s"), [record])
        frames = (HELLO, subscribe(run, stream="s"))
        body = "\n".join(map(json.dumps, frames)).encode()
        head = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head.encode() + body)
            await server.until_it_has(connections=2, subscriptions=1)
            await server.until_it_has(connections=1, subscriptions=0)


# Durable Streams.


async def test_event_reader_gets_each_record_and_releases_its_state(server):
    headers = {"Authorization": f"Bearer {token_for('read:runs:*')}"}
    async with server.store() as store, asyncio.timeout(DEADLINE_S):
        run = await store.create_run(new_run())
        url = f"{server.url}/v1/stream/{run.id}/s?offset=-1&live="
        async with httpx.AsyncClient(headers=headers, timeout=DEADLINE_S) as http:
            async with http.stream("GET", url + "sse") as response:
                lines = response.aiter_lines()
                while "upToDate" not in await anext(lines):
                    pass
                await store.append(StreamKey(run.id, "s"), [b"1"])
                while await anext(lines) != "data:1":
                    pass
                await server.until_it_has(live_streams=1)
            await server.until_it_has(live_streams=0)
            waiting = asyncio.create_task(http.get(url.replace("-1", "now") + "long-poll"))
            await server.until_it_has(live_streams=1)
            await store.append(StreamKey(run.id, "s"), [b"2"])
            assert (await waiting).json() == [2]
