"""The gateway's own server: its sockets, and clients that do not take what they asked for."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from urllib.parse import quote

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway import tokens
from gateway.errors import ConfigurationError
from gateway.model.limits import Limits
from gateway.model.records import StreamKey
from gateway.server.uvicorn.sockets import SEND_BUFFER_BYTES, UNACKNOWLEDGED_MS, is_loopback, listen
from gateway.stores.remote.store import RemoteStore
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    environment,
    free_socket,
    gateway_process,
    new_run,
    serving,
    token_for,
    until,
    worker_token,
)

BIG = "x" * 60_000  # of a record: one a frame


async def append(gateway, run, *values):
    data = [json.dumps(value).encode() for value in values]
    await gateway.store.append(StreamKey(run.id, "s"), data)


async def subscribe(client, run, **more):
    answer = await client.ask(type="subscribe", id=1, run=run.id, stream="s", **more)
    assert answer["type"] == "subscribed", answer


def lent(session):
    """The socket that the server lends to a connection."""
    return session._outbound.sink


async def the_session(gateway):
    await until(lambda: len(gateway.gateway._sessions) == 1)
    (session,) = gateway.gateway._sessions
    return session


# Its sockets.


async def test_connections_have_the_options_that_were_asked_for():
    async with serving() as gateway, gateway.client(token=worker_token()):
        ours = lent(await the_session(gateway)).transport.get_extra_info("socket")
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            timeout_ms = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert timeout_ms == UNACKNOWLEDGED_MS
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER_BYTES


async def test_nothing_is_compressed():
    async with serving() as gateway, gateway.client(token=worker_token()) as client:
        assert client.socket.protocol.extensions == []


def test_a_port_that_is_taken_is_one_line(tmp_path):
    with free_socket() as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127.0.0.1 port {port}: Address already"):
            listen("127.0.0.1", port)
        command = [sys.executable, "-m", "gateway", "serve", "--store", "memory:"]
        done = subprocess.run(
            [*command, "--port", str(port)], env=environment(), capture_output=True, timeout=60
        )
    assert done.returncode == 1
    assert re.fullmatch(rb"realtime: cannot listen on [^\n]*\n", done.stderr)


@pytest.mark.network
def test_a_host_that_is_not_ours_is_an_error():
    with pytest.raises(ConfigurationError, match=r"cannot listen on 203\.0\.113\.1 port 0"):
        listen("203.0.113.1", 0)


@pytest.mark.network
def test_localhost_has_every_address_of_this_machine():
    sockets = listen("localhost", 0)
    for each in sockets:
        each.close()
    assert len(sockets) == 1  # another would have another port


@pytest.mark.parametrize(
    ("host", "is_so"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_where_only_this_machine_can_reach(host, is_so):
    assert is_loopback(host) == is_so


# Clients that do not take what they asked for.


async def fill(gateway, run, session):
    """Append until the connection takes no more; says how many records there are."""
    count = 0
    while True:
        since_s = session._outbound.blocked_since_s
        if since_s is not None and session._steady_s() - since_s > 0.1:
            return count
        if since_s is None:  # what sockets hold grows as it is needed
            await append(gateway, run, [count, BIG])
            count += 1
        await asyncio.sleep(0.001)
        assert count < 1000


async def take(client):
    """Take records up to one that says `last`; says how many there were."""
    count = 0
    while True:
        for record in (await client.receive()).get("records", ()):
            assert record["offset"] == count
            count += 1
            if record["data"] == "last":
                return count


def unsent_bytes(sock):
    """What the kernel holds of a connection's output."""
    import fcntl
    import termios

    answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    return int.from_bytes(answer, sys.byteorder)


async def test_a_client_that_reads_nothing_costs_a_stated_number_of_bytes():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=worker_token()) as client:
            await subscribe(client, run)
            client.socket.transport.pause_reading()
            session = await the_session(gateway)
            await fill(gateway, run, session)
            for _ in range(200):
                await append(gateway, run, ["more", BIG])
            ours = lent(session).transport
            in_process = ours.get_write_buffer_size() + session._backpressure.bytes
            assert in_process <= 2 * len(BIG)  # what is sent, and what waits for it
            if sys.platform == "linux":
                in_kernel = unsent_bytes(ours.get_extra_info("socket"))
                assert in_kernel <= 3 * SEND_BUFFER_BYTES  # Linux doubles it, and adds a segment
            client.socket.transport.abort()


async def test_a_client_that_reads_nothing_is_kept_while_it_lives_and_then_catches_up():
    async with serving(limits=Limits(send_s=0.5)) as gateway:
        run = await gateway.store.create_run(new_run())
        async with (
            gateway.client(token=worker_token()) as slow,
            gateway.client(token=worker_token()) as fast,
        ):
            await subscribe(slow, run)
            (session,) = (c for c in gateway.gateway._sessions if c._subscriptions)
            await subscribe(fast, run)
            taking = asyncio.create_task(take(fast))
            slow.socket.transport.pause_reading()
            count = await fill(gateway, run, session)
            blocked_at_s = time.monotonic()
            while time.monotonic() < blocked_at_s + 1.6:  # three times what a silent one has
                await slow.send(type="ping")
                await append(gateway, run, [count, BIG])
                count += 1
                await asyncio.sleep(0.05)
            assert session in gateway.gateway._sessions
            assert session._backpressure.answers == 1  # all its pongs
            await append(gateway, run, "last")
            assert await taking == count + 1  # the other one was not held up
            slow.socket.transport.resume_reading()
            assert await take(slow) == count + 1


@asynccontextmanager
async def stalled(gateway):
    """A client that takes nothing any more, its session, and the gateway's side of its socket."""
    run = await gateway.store.create_run(new_run())
    async with gateway.client(token=worker_token()) as client:
        await subscribe(client, run)
        client.socket.transport.pause_reading()
        session = await the_session(gateway)
        server_side = lent(session)
        await fill(gateway, run, session)
        yield client, session, server_side


async def test_client_that_neither_reads_nor_sends_is_disconnected():
    async with (
        serving(limits=Limits(send_s=0.2)) as gateway,
        stalled(gateway) as (client, _, server_side),
    ):
        await until(lambda: not gateway.gateway._sessions)
        await until(lambda: server_side.disconnected)
        assert gateway.hub.live_streams == 0
        client.socket.transport.resume_reading()
        with pytest.raises(ConnectionClosed):
            while True:
                await client.receive()


async def test_a_goodbye_that_is_not_taken_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("gateway.server.websocket.session.CLOSE_S", 0.1)
    async with serving() as gateway, stalled(gateway) as (client, session, server_side):
        session.shut_down()
        await until(lambda: server_side.disconnected)
        client.socket.transport.abort()


async def test_a_client_that_does_not_answer_the_close_is_cut_off(monkeypatch):
    monkeypatch.setattr("gateway.server.uvicorn.websocket_protocol.CLOSE_TIMEOUT_S", 0.1)
    async with serving() as gateway, gateway.client(token=worker_token()) as client:
        session = await the_session(gateway)
        server_side = lent(session)
        client.socket.transport.pause_reading()
        session.shut_down()
        await until(lambda: not gateway.gateway._sessions)
        await until(lambda: server_side.disconnected)
        client.socket.transport.abort()


def slow_down(store, begun, over=lambda _: None):
    """Have each append wait for a millisecond; `begun` and `over` are told the record's size."""
    begin, loop = store.begin_append, asyncio.get_running_loop()

    def slowly(key, records, done, **more):
        size = len(records[0])
        begun(size)

        def finish(outcome):
            over(size)
            done(outcome)

        loop.call_later(0.001, lambda: begin(key, records, finish, **more))

    store.begin_append = slowly


async def test_requests_of_many_bytes_wait_for_each_other():
    limits = Limits(flight_bytes=100_000)
    async with serving(limits=limits) as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=worker_token()) as client:
            most, performing = 0, []

            def begun(size):
                nonlocal most
                performing.append(size)
                most = max(most, sum(performing))

            slow_down(gateway.store, begun, performing.remove)
            for id in range(20):
                await client.send(type="append", id=id, run=run.id, stream="s", records=[BIG])
            answers = [await client.receive() for _ in range(20)]
            assert sorted(answer["id"] for answer in answers) == list(range(20))
            assert 60_000 < most <= limits.flight_bytes + 2 * len(BIG)


@pytest.mark.parametrize("kind", ["append", "head"])
async def test_more_requests_than_may_be_under_way_wait_and_are_all_answered(kind):
    async with serving(limits=Limits(requests=2)) as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=worker_token()) as client:
            session = await the_session(gateway)
            head, most = gateway.store.head, 0

            def look(_=None):
                nonlocal most
                most = max(most, session._backpressure.requests)

            async def slowly(*args):
                look()
                await asyncio.sleep(0.001)
                return await head(*args)

            gateway.store.head = slowly
            slow_down(gateway.store, look)
            more = {"records": [1]} if kind == "append" else {}
            for id in range(30):
                await client.send(type=kind, id=id, run=run.id, stream="s", **more)
            answers = [await client.receive() for _ in range(30)]
            assert {answer["id"] for answer in answers} == set(range(30))
            assert "error" not in {answer["type"] for answer in answers}
            assert most == 2


# Time that is over.


async def test_a_client_that_shows_no_token_is_closed_although_it_pings():
    async with serving(limits=Limits(hello_s=0.2)) as gateway, gateway.client() as client:
        assert (await client.ask(type="ping"))["type"] == "pong"
        assert (await client.receive())["code"] == "hello_timeout"
        assert await client.close_code() == 4408


async def test_a_connection_of_no_use_is_closed():
    async with serving(limits=Limits(idle_s=0.2)) as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=token_for(f"read:runs:{run.id}")) as client:
            assert (await client.receive())["code"] == "idle"
            assert await client.close_code() == 4509


async def test_aged_connection_is_asked_to_reconnect():
    async with serving(limits=Limits(max_age_s=0.3)) as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=worker_token()) as client:
            await subscribe(client, run)
            error = await client.receive()
            assert (error["code"], error["retry_after_ms"]) == ("connection_aged", 0)
            assert await client.close_code() == 4510


# Its log.


def test_serving_publicly_without_tls_logs_a_warning(tmp_path):
    with gateway_process("memory:", tmp_path, "--host", "0.0.0.0") as process:
        process.stop()
        assert "put a proxy with TLS in front of the gateway" in process.log


# Who may come.


async def refusal(gateway, path="/v1/ws", **options):
    """Connect, and give what is said before the close: the error, the code, the reason."""
    async with connect(gateway.url + path, compression=None, **options) as opened:
        error = json.loads(await asyncio.wait_for(opened.recv(), DEADLINE_S))
        await opened.wait_closed()
        return error, opened.close_code


async def is_let_in(gateway, **options):
    async with connect(f"{gateway.url}/v1/ws", compression=None, **options) as opened:
        await opened.send(json.dumps({"type": "hello", "protocol": 1}))
        return json.loads(await opened.recv())["type"] == "welcome"


async def test_only_pages_of_the_gateways_own_origin_may_connect():
    async with serving() as gateway:
        own = f"http://127.0.0.1:{gateway.port}"
        assert await is_let_in(gateway)
        assert await is_let_in(gateway, origin=own)
        for other in ("http://127.0.0.1:1", "https://evil.example", "null"):
            error, code = await refusal(gateway, origin=other)
            assert (error["code"], code) == ("origin_forbidden", 4403)
            assert other in error["message"]
            assert "REALTIME_ORIGINS" in error["message"]
        assert not gateway.gateway._sessions
        assert gateway.gateway._connection_limits.is_empty


async def test_pages_of_origins_that_are_named_may_connect():
    async with serving(origins=("https://app.example",)) as gateway:
        assert await is_let_in(gateway, origin="https://app.example")
        assert (await refusal(gateway, origin="https://evil.example"))[1] == 4403
    async with serving(origins=("*",)) as gateway:
        assert await is_let_in(gateway, origin="https://evil.example")


async def test_a_page_of_the_name_that_a_proxy_was_asked_for_may_connect():
    headers = {"X-Forwarded-Host": "app.example"}
    async with serving() as gateway:
        assert await is_let_in(gateway, origin="https://app.example", additional_headers=headers)
    async with serving(trusted_proxies=("10.0.0.0/8",)) as gateway:
        options = {"origin": "https://app.example", "additional_headers": headers}
        assert (await refusal(gateway, **options))[1] == 4403


@pytest.mark.parametrize("query", ["token=x", "a=1&access_token=", "key=eyJhb.eyJh.c2ln"])
async def test_a_token_in_the_url_is_refused(query):
    async with serving() as gateway:
        error, code = await refusal(gateway, f"/v1/ws?{query}")
        assert (error["code"], code) == ("token_in_url", 4400)
        assert "eyJ" not in error["message"]


async def test_an_address_has_so_many_connections():
    def behind(address):
        return {"additional_headers": {"X-Forwarded-For": address}}

    async with serving(limits=Limits(address_connections=2)) as gateway:
        url = f"{gateway.url}/v1/ws"
        async with connect(url, **behind("198.51.100.1")), connect(url, **behind("198.51.100.1")):
            error, code = await refusal(gateway, **behind("198.51.100.1"))
            assert (error["code"], code) == ("too_many_connections", 4429)
            assert error["retry_after_ms"] > 0
            assert "198.51.100.1 has 2 connections; the limit is 2" in error["message"]
            assert await is_let_in(gateway, **behind("198.51.100.2"))
        await until(lambda: gateway.gateway._connection_limits.is_empty)
        assert await is_let_in(gateway, **behind("198.51.100.1"))


async def test_a_subject_has_so_many_connections():
    token = tokens.mint(["read:runs:*"], subject="ann", secret_key=SECRET)
    async with serving(limits=Limits(subject_connections=1)) as gateway:
        run = await gateway.store.create_run(new_run())
        async with gateway.client(token=token):
            async with gateway.client(greet=False) as second:
                error = await second.ask(type="hello", protocol=1, token=token)
                assert (error["code"], error["retryable"]) == ("too_many_connections", True)
                assert error["retry_after_ms"] > 0
                assert await second.close_code() == 4429
            async with gateway.client() as third:
                error = await third.ask(type="subscribe", id=1, run=run.id, token=token)
                assert (error["code"], error["id"]) == ("too_many_connections", 1)
        await until(lambda: gateway.gateway._connection_limits.is_empty)
        async with gateway.client(token=token):
            pass


async def test_accept_rate_limit_spreads_retry_times():
    async with serving(limits=Limits(accepts_per_s=2)) as gateway:
        for _ in range(4):  # the burst
            assert await is_let_in(gateway)
        told = [await refusal(gateway) for _ in range(5)]
        assert {code for _, code in told} == {4429}
        times = [error["retry_after_ms"] for error, _ in told]
        assert times == sorted(times)
        assert times[-1] - times[0] > 1000


async def test_a_gateway_that_is_not_running_sends_away():
    async with serving() as gateway:
        await gateway.gateway.drain()
        error, code = await refusal(gateway)
        assert (error["code"], code) == ("shutting_down", 4503)
        assert error["retry_after_ms"] > 0


# Its log.


async def test_nothing_secret_is_in_a_log_however_much_is_logged(tmp_path):
    good, bad = worker_token(), token_for("read:runs:*", age_s=100_000)
    forged = tokens.mint(["read:runs:*"], secret_key="another secret that is long enough, too")
    run = new_run()
    with gateway_process("memory:", tmp_path, "--log-level", "debug") as process:
        async with httpx.AsyncClient(base_url=process.url.replace("ws", "http", 1)) as http:
            for secret in (good, bad, forged, SECRET):
                await http.get("/v1/runs", headers={"Authorization": f"Bearer {secret}"})
                await http.get("/v1/runs", params={"token": secret})
                await http.get("/nowhere", params={"token": secret, "tag": "kept-apart"})
                await http.post("/v1/tokens", headers={"Authorization": f"Bearer {secret}"})
                for query in (f"?token={quote(secret)}", f"?x={quote(secret)}"):
                    async with connect(f"{process.url}/v1/ws{query}") as opened:
                        hello = {"type": "hello", "protocol": 1, "token": secret}
                        with suppress(ConnectionClosed):
                            await opened.send(json.dumps(hello))
                            await opened.recv()
                            await opened.recv()
                async with connect(f"{process.url}/v1/ws") as opened:
                    await opened.send(json.dumps({"type": "hello", "protocol": 1}))
                    await opened.recv()
                    for type_ in ("subscribe", "append", "run_get", "nonsense"):
                        frame = {"type": type_, "id": 1, "run": run.id, "token": secret}
                        await opened.send(json.dumps(frame))
                        await opened.recv()
                    await opened.send(json.dumps({"type": "token", "token": secret}))
                    await opened.recv()
        store = RemoteStore(process.url, lambda: good)
        await store.open()
        await store.create_run(run)
        await store.close()
        await asyncio.to_thread(process.stop)
        log = process.log
    assert '"WebSocket /v1/ws" [accepted]' in log
    assert "GET /nowhere HTTP" in log
    for secret in (good, bad, forged, SECRET):
        assert secret not in log
        assert quote(secret) not in log
        assert secret.rpartition(".")[2] not in log  # nor its signature
    assert "eyJ" not in log


async def test_a_worker_logs_nothing_secret_however_much_is_logged(caplog):
    caplog.set_level("DEBUG")
    token = worker_token()
    async with serving() as gateway:
        store = RemoteStore(gateway.url, lambda: token)
        await store.open()
        await store.create_run(new_run())
        await store.close()
    assert "eyJ" not in caplog.text


# Going down.


async def test_drain_spreads_reconnects_of_many_clients(tmp_path):
    count = 120
    with gateway_process("memory:", tmp_path, REALTIME_ACCEPTS_PER_S="100") as process:
        async with AsyncExitStack() as stack:
            clients = []
            for _ in range(count):
                url = f"{process.url}/v1/ws"
                clients.append(await stack.enter_async_context(connect(url, compression=None)))
                hello = {"type": "hello", "protocol": 1, "token": worker_token()}
                await clients[-1].send(json.dumps(hello))
                await clients[-1].recv()
            stopping = asyncio.create_task(asyncio.to_thread(process.stop))

            async def farewell(client):
                error = json.loads(await client.recv())
                await client.wait_closed()
                return error["code"], client.close_code, error["retry_after_ms"]

            told = await asyncio.gather(*(farewell(client) for client in clients))
            assert {each[:2] for each in told} == {("shutting_down", 4503)}
            times = [each[2] for each in told]
            assert max(times) - min(times) > 1000
            assert max(times) <= 2 * 1000 * count / 100
            assert len(set(times)) > count / 2
            with pytest.raises(OSError):
                await connect(f"{process.url}/v1/ws")
        assert await stopping < 8


STUCK = """
import sys, time
from gateway import task
from gateway.settings import Settings
from gateway.server.serve import serve

@task
def stuck() -> None:
    time.sleep(60)

serve(Settings.from_env(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


def test_the_process_ends_in_the_stated_time_whatever_is_stuck(tmp_path):
    with free_socket() as chosen:
        port = chosen.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    env = environment(REALTIME_STORE="memory:", REALTIME_DRAIN_S="1.5")
    command = [sys.executable, "-c", STUCK, str(port)]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            with httpx.Client(transport=httpx.HTTPTransport(retries=0)) as http:
                until_s = time.monotonic() + 20
                while time.monotonic() < until_s:
                    try:
                        http.get(f"{url}/healthz")
                        break
                    except httpx.TransportError:
                        time.sleep(0.05)
                bearer = {"Authorization": f"Bearer {SECRET}"}
                answer = http.post(f"{url}/v1/tasks/stuck/trigger", headers=bearer, json={})
                assert answer.status_code == 201
                while http.get(f"{url}/v1/runs", headers=bearer).json()["runs"][0]["status"] != (
                    "executing"
                ):
                    time.sleep(0.05)
            began_s = time.monotonic()
            process.terminate()
            assert process.wait(20) == 1
            assert time.monotonic() - began_s < 10
            assert "Shutdown took longer than 1.5 s; the process exits now" in process.stderr.read()
        finally:
            process.kill()
