"""A worker's store over a gateway that is killed, restarted, or was never there."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from websockets.asyncio.client import connect as connect_socket
from websockets.asyncio.server import serve

from gateway import connect, runs, streams, task, tokens, wait
from gateway.cli._target import check_reachable
from gateway.errors import (
    ConfigurationError,
    ConnectionLost,
    Forbidden,
    FrameTooLarge,
    IllegalTransition,
    InvalidToken,
    RunExists,
    StoreUnavailable,
    StreamEnded,
    TokenExpired,
    WaitTimeout,
)
from gateway.model.limits import DEFAULT_LIMITS
from gateway.model.log import RunQuery, run_log
from gateway.model.patches import Operation
from gateway.model.records import StreamKey, Writer
from gateway.sdk.context import RunContext, run_context
from gateway.sdk.runtime import current_runtime
from gateway.sdk.session import opened as open_for_block
from gateway.stores.remote import connection, pending
from gateway.stores.remote import store as remote_store
from gateway.stores.remote.store import RemoteStore, gateway_url
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
from tests.support.records import records_of

numbers = streams.define("numbers", int)


def opened(url, token=worker_token, **options):
    return open_for_block(RemoteStore(url, token, jitter=lambda: 0.2, **options))


async def follow(store, key, into):
    async with aclosing(store.follow(key)) as pages:
        async for page in pages:
            assert page.gap is None
            assert page.reset is None
            into += page.records


async def test_a_gateway_that_is_killed_under_appends_loses_and_repeats_nothing(tmp_path):
    url = f"sqlite:{tmp_path}/a.db?durability=normal"
    with gateway_process(url, tmp_path) as process:
        async with opened(process.url) as store:
            run = await store.create_run(new_run())
            key = StreamKey(run.id, "s")
            followed, offsets = [], []
            following = asyncio.create_task(follow(store, key, followed))

            async def append(lane):
                for i in range(150):
                    writer = Writer(f"w{lane}", 0, i)
                    done = await store.append(key, [b"[%d,%d]" % (lane, i)], writer=writer)
                    offsets.append((done.offset, [lane, i]))

            appending = asyncio.gather(*(append(lane) for lane in range(4)))
            for acknowledged in (100, 300):
                await until(lambda acknowledged=acknowledged: len(offsets) > acknowledged)
                await asyncio.to_thread(process.kill)
                assert not appending.done()
                await asyncio.to_thread(process.start)
            await asyncio.wait_for(appending, 60)
            await store.patch_run(run.id, {"status": "canceled"})
            await asyncio.wait_for(following, 60)
            records = await records_of(store, key)
        values = [json.loads(record.data) for record in records]
        assert len(values) == 600
        for lane in range(4):
            assert [i for who, i in values if who == lane] == list(range(150))
        assert [record.offset for record in followed] == list(range(600))
        assert followed == records
        for offset, value in offsets:
            assert offset is None or values[offset] == value


async def test_the_sdk_of_a_worker_goes_on_over_a_restart_of_its_gateway(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "MAX_BACKOFF_S", 0.2)
    url = f"sqlite:{tmp_path}/a.db?durability=normal"

    @task
    async def work() -> int:
        for i in range(400):
            numbers.append(i)
            if i == 200:
                await asyncio.to_thread(process.kill)
                await asyncio.to_thread(process.start)
        return 400

    with gateway_process(url, tmp_path) as process:
        async with connect(process.url, secret_key=SECRET):
            result = await asyncio.wait_for(work.trigger_and_wait(), 60)
            assert result.output == 400
            values = [value async for value in numbers.read(result.run_id, timeout_s=20)]
            assert values == list(range(400))
            assert (await runs.retrieve(result.run_id)).status == "completed"


WORKER = """
import asyncio, sys
from gateway import connect, streams, task

numbers = streams.define("numbers", int)

@task
async def count(n: int) -> int:
    for i in range(n):
        numbers.append(i)
    return n

async def main():
    async with connect():
        handle = await count.trigger(500)
        print(handle.id, handle.access_token, flush=True)
        await handle.wait()

asyncio.run(main())
"""


async def test_what_a_worker_elsewhere_appends_is_seen_here():
    async with serving() as gateway:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            WORKER,
            env=environment(REALTIME_URL=gateway.url),
            stdout=subprocess.PIPE,
        )
        run_id, token = (
            (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode().split()
        )
        values = [value async for value in numbers.read(run_id, timeout_s=20)]
        assert values == list(range(500))
        assert (await runs.retrieve(run_id)).output == 500
        assert await process.wait() == 0
        process._transport.close()
        async with gateway.client(token=token) as client:
            answer = await client.ask(type="subscribe", id=1, run=run_id)
            assert answer["run"]["owner"].startswith("worker_")


async def test_a_wrong_secret_is_said_so_at_once():
    async with serving() as gateway:
        store = RemoteStore(gateway.url, lambda: token_for("read:runs:*")[:-6] + "AAAAAA")
        with pytest.raises(InvalidToken, match=rf"gateway {gateway.url}.*not valid here"):
            await store.open()


async def test_a_token_without_the_scopes_is_said_so():
    async with serving() as gateway:
        store = RemoteStore(gateway.url, lambda: token_for("read:runs:*"), owner="worker_1")
        with pytest.raises(Forbidden, match="execute runs as worker_1"):
            await store.open()


async def test_a_gateway_that_was_never_there_is_said_so(monkeypatch):
    monkeypatch.setattr(remote_store, "OPEN_TIMEOUT_S", 0.3)
    with free_socket() as unused:
        port = unused.getsockname()[1]
    store = RemoteStore(f"ws://127.0.0.1:{port}", worker_token)
    with pytest.raises(StoreUnavailable, match=rf"no gateway answered at ws://127\.0\.0\.1:{port}"):
        await store.open()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.get_run("run_a")
    await store.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ws://host:8400", "ws://host:8400/v1/ws"),
        ("ws://host:8400/", "ws://host:8400/v1/ws"),
        ("wss://host/behind/a/proxy/v1/ws", "wss://host/behind/a/proxy/v1/ws"),
        ("http://host:8400", "ws://host:8400/v1/ws"),
        ("https://host", "wss://host/v1/ws"),
        ("https://host/live", "wss://host/live/v1/ws"),
        ("ws://host/behind/a/proxy/", "ws://host/behind/a/proxy/v1/ws"),
    ],
)
def test_a_gateways_address_is_completed(url, expected):
    assert gateway_url(url) == expected


@pytest.mark.parametrize(
    "url",
    ["", "host:8400", "ftp://host", "ws://", "ws://host?token=x", "ws://host:99999", "ws://[::1"],
)
def test_what_is_no_gateways_address_is_refused(url):
    with pytest.raises(ConfigurationError, match="looks like ws://host:port"):
        gateway_url(url)


@pytest.mark.parametrize(
    "url", ["http+ws://me:hidden@host", "ws://host?token=hidden", "//hidden@host"]
)
def test_a_refused_address_is_told_without_its_password_and_token(url):
    with pytest.raises(ConfigurationError, match=r"'.*host'") as refused:
        gateway_url(url)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("url", ["ws://me:hid/den@host", "ws://me:hidden@[host"])
def test_a_refused_host_or_port_tells_nothing_of_the_password(url):
    with pytest.raises(ConfigurationError, match="the host or the port") as refused:
        gateway_url(url)
    assert "hid" not in str(refused.value)


async def test_a_gateway_that_is_away_is_told_without_its_password(caplog):
    with socket.socket() as closed:  # bound and not listening: nobody answers there
        closed.bind(("127.0.0.1", 0))
        url = f"ws://me:hidden@127.0.0.1:{closed.getsockname()[1]}"
        store = RemoteStore(url, lambda: "", open_s=0)
        await store.open()
        async with asyncio.timeout(DEADLINE_S):
            while "trying again" not in caplog.text:  # noqa: ASYNC110 - nothing sets an event
                await asyncio.sleep(0.01)
        await store.close()
        with pytest.raises(StoreUnavailable, match="no gateway at ws://127") as refused:
            await check_reachable(url)
    assert "gateway ws://127.0.0.1:" in caplog.text
    assert "hidden" not in caplog.text + str(refused.value)


async def test_a_call_waits_so_long_for_a_gateway_that_is_away_and_no_longer(tmp_path):
    with gateway_process("memory:", tmp_path) as process:
        async with opened(process.url, patience_s=0.3) as store:
            run = await store.create_run(new_run())
            await asyncio.to_thread(process.kill)
            with pytest.raises(ConnectionLost, match=r"did not answer within 0\.3 s"):
                await store.get_run(run.id)


async def test_closing_ends_what_waits(tmp_path):
    with gateway_process("memory:", tmp_path) as process:
        async with opened(process.url) as store:
            run = await store.create_run(new_run())
            key = StreamKey(run.id, "s")
            following = asyncio.create_task(anext(store.follow(key)))
            await store.head(key)
            await asyncio.to_thread(process.kill)
            calling = asyncio.create_task(store.get_run(run.id))
            await asyncio.sleep(0)
        for task_ in (following, calling):
            with pytest.raises(StoreUnavailable, match="was closed"):
                await asyncio.wait_for(task_, DEADLINE_S)


# Answers that are lost: a relay between worker and gateway that drops the connection.


class Relay:
    """Passes messages on, until it is told to drop the connection instead of the next answer."""

    def __init__(self, gateway, ping_ms):
        self._gateway = gateway
        self._ping_ms = ping_ms
        self.drop_answer_of = None
        self.is_mute = False
        self.dropped = self.connections = 0

    async def run(self, client):
        self.connections += 1
        self.is_mute = False
        async with connect_socket(f"{self._gateway.url}/v1/ws", compression=None) as onward:
            up = asyncio.create_task(self._pass(client, onward))
            down = asyncio.create_task(self._answers(onward, client))
            await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            for passing in (up, down):
                passing.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _pass(self, source, sink):
        async for message in source:
            await sink.send(message)

    async def _answers(self, source, sink):
        async for message in source:
            if self.is_mute:
                continue
            if self.drop_answer_of and json.loads(message)["type"] == self.drop_answer_of:
                self.drop_answer_of = None
                self.dropped += 1
                sink.transport.abort()
                return
            if self._ping_ms is not None and (frame := json.loads(message))["type"] == "welcome":
                message = json.dumps(frame | {"ping_ms": self._ping_ms})
            await sink.send(message)


@asynccontextmanager
async def relayed(token=worker_token, ping_ms=None, max_size=None):
    async with serving() as gateway:
        relay = Relay(gateway, ping_ms)
        async with serve(relay.run, "127.0.0.1", 0, max_size=max_size) as server:
            port = server.sockets[0].getsockname()[1]
            async with opened(f"ws://127.0.0.1:{port}", token) as store:
                yield relay, gateway, store


async def test_an_append_whose_answer_was_lost_is_repeated_without_harm():
    async with relayed() as (relay, _, store):
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        relay.drop_answer_of = "appended"
        done = await asyncio.wait_for(
            store.append(key, [b"1"], writer=Writer("w", 0, 0)), DEADLINE_S
        )
        assert (done.offset, done.duplicate, relay.dropped) == (0, True, 1)
        relay.drop_answer_of = "appended"
        end = store.append(key, [], writer=Writer("w", 0, 1), end="completed")
        assert (await asyncio.wait_for(end, DEADLINE_S)).duplicate
        assert len(await records_of(store, key)) == 1


async def test_an_append_without_a_writer_is_not_sent_twice():
    async with relayed() as (relay, _, store):
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        relay.drop_answer_of = "appended"
        with pytest.raises(ConnectionLost, match="the append may have happened"):
            await asyncio.wait_for(store.append(key, [b"1"]), DEADLINE_S)
        assert len(await records_of(store, key)) == 1


async def test_wait_tokens_go_on_when_answers_are_lost(monkeypatch):
    async with relayed() as (relay, _, store):
        monkeypatch.setattr(
            current_runtime(), "store", store
        )  # of the gateway, which is in this process
        run = await store.create_run(new_run())
        async with run_context(RunContext.of(run)), asyncio.timeout(DEADLINE_S):
            relay.drop_answer_of = "appended"
            token = await wait.create_token(int)
            relay.drop_answer_of = "appended"
            await wait.complete_token(token.id, 7)
            assert await wait.for_token(token) == 7
            with pytest.raises(StreamEnded, match="cannot be completed"):
                await wait.complete_token(token.id, 8)

            left_open = await wait.create_token(int)
            await store.append(StreamKey(*left_open.id.split("/")), [b"9"])
            relay.drop_answer_of = "appended"
            assert await wait.for_token(left_open) == 9

            late = await wait.create_token(int, timeout_s=0.001)
            relay.drop_answer_of = "appended"
            with pytest.raises(WaitTimeout):
                await wait.for_token(late)
        assert relay.dropped == 4


async def test_making_a_run_whose_answer_was_lost_is_repeated_without_harm():
    async with relayed() as (relay, _, store):
        run = new_run(payload={"a": 1})
        relay.drop_answer_of = "result"
        assert await asyncio.wait_for(store.create_run(run), DEADLINE_S) == run
        assert relay.dropped == 1
        with pytest.raises(RunExists):
            await store.create_run(new_run(id=run.id, payload={"a": 2}))


async def test_a_patch_whose_answer_was_lost_is_repeated_without_harm():
    async with relayed() as (relay, _, store):
        run = await store.create_run(new_run())
        for status in ("executing", "completed"):
            relay.drop_answer_of = "result"
            patch = {"status": status}
            after = await asyncio.wait_for(store.patch_run(run.id, patch), DEADLINE_S)
            assert after.status == status
        assert relay.dropped == 2
        with pytest.raises(IllegalTransition):
            await store.patch_run(run.id, {"status": "completed"})


async def test_a_repeated_patch_is_not_taken_for_that_of_another_worker():
    """A queue brought the run to two workers; the other one began it."""
    async with relayed() as (relay, gateway, store):
        run = await store.create_run(new_run())
        begin = {"attempt": 1, "status": "executing"}
        await gateway.store.patch_run(run.id, begin | {"owner": "worker_b"})
        relay.drop_answer_of = "error"
        with pytest.raises(IllegalTransition):
            await asyncio.wait_for(
                store.patch_run(run.id, begin | {"owner": "worker_a"}), DEADLINE_S
            )
        assert relay.dropped == 1


async def test_a_follow_goes_on_where_the_connection_broke():
    async with relayed() as (relay, gateway, store):
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        followed = []
        following = asyncio.create_task(follow(store, key, followed))
        for i in range(60):
            if i % 20 == 10:
                relay.drop_answer_of = "records"
            await gateway.store.append(key, [b"%d" % i])
            await until(lambda i=i: len(followed) > i)
        await gateway.store.append(key, [], end="completed")
        await asyncio.wait_for(following, DEADLINE_S)
        assert [record.data for record in followed] == [b"%d" % i for i in range(60)]
        assert relay.dropped == 3


async def test_a_follower_that_rests_pauses_its_subscription_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(pending, "FOLLOW_BYTES", 100_000)
    async with serving() as gateway, opened(gateway.url) as store:
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        async with aclosing(store.follow(key)) as pages:
            big = b'"' + b"x" * 20_000 + b'"'
            await store.append(key, [big])
            records = list((await anext(pages)).records)
            (state,) = store._main._follows.values()
            for _ in range(50):
                await store.append(key, [big])
            await until(lambda: state.is_paused)
            await store.head(key)  # whatever was under way has arrived
            assert state.bytes < 400_000
            assert gateway.hub.live_streams == 0
            await gateway.store.append(key, [b"1"], end="completed")
            async for page in pages:
                assert page.gap is None
                assert page.reset is None
                records += page.records
        assert [record.offset for record in records] == list(range(52))


async def test_more_streams_than_one_connection_may_follow_are_followed_over_several(monkeypatch):
    monkeypatch.setattr(remote_store, "IDLE_S", 0.01)
    limits = replace(DEFAULT_LIMITS, subscriptions=8)
    async with serving(limits=limits) as gateway, opened(gateway.url) as store:
        run = await store.create_run(new_run())
        keys = [StreamKey(run.id, f"s{i}") for i in range(30)]
        seen = {key: [] for key in keys}
        following = [asyncio.create_task(follow(store, key, seen[key])) for key in keys]
        await until(lambda: gateway.hub.live_streams == 30)
        assert len(gateway.gateway._carriers) == 4
        await asyncio.gather(*(gateway.store.append(key, [b"1"]) for key in keys))
        await until(lambda: all(seen.values()))
        for carrier in list(gateway.gateway._carriers):  # each comes back by itself
            await carrier._websocket.close(1012)
        ending = (gateway.store.append(key, [b"2"], end="completed") for key in keys)
        await asyncio.gather(*ending)
        await asyncio.wait_for(asyncio.gather(*following), DEADLINE_S)
        assert all([record.data for record in seen[key]] == [b"1", b"2"] for key in keys)
        await until(lambda: len(gateway.gateway._carriers) == 1)  # the others were of no more use
        again = []
        await asyncio.wait_for(follow(store, keys[0], again), DEADLINE_S)
        assert len(again) == 2


async def test_closing_with_streams_followed_over_several_connections_leaves_none(monkeypatch):
    async with serving(limits=replace(DEFAULT_LIMITS, subscriptions=2)) as gateway:
        async with opened(gateway.url) as store:
            run = await store.create_run(new_run())
            following = [
                asyncio.create_task(follow(store, StreamKey(run.id, f"s{i}"), [])) for i in range(5)
            ]
            await until(lambda: gateway.hub.live_streams == 5)
        outcomes = await asyncio.gather(*following, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 5
        await until(lambda: not gateway.gateway._carriers)
        assert gateway.hub.live_streams == 0


async def test_hundreds_of_calls_at_once_are_all_answered():
    async with serving() as gateway, opened(gateway.url) as store:
        made = await asyncio.gather(*(store.create_run(new_run()) for _ in range(300)))
        keys = [StreamKey(run.id, "s") for run in made]
        await asyncio.gather(*(store.append(key, [b"1"]) for key in keys))
        pages = await asyncio.gather(*(store.read(key) for key in keys))
        assert all(len(page.records) == 1 for page in pages)


async def test_a_worker_that_keeps_its_connection_for_long_renews_its_token():
    made = []

    def token():
        made.append(token_for("read:runs:*", "write:runs:*", ttl_s=1))
        return made[-1]

    async with relayed(token, ping_ms=100) as (relay, _, store):
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        followed = []
        following = asyncio.create_task(follow(store, key, followed))
        expires_at_s = tokens.verify(made[0], secret_key=SECRET, now_s=time.time()).expires_at_s
        await until(lambda: time.time() > expires_at_s + 0.3)
        await store.append(key, [b"1"], end="completed")
        await asyncio.wait_for(following, DEADLINE_S)
        assert len(followed) == 1
        assert len(made) > 5
        assert relay.connections == 1


WELCOME = {
    "type": "welcome",
    "protocol": 1,
    "connection": "c_1",
    "ping_ms": 20_000,
    "limits": dict.fromkeys(
        ("frame_bytes", "data_frame_bytes", "record_bytes", "subscriptions"), 9
    ),
}


async def test_a_worker_stays_away_for_as_long_as_the_gateway_asked():
    async with serving() as gateway, opened(gateway.url) as store:
        run = await store.create_run(new_run())
        (carrier,) = gateway.gateway._carriers
        left_at_s = time.monotonic()
        carrier.shut_down(0.7)
        assert (await store.get_run(run.id)).run == run
        assert 0.7 <= time.monotonic() - left_at_s < DEADLINE_S


async def test_a_connection_on_which_nothing_comes_any_more_is_given_up():
    async with relayed(ping_ms=100) as (relay, _, store):
        run = await store.create_run(new_run())
        relay.is_mute = True  # and stays open
        reading = asyncio.create_task(store.get_run(run.id))
        assert (await asyncio.wait_for(reading, DEADLINE_S)).run == run
        assert relay.connections == 2


async def test_a_gateway_that_never_welcomes_is_tried_again(monkeypatch):
    monkeypatch.setattr(connection, "OPEN_TIMEOUT_S", 0.3)
    greeted = 0

    async def silent_at_first(client):
        nonlocal greeted
        greeted += 1
        await client.recv()
        if greeted > 1:
            await client.send(json.dumps(WELCOME))
        await client.wait_closed()

    async with serve(silent_at_first, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = RemoteStore(f"ws://127.0.0.1:{port}", worker_token, jitter=lambda: 0.0)
        store._main.start()
        await until(store._main.welcomed.is_set)
        assert greeted == 2
        assert store._main.refused is None
        await store.close()


async def test_a_call_that_may_not_be_sent_twice_survives_a_gateway_that_goes_down():
    async with serving() as gateway, opened(gateway.url) as store:
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        begin, held = gateway.store.begin_append, []
        gateway.store.begin_append = lambda *args, **options: held.append((args, options))
        pending = asyncio.create_task(store.append(key, [b"1"]))
        (carrier,) = gateway.gateway._carriers
        await until(lambda: carrier._flight.requests == 1)
        carrier.shut_down()
        await until(lambda: store._main._socket is None)  # it heard of it, and sends no more there
        spent = asyncio.create_task(store.spend("token_1", 1, 2**52))
        await asyncio.sleep(0)
        ((args, options),) = held
        begin(*args, **options)
        assert (await pending).offset == 0  # answered before the goodbye
        assert await spent
        assert len((await store.read(key)).records) == 1


# Messages that are too large, and tokens that are refused: the link goes on.

KB = 1000


def text(kilobytes):
    return "x" * (kilobytes * KB)


def record(kilobytes):
    return json.dumps(text(kilobytes)).encode()


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (lambda store, run: store.patch_run(run.id, {"output": text(9000)}), "run_patch"),
        (lambda store, run: store.create_run(new_run(payload=text(9000))), "run_create"),
        (
            lambda store, run: store.patch_run(
                run.id, {}, operations=[Operation("set", "a", text(9000))], writer=Writer("m", 0, 0)
            ),
            "run_patch",
        ),
        (
            lambda store, run: store.append(
                StreamKey(run.id, "s"),
                [b'"%b"' % text(900).encode()] * 10,
                writer=Writer("w", 0, 0),
            ),
            "append",
        ),
        (lambda store, run: store.get_run("run_" + text(70)), "run_get"),
    ],
    ids=["output", "payload", "metadata", "records", "id"],
)
async def test_a_request_over_the_limit_fails_and_the_link_goes_on(ask, name):
    async with relayed() as (relay, _, store):
        run = await store.create_run(new_run())
        message = rf"{name}: the frame is \d+ bytes; the limit is (2097152|65536) \(REALTIME_"
        with pytest.raises(FrameTooLarge, match=message) as refused:
            await asyncio.wait_for(ask(store, run), DEADLINE_S)
        assert not refused.value.retryable
        assert (await store.get_run(run.id)).run == run
        assert relay.connections == 1


async def test_an_answer_over_the_limit_fails_its_request_and_the_link_goes_on(monkeypatch):
    monkeypatch.setattr(connection, "MAX_MESSAGE_BYTES", 50 * KB)
    async with relayed() as (relay, gateway, store):
        small = await store.create_run(new_run())
        large = await gateway.store.create_run(new_run(payload=text(60)))
        followed = []
        following = asyncio.create_task(follow(store, StreamKey(small.id, "s"), followed))
        too_large = r"the gateway's message is \d+ bytes; the limit of a worker is 50000"
        for ask in (store.get_run(large.id), store.list_runs(RunQuery(limit=1000))):
            with pytest.raises(FrameTooLarge, match=r"run_(get|list): " + too_large) as refused:
                await asyncio.wait_for(ask, DEADLINE_S)
            assert not refused.value.retryable
        with pytest.raises(
            FrameTooLarge, match=rf"{run_log(large.id)}: {too_large}".replace("$", r"\$")
        ):
            await asyncio.wait_for(follow(store, run_log(large.id), []), DEADLINE_S)
        await store.append(StreamKey(small.id, "s"), [b"1"], end="completed")
        await asyncio.wait_for(following, DEADLINE_S)
        assert len(followed) == 1
        assert relay.connections == 1
        await until(lambda: gateway.hub.live_streams == 0)


async def test_a_request_that_is_refused_on_the_way_is_not_sent_again_and_others_are():
    async with relayed(max_size=100 * KB) as (relay, gateway, store):
        run = await store.create_run(new_run())
        begin, held = gateway.store.begin_append, []
        gateway.store.begin_append = lambda *args, **options: held.append((args, options))
        key = StreamKey(run.id, "s")
        other = asyncio.create_task(store.append(key, [b"1"], writer=Writer("w", 0, 0)))
        await until(lambda: held)
        gateway.store.begin_append = begin
        message = r"run_patch: the frame is 2001\d\d bytes; .* \(close code 1009\)"
        with pytest.raises(FrameTooLarge, match=message) as refused:
            await asyncio.wait_for(store.patch_run(run.id, {"output": text(200)}), DEADLINE_S)
        assert not refused.value.retryable
        assert (await asyncio.wait_for(other, DEADLINE_S)).offset == 0
        assert relay.connections == 2


async def test_inputs_whose_schemas_are_over_the_limit_are_said_so_at_the_start():
    schemas = {"s": {"enum": [text(3000)]}}
    async with serving() as gateway:
        store = RemoteStore(gateway.url, worker_token, schemas=lambda: schemas)
        message = r"register: the frame is 3\d+ bytes; the limit is 2097152"
        with pytest.raises(FrameTooLarge, match=message):
            await store.open()


def shown(*ages_s):
    """Give tokens one after the other, minted so long ago; a negative age is ahead of the clock."""
    scopes = ("read:runs:*", "write:runs:*")
    made = [token_for(*scopes, age_s=age_s) for age_s in ages_s]
    return lambda: made.pop(0) if len(made) > 1 else made[0]


async def break_connections(gateway):
    for carrier in list(gateway.gateway._carriers):
        await carrier._websocket.close(1012)


@pytest.mark.parametrize("ages_s", [(-400, -500), (700, 800)], ids=["from the future", "expired"])
async def test_a_worker_whose_token_is_refused_comes_back_with_another(ages_s, caplog):
    async with serving() as gateway, opened(gateway.url, shown(0, *ages_s, 0)) as store:
        run = await store.create_run(new_run())
        followed = []
        following = asyncio.create_task(follow(store, StreamKey(run.id, "s"), followed))
        await until(lambda: gateway.hub.live_streams == 1)
        await break_connections(gateway)
        await until(lambda: not store.is_ready)
        done = await store.append(StreamKey(run.id, "s"), [b"1"], end="completed")
        assert done.offset == 0
        await asyncio.wait_for(following, DEADLINE_S)
        assert len(followed) == 1
    assert len([r for r in caplog.records if "token" in r.message]) == 2


async def test_a_token_that_is_always_the_same_and_is_refused_is_given_up():
    async with serving() as gateway, opened(gateway.url, shown(0, 700)) as store:
        run = await store.create_run(new_run())
        await break_connections(gateway)
        await until(lambda: not store.is_ready)
        with pytest.raises(TokenExpired):
            await asyncio.wait_for(store.get_run(run.id), DEADLINE_S)


async def test_a_call_that_gives_up_says_why_the_gateway_is_away():
    made = iter([worker_token()])

    def token():
        return next(made, None) or token_for("read:runs:*", age_s=700 + time.monotonic() % 1)

    async with serving() as gateway, opened(gateway.url, token, patience_s=0.5) as store:
        await break_connections(gateway)
        await until(lambda: not store.is_ready)
        message = r"within 0\.5 s: gateway .* the token has expired"
        with pytest.raises(ConnectionLost, match=message):
            await store.get_run("run_a")


async def test_a_fault_of_the_process_does_not_end_the_link(caplog):
    faults = iter([False, True])

    def token():
        if next(faults, False):
            raise ValueError("the disk with the key is away")
        return worker_token()

    async with serving() as gateway, opened(gateway.url, token) as store:
        run = await store.create_run(new_run())
        await break_connections(gateway)
        await until(lambda: not store.is_ready)
        assert (await asyncio.wait_for(store.get_run(run.id), DEADLINE_S)).run == run
    assert "the disk with the key is away" in caplog.text
