"""The gateway on a real server, spoken to by a real client."""

import asyncio
import json
import signal
import socket
import time
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway import tokens
from gateway._internal.fair_share import LoopQuota
from gateway.model.limits import Limits
from gateway.model.records import REVOCATIONS, StreamKey, Writer
from gateway.server.uvicorn.websocket_protocol import DirectWebSocketProtocol
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    gateway_process,
    new_run,
    serving,
    token_for,
    until,
    worker_token,
)
from tests.support.protocol_cases import CASES


@pytest.fixture(params=[DirectWebSocketProtocol, "websockets-sansio"], ids=["direct", "plain ASGI"])
async def gateway(request):
    async with serving(protocol=request.param) as gateway:
        yield gateway


async def subscribed(client, run, id=1, stream="s", **more):
    named = {} if stream is None else {"stream": stream}
    answer = await client.ask(type="subscribe", id=id, run=run.id, **named, **more)
    assert answer["type"] == "subscribed", answer
    return answer


async def append(gateway, run, *values, stream="s", **more):
    data = [json.dumps(value).encode() for value in values]
    return await gateway.store.append(StreamKey(run.id, stream), data, **more)


def data_of(frame):
    assert frame["type"] == "records", frame
    return [record["data"] for record in frame["records"]]


async def read_until(client, count):
    records = []
    while len(records) < count:
        records += (await client.receive())["records"]
    assert [record["offset"] for record in records] == list(
        range(records[0]["offset"], records[0]["offset"] + len(records))
    )
    return [record["data"] for record in records]


# The worked exchanges.


@pytest.mark.parametrize("case", CASES["exchanges"], ids=lambda case: case["name"])
async def test_an_exchange_of_the_protocol(gateway, case):
    # The cases say run_a where a gateway would say something unguessable.
    for id in case["runs"]:
        await gateway.store.create_run(new_run(id=id))
    scopes = case.get("scopes") or [f"read:runs:{id}" for id in case["runs"]]
    captured = {
        "$token": token_for(*scopes),
        "$ending": token_for(*scopes, ttl_s=100, age_s=90),
    }
    client = socket_ = None
    for step in case["steps"]:
        ((kind, value),) = step.items()
        match kind:
            case "client":
                if client is None:
                    socket_ = gateway.client(greet=False)
                    client = await socket_.__aenter__()
                await client.send(**fill(value, captured))
            case "server":
                match_frame(await client.receive(), value, captured)
            case "append":
                key = StreamKey(value["run"], value["stream"])
                records = [json.dumps(record).encode() for record in value["records"]]
                await gateway.store.append(key, records, source=value["run"])
            case "create":
                await gateway.store.create_run(new_run(**value))
            case "patch":
                await gateway.store.patch_run(value["run"], value["patch"])
            case "end":
                await end_run(gateway.store, value["run"], value["reason"])
            case "drop":
                client.socket.transport.abort()
                await socket_.__aexit__(None, None, None)
                client = None
            case _:
                pytest.fail(f"no such step: {kind}")
    if client is not None:
        await no_more(client)
        await socket_.__aexit__(None, None, None)


async def end_run(store, run_id, reason):
    queued = (await store.get_run(run_id)).run.status == "queued"
    if queued and reason == "completed":  # only what executes can complete
        await store.patch_run(run_id, {"status": "executing"})
    await store.patch_run(run_id, {"status": reason})


async def no_more(client):
    """After a ping nothing but its answer is under way."""
    assert await client.ask(type="ping") == {"type": "pong"}


def fill(value, captured):
    if isinstance(value, dict):
        return {name: fill(inner, captured) for name, inner in value.items()}
    return captured.get(value, value) if isinstance(value, str) else value


def match_frame(actual, expected, captured, where="frame"):
    if expected == "*":
        return
    if isinstance(expected, str) and expected.startswith("$"):
        assert captured.setdefault(expected, actual) == actual, where
    elif isinstance(expected, dict):
        assert isinstance(actual, dict), where
        assert set(actual) == set(expected), (where, actual)
        for name, inner in expected.items():
            match_frame(actual[name], inner, captured, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), (where, actual)
        for i, inner in enumerate(expected):
            match_frame(actual[i], inner, captured, f"{where}[{i}]")
    else:
        assert actual == expected, where


# What is refused.


@asynccontextmanager
async def beside(gateway, run, **hello):
    """A client with a subscription that has to go on whatever happens."""
    hello = {"token": worker_token()} | hello
    async with gateway.client(**hello) as client:
        await subscribed(client, run, 1000, stream="beside")
        yield client
        await append(gateway, run, "on", stream="beside")
        frame = await client.receive()
        assert (frame["id"], data_of(frame)) == (1000, ["on"])


@pytest.mark.parametrize(
    ("frame", "code", "retryable"),
    [
        ("{", "malformed_frame", False),
        ({"type": "nonsense", "id": 1}, "unknown_frame", False),
        ({"type": "ping", "x": "x" * 5000}, "frame_too_large", False),
        ({"type": "subscribe", "id": 1, "run": "RUN", "token": "bad"}, "invalid_token", False),
        ({"type": "subscribe", "id": 1, "run": "RUN", "token": "EXPIRED"}, "token_expired", False),
        ({"type": "subscribe", "id": 1, "run": "RUN", "token": "OTHER"}, "forbidden", False),
        ({"type": "subscribe", "id": 1, "run": "RUN", "stream": "a b"}, "invalid_id", False),
        (
            {"type": "subscribe", "id": 1, "run": "RUN", "start": {"position": "7"}},
            "invalid_position",
            False,
        ),
        (
            {"type": "append", "id": 1, "run": "RUN", "stream": "s", "records": []},
            "invalid_value",
            False,
        ),
        (
            {"type": "append", "id": 1, "run": "RUN", "stream": "s", "records": ["x" * 1000]},
            "record_too_large",
            False,
        ),
        ({"type": "unsubscribe", "id": 1}, "unknown_subscription", False),
        ({"type": "subscribe", "id": 1, "run": "run_nowhere"}, "run_not_found", False),
        ({"type": "run_get", "id": 1, "run": "run_nowhere"}, "run_not_found", False),
        ({"type": "run_create", "id": 1, "value": "SAME"}, "run_exists", False),
        ({"type": "run_create", "id": 1, "value": {"id": "run_x"}}, "invalid_value", False),
        (
            {"type": "run_patch", "id": 1, "run": "RUN", "patch": {"status": "completed"}},
            "illegal_transition",
            False,
        ),
        (
            {"type": "append", "id": 1, "run": "RUN", "stream": "over", "records": [1]},
            "stream_ended",
            False,
        ),
        (
            {
                "type": "append",
                "id": 1,
                "run": "RUN",
                "stream": "s",
                "records": [1],
                "writer": {"id": "w", "epoch": 0, "sequence": 5},
            },
            "writer_gap",
            False,
        ),
        (
            {
                "type": "append",
                "id": 1,
                "run": "RUN",
                "stream": "fenced",
                "records": [1],
                "writer": {"id": "w", "epoch": 0, "sequence": 0},
            },
            "writer_fenced",
            False,
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) > 2 else None,
)
async def test_what_is_refused_has_its_code_and_the_rest_goes_on(frame, code, retryable):
    async with serving(
        limits=Limits(frame_bytes=4000, data_frame_bytes=4000, record_bytes=500)
    ) as gateway:
        run = await gateway.store.create_run(new_run())
        await append(gateway, run, 1, stream="over", end="completed")
        await append(gateway, run, 1, stream="fenced", writer=Writer("w", 1, 0))
        async with beside(gateway, run) as client:
            if isinstance(frame, str):
                await client.socket.send(frame)
            else:
                known = {
                    "RUN": run.id,
                    "SAME": run.to_wire(),
                    "EXPIRED": token_for("read:runs:*", age_s=1000),
                    "OTHER": token_for("read:runs:run_other"),
                }
                await client.send(
                    **{
                        name: known.get(value, value) if isinstance(value, str) else value
                        for name, value in frame.items()
                    }
                )
            error = await client.receive()
            assert (error["type"], error["code"]) == ("error", code)
            assert error["retryable"] == retryable
            if code not in ("malformed_frame", "frame_too_large"):
                assert error["id"] == 1
            if code == "record_too_large":
                assert "1002 bytes; the limit is 500" in error["message"]
            if code == "frame_too_large":
                assert "the limit is 4000" in error["message"]


async def test_a_binary_message_is_refused_and_the_rest_goes_on(gateway, run):
    async with beside(gateway, run) as client:
        await client.socket.send(b'{"type":"ping"}')
        assert (await client.receive())["code"] == "malformed_frame"


async def test_too_many_subscriptions_and_an_id_in_use_are_refused(run, gateway):
    limit = gateway.gateway.settings.limits.subscriptions
    async with beside(gateway, run) as client:
        for id in range(limit - 1):
            await subscribed(client, run, id)
        error = await client.ask(type="subscribe", id=limit, run=run.id)
        assert (error["code"], error["id"]) == ("too_many_subscriptions", limit)
        assert str(limit) in error["message"]
        error = await client.ask(type="subscribe", id=3, run=run.id)
        assert error["code"] == "duplicate_id"
        assert "id" not in error
        for id in range(limit - 1):
            assert (await client.ask(type="unsubscribe", id=id))["type"] == "unsubscribed"


@pytest.mark.parametrize(
    ("first", "code", "close"),
    [
        ({"type": "ping"}, "hello_expected", 4400),
        ({"type": "hello", "protocol": 9}, "protocol_version", 4406),
        ({"type": "hello", "protocol": 1, "token": "x"}, "invalid_token", 4401),
        ({"type": "hello", "protocol": 1, "owner": "worker_1"}, "forbidden", 4401),
    ],
)
async def test_a_bad_first_frame_is_told_and_then_closed(gateway, first, code, close):
    async with gateway.client(greet=False) as client:
        assert (await client.ask(**first))["code"] == code
        assert await client.close_code() == close


async def test_who_says_no_hello_is_closed():
    async with (
        serving(limits=Limits(hello_s=0.05)) as gateway,
        gateway.client(greet=False) as client,
    ):
        assert (await client.receive())["code"] == "hello_timeout"
        assert await client.close_code() == 4408


async def test_who_is_silent_is_closed(gateway, run, monkeypatch):
    monkeypatch.setattr("gateway.protocol.timeouts.SILENT_AFTER_PINGS", 0.01)  # of 20 s
    async with gateway.client(token=worker_token()) as client:
        await client.ask(type="ping")
        assert (await client.receive())["code"] == "silent"
        assert await client.close_code() == 4508


async def test_a_message_beyond_all_bounds_does_not_hurt_the_gateway(gateway, run):
    async with gateway.client(token=worker_token()) as client:
        with pytest.raises(ConnectionClosed):
            await client.socket.send("x" * (20 << 20))
            await client.socket.recv()
    async with gateway.client(token=worker_token()) as client:
        await subscribed(client, run)


# Subscribing.


async def test_records_arrive_as_they_were_appended(gateway, run, client):
    await gateway.store.append(StreamKey(run.id, "s"), [b'{ "\xc3\xbc" : 1.0 }'])
    await client.send(type="subscribe", id=1, run=run.id, stream="s")
    await client.receive()
    text = await client.socket.recv()
    assert '"data":{ "ü" : 1.0 }' in text


async def test_a_thousand_records_arrive_in_order_while_they_are_appended(gateway, run, client):
    await subscribed(client, run)

    async def produce():
        for i in range(1000):
            await append(gateway, run, i)
            if i % 50 == 0:
                await asyncio.sleep(0)

    values, _ = await asyncio.gather(read_until(client, 1000), produce())
    assert values == list(range(1000))


async def test_a_run_is_watched_from_its_snapshot_on(gateway, run, client):
    answer = await subscribed(client, run, stream=None)
    assert answer["run"] == run.to_wire()
    await gateway.store.patch_run(run.id, {"status": "executing"})
    frame = await client.receive()
    assert data_of(frame) == [{"status": "executing"}]
    assert frame["records"][0]["offset"] == 1
    await gateway.store.patch_run(run.id, {"status": "completed", "output": 3})
    assert data_of(await client.receive()) == [{"status": "completed", "output": 3}]
    end = await client.receive()
    assert (end["type"], end["reason"]) == ("end", "completed")


async def test_watching_a_run_while_it_changes_misses_and_repeats_no_patch(gateway, run):
    async def change():
        for i in range(200):
            await gateway.store.patch_run(run.id, {"metadata": {"i": i}})
            await asyncio.sleep(0)

    async def watch(delay):
        for _ in range(delay):
            await asyncio.sleep(0)
        async with gateway.client(token=worker_token()) as client:
            state = (await subscribed(client, run, stream=None))["run"]
            seen = state["metadata"].get("i", -1)
            while seen < 199:
                for patch in data_of(await client.receive()):
                    assert patch["metadata"]["i"] == seen + 1
                    seen += 1

    await asyncio.gather(change(), *(watch(delay) for delay in (0, 10, 50, 100, 150)))


async def test_another_stream_under_the_same_id_gets_only_its_own_records(gateway, run, client):
    await append(gateway, run, "a", stream="a")
    await append(gateway, run, "b", stream="b")
    for _ in range(20):
        # All three are read before the first has been opened.
        await client.send(type="subscribe", id=1, run=run.id, stream="a")
        await client.send(type="unsubscribe", id=1)
        await client.send(type="subscribe", id=1, run=run.id, stream="b")
        seen = []
        while not seen or seen[-1]["type"] != "records":
            seen.append(await client.receive())
        last = [frame["type"] for frame in seen].index("unsubscribed")
        assert [frame["type"] for frame in seen[last:]] == [
            "unsubscribed",
            "subscribed",
            "records",
        ]
        assert data_of(seen[-1]) == ["b"]
        assert (await client.ask(type="unsubscribe", id=1))["type"] == "unsubscribed"


async def test_a_subscription_that_was_opened_for_another_stream_shows_nothing_forbidden():
    async with serving(store="memory:") as gateway:
        secret = await gateway.store.create_run(new_run(tags=["theirs"]))
        own = await gateway.store.create_run(new_run(tags=["mine"]))
        await append(gateway, secret, "secret")
        await append(gateway, own, "own")
        async with gateway.client(token=token_for("read:tags:mine")) as client:
            for _ in range(20):
                await client.send(type="subscribe", id=1, run=secret.id, stream="s")
                await client.send(type="unsubscribe", id=1)
                await client.send(type="subscribe", id=1, run=own.id, stream="s")
                while (frame := await client.receive())["type"] != "records":
                    pass
                assert data_of(frame) == ["own"]
                await client.ask(type="unsubscribe", id=1)


async def test_no_frame_follows_unsubscribed(gateway, run, client):
    await subscribed(client, run, 1)
    await subscribed(client, run, 2)
    stop = asyncio.Event()

    async def produce():
        while not stop.is_set():
            await append(gateway, run, "x" * 100)
            await asyncio.sleep(0)

    producing = asyncio.create_task(produce())
    await client.receive()
    await client.send(type="unsubscribe", id=1)
    after = []
    while len(after) < 50:
        frame = await client.receive()
        if after or frame["type"] == "unsubscribed":
            after.append(frame)
    stop.set()
    await producing
    assert {frame["id"] for frame in after[1:]} == {2}
    client.socket.transport.abort()  # with what it has not taken, a goodbye would wait


async def test_a_subscription_ends_with_its_token_and_resumes_with_another(gateway, run):
    short = token_for(f"read:runs:{run.id}", ttl_s=1)
    async with beside(gateway, run) as client:
        await subscribed(client, run, token=short)
        await append(gateway, run, 1)
        position = (await client.receive())["position"]
        expiring = await client.receive()
        assert (expiring["type"], expiring["id"]) == ("token_expiring", 1)
        error = await client.receive()
        assert (error["code"], error["id"]) == ("token_expired", 1)
        await append(gateway, run, 2)
        await subscribed(client, run, start={"position": position})
        assert data_of(await client.receive()) == [2]


async def test_a_token_replaced_in_place_keeps_a_subscription_going(gateway, run):
    short = token_for(f"read:runs:{run.id}", ttl_s=1)
    expires_at_s = tokens.verify(short, secret_key=SECRET, now_s=time.time()).expires_at_s
    async with gateway.client(token=short) as client:
        await subscribed(client, run)
        answer = await client.ask(type="token", token=token_for(f"read:runs:{run.id}"))
        assert answer["type"] == "token_accepted"
        assert answer["expires_in_ms"] > 500_000
        await until(lambda: time.time() > expires_at_s + 0.2)
        await append(gateway, run, 1)
        assert data_of(await client.receive()) == [1]


# Throttling.


async def test_the_first_frame_of_a_throttled_subscription_comes_at_once(gateway, run, client):
    await subscribed(client, run, throttle_ms=60_000)
    await client.ask(type="ping")  # whatever it does for an empty stream, it has done
    await append(gateway, run, 1)
    assert data_of(await client.receive()) == [1]
    await append(gateway, run, 2)
    await no_more(client)  # the window is a minute


async def test_a_throttled_subscription_sends_once_a_window_all_that_is_new(gateway, run, client):
    await subscribed(client, run, throttle_ms=300)
    frames, count = [], 0
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    while loop.time() < started_at + 1:
        await append(gateway, run, count)
        count += 1
        await asyncio.sleep(0.002)
    values = []
    while len(values) < count:
        frames.append(await client.receive())
        values += data_of(frames[-1])
    assert values == list(range(count))
    windows = (loop.time() - started_at) / 0.3
    assert 2 <= len(frames) <= windows + 1
    assert count > len(frames)


async def test_more_than_fits_a_frame_comes_as_several_at_once(gateway, run, client):
    for i in range(10):
        await append(gateway, run, [i, "x" * 40_000])
    await subscribed(client, run, throttle_ms=60_000)
    values = await read_until(client, 10)
    assert [value[0] for value in values] == list(range(10))


async def test_the_end_of_a_throttled_subscription_comes_with_its_last_records(
    gateway, run, client
):
    await subscribed(client, run, throttle_ms=200)
    await append(gateway, run, 1)
    assert data_of(await client.receive()) == [1]
    await append(gateway, run, 2)
    await append(gateway, run, 3, end="completed")
    assert data_of(await client.receive()) == [2, 3]
    assert (await client.receive())["type"] == "end"


# Slow and vanished clients.


async def test_a_slow_reader_holds_nobody_up_and_costs_no_memory(gateway, run):
    big = "x" * 60_000
    async with (
        connect(f"{gateway.url}/v1/ws", max_queue=1, compression=None) as slow,
        gateway.client(token=worker_token()) as fast,
    ):
        await slow.send(json.dumps({"type": "hello", "protocol": 1, "token": worker_token()}))
        await slow.send(json.dumps({"type": "subscribe", "id": 1, "run": run.id, "stream": "s"}))
        await slow.recv()
        await slow.recv()
        await subscribed(fast, run)
        for i in range(700):  # 42 MB, far more than sockets hold
            await append(gateway, run, [i, big])
            await fast.receive()
        (tail,) = gateway.hub._tails.values()
        assert tail.ring_bytes <= 2 << 20
        slow_one = min(
            (carrier for carrier in gateway.gateway._carriers),
            key=lambda carrier: carrier._subscriptions[1].cursor.position.offset,
        )
        assert slow_one._subscriptions[1].cursor.position.offset < 600
        assert slow_one._flight.answers == 0
        # And when it reads again it gets everything.
        count = 0
        async with asyncio.timeout(60):
            while count < 700:
                for record in json.loads(await slow.recv())["records"]:
                    assert record["offset"] == count
                    count += 1


async def test_a_client_that_takes_no_answers_is_not_read_for_ever(gateway, run):
    async with connect(f"{gateway.url}/v1/ws", max_queue=1, compression=None) as slow:
        await slow.send(json.dumps({"type": "hello", "protocol": 1, "token": worker_token()}))
        await append(gateway, run, "x" * 200_000)
        await slow.recv()
        read = json.dumps({"type": "read", "id": 0, "run": run.id, "stream": "s"})

        async def flood():
            for id in range(2000):
                await slow.send(read.replace('"id": 0', f'"id": {id}'))

        flooding = asyncio.create_task(flood())
        (one,) = gateway.gateway._carriers
        await until(lambda: one._is_deaf)
        for _ in range(50):
            await asyncio.sleep(0.002)
        assert one._is_deaf
        assert one._flight.bytes <= Limits().flight_bytes + 300_000  # and one request
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        slow.transport.abort()


async def test_newcomers_wait_for_their_turn_and_those_at_work_do_not(gateway, run, client):
    await subscribed(client, run)
    turns = gateway.hub.newcomers = LoopQuota(each_pass=0)

    async def visit():
        async with gateway.client(token=worker_token()) as newcomer:
            await subscribed(newcomer, run)

    visiting = asyncio.create_task(visit())
    await until(lambda: turns._waiting)
    for i in range(3):
        request = {"run": run.id, "stream": "s", "records": [i]}
        answers = [await client.ask(type="append", id=9 + i, **request), await client.receive()]
        assert {answer["type"] for answer in answers} == {"appended", "records"}
    assert len(turns._waiting) == 1, "what it says first"
    turns._each_pass = 1
    turns._next_pass()
    await asyncio.wait_for(visiting, DEADLINE_S)


async def test_a_client_that_vanishes_leaves_nothing(gateway, run):
    before = len(asyncio.all_tasks())
    async with gateway.client(token=worker_token()) as client:
        for id in range(20):
            await subscribed(client, run, id, stream=f"s{id}")
        assert gateway.hub.live_streams == 20
        client.socket.transport.abort()
        await until(lambda: gateway.hub.live_streams == 0)
    await until(lambda: not gateway.gateway._carriers)
    await until(lambda: len(asyncio.all_tasks()) <= before)
    assert gateway.store._growth._watches.keys() == {REVOCATIONS.run_id}


async def test_clients_that_come_and_go_leave_nothing(gateway, run):
    async def visit(n):
        async with gateway.client(token=worker_token()) as client:
            await client.send(type="subscribe", id=1, run=run.id, stream="s")
            await client.send(type="subscribe", id=2, run=run.id)
            if n % 3 == 0:
                await client.receive()
            if n % 2 == 0:
                client.socket.transport.abort()

    for round in range(5):
        await asyncio.gather(*(visit(n) for n in range(20)))
        await append(gateway, run, round)
    await until(lambda: gateway.hub.live_streams == 0)
    await until(lambda: not gateway.gateway._carriers)


# Requests.


async def test_requests_of_one_connection_are_carried_out_in_their_order(gateway, run, client):
    for i in range(300):
        await client.send(type="append", id=i, run=run.id, stream="s", records=[i])
    answers = [await client.receive() for _ in range(300)]
    assert [answer["offset"] for answer in sorted(answers, key=lambda a: a["id"])] == list(
        range(300)
    )


async def test_an_append_from_outside_has_no_source(gateway, run):
    token = token_for(f"write:streams:{run.id}/approval")
    async with gateway.client() as client:
        answer = await client.ask(
            type="append",
            id=4,
            run=run.id,
            stream="approval",
            records=[{"ok": True}],
            writer={"id": "w_71", "epoch": 0, "sequence": 0},
            token=token,
        )
        assert (answer["type"], answer["offset"], answer["duplicate"]) == ("appended", 0, False)
    async with gateway.client(token=worker_token()) as client:
        await subscribed(client, run, stream="approval")
        (record,) = (await client.receive())["records"]
        assert record["source"] is None
        assert record["data"] == {"ok": True}


async def test_a_request_that_breaks_the_gateway_is_an_internal_error(gateway, run, caplog):
    async with beside(gateway, run) as client:
        gateway.store._runs[run.id] = None  # what no store would hold
        try:
            error = await client.ask(type="run_get", id=1, run=run.id)
        finally:
            gateway.store._runs[run.id] = run
        assert error["code"] in ("internal", "run_not_found")


# The server.


async def test_the_health_of_a_gateway_that_serves(gateway):
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{gateway.port}/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("busy", [False, True])
async def test_going_down_is_told_to_every_client(tmp_path, busy):
    with gateway_process("memory:", tmp_path) as process:
        async with connect(f"{process.url}/v1/ws") as socket_:
            await socket_.send(
                json.dumps({"type": "hello", "protocol": 1, "token": worker_token()})
            )
            await socket_.recv()
            if busy:
                run = new_run()
                wire = {"type": "run_create", "id": 1, "value": run.to_wire()}
                await socket_.send(json.dumps(wire))
                await socket_.recv()
                wire = {"type": "subscribe", "id": 2, "run": run.id, "stream": "s"}
                await socket_.send(json.dumps(wire))
                await socket_.recv()
            process._process.send_signal(signal.SIGTERM)
            told = json.loads(await asyncio.wait_for(socket_.recv(), DEADLINE_S))
            assert (told["code"], told["retryable"]) == ("shutting_down", True)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket_.recv(), DEADLINE_S)
            assert socket_.close_code == 4503
        assert await asyncio.to_thread(process._process.wait, 20) in (0, -signal.SIGTERM)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", process.port))


@pytest.mark.parametrize(("name", "prefix"), [("east1", "east1_"), ("", "c_")])
async def test_ids_of_connections_begin_with_the_gateways_name(name, prefix):
    async with serving(name=name) as gateway, gateway.client(greet=False) as client:
        welcome = await client.ask(type="hello", protocol=1, token=worker_token())
        assert welcome["connection"].startswith(prefix)
