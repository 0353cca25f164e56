"""The connection of a remote store: limits, tokens, pauses, and many streams."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
from websockets.asyncio.server import serve

from gateway import tokens
from gateway.errors import (
    ConnectionLost,
    FrameTooLarge,
    StoreUnavailable,
    TokenExpired,
)
from gateway.model.limits import DEFAULT_LIMITS
from gateway.model.log import RunQuery, run_log
from gateway.model.patches import Operation
from gateway.model.records import StreamKey, Writer
from gateway.stores.remote import connection
from gateway.stores.remote import store as remote_store
from gateway.stores.remote.store import RemoteStore
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    new_run,
    serving,
    token_for,
    until,
    worker_token,
)
from tests.support.remote_stores import KB, follow, opened, relayed, text

# Answers that are lost: a relay between worker and gateway that drops the connection.


async def test_more_streams_than_one_connection_may_follow_are_followed_over_several(monkeypatch):
    monkeypatch.setattr(remote_store, "IDLE_S", 0.01)
    limits = replace(DEFAULT_LIMITS, subscriptions=8)
    async with serving(limits=limits) as gateway, opened(gateway.url) as store:
        run = await store.create_run(new_run())
        keys = [StreamKey(run.id, f"s{i}") for i in range(30)]
        seen = {key: [] for key in keys}
        following = [asyncio.create_task(follow(store, key, seen[key])) for key in keys]
        await until(lambda: gateway.hub.live_streams == 30)
        assert len(gateway.gateway._sessions) == 4
        await asyncio.gather(*(gateway.store.append(key, [b"1"]) for key in keys))
        await until(lambda: all(seen.values()))
        for carrier in list(gateway.gateway._sessions):  # each comes back by itself
            await carrier._websocket.close(1012)
        ending = (gateway.store.append(key, [b"2"], end="completed") for key in keys)
        await asyncio.gather(*ending)
        await asyncio.wait_for(asyncio.gather(*following), DEADLINE_S)
        assert all([record.data for record in seen[key]] == [b"1", b"2"] for key in keys)
        await until(lambda: len(gateway.gateway._sessions) == 1)  # the others were of no more use
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
        await until(lambda: not gateway.gateway._sessions)
        assert gateway.hub.live_streams == 0


async def test_hundreds_of_concurrent_calls_all_complete():
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
        (carrier,) = gateway.gateway._sessions
        left_at_s = time.monotonic()
        carrier.shut_down(0.7)
        assert (await store.get_run(run.id)).run == run
        assert 0.7 <= time.monotonic() - left_at_s < DEADLINE_S


async def test_silent_connection_is_closed():
    async with relayed(ping_ms=100) as (relay, _, store):
        run = await store.create_run(new_run())
        relay.is_mute = True  # and stays open
        reading = asyncio.create_task(store.get_run(run.id))
        assert (await asyncio.wait_for(reading, DEADLINE_S)).run == run
        assert relay.connections == 2


@pytest.mark.network
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


async def test_non_repeatable_call_survives_gateway_shutdown():
    async with serving() as gateway, opened(gateway.url) as store:
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        begin, held = gateway.store.begin_append, []
        gateway.store.begin_append = lambda *args, **options: held.append((args, options))
        pending = asyncio.create_task(store.append(key, [b"1"]))
        (carrier,) = gateway.gateway._sessions
        await until(lambda: carrier._backpressure.requests == 1)
        carrier.shut_down()
        await until(lambda: store._main._socket is None)  # it heard of it, and sends no more there
        spent = asyncio.create_task(store.consume_token_use("token_1", 1, 2**52))
        await asyncio.sleep(0)
        ((args, options),) = held
        begin(*args, **options)
        assert (await pending).offset == 0  # answered before the goodbye
        assert await spent
        assert len((await store.read(key)).records) == 1


# Messages that are too large, and tokens that are refused: the link goes on.


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
async def test_request_over_limit_fails_and_connection_stays_open(ask, name):
    async with relayed() as (relay, _, store):
        run = await store.create_run(new_run())
        message = rf"{name}: the frame is \d+ bytes; the limit is (2097152|65536) \(REALTIME_"
        with pytest.raises(FrameTooLarge, match=message) as refused:
            await asyncio.wait_for(ask(store, run), DEADLINE_S)
        assert not refused.value.retryable
        assert (await store.get_run(run.id)).run == run
        assert relay.connections == 1


async def test_response_over_limit_fails_its_request_only(monkeypatch):
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


async def test_too_large_input_schemas_are_reported_at_start():
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
    for carrier in list(gateway.gateway._sessions):
        await carrier._websocket.close(1012)


@pytest.mark.parametrize("ages_s", [(-400, -500), (700, 800)], ids=["from the future", "expired"])
async def test_worker_reconnects_with_a_new_token_after_refusal(ages_s, caplog):
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


async def test_timed_out_call_reports_why_gateway_is_unreachable():
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
