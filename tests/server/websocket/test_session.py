"""The gateway on a real server, spoken to by a real client."""

import asyncio
import json
import signal
import socket
import time

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway import tokens
from gateway.model.records import StreamKey
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
from tests.support.subscriptions import append, beside, data_of, no_more, subscribed


async def read_until(client, count):
    records = []
    while len(records) < count:
        records += (await client.receive())["records"]
    assert [record["offset"] for record in records] == list(
        range(records[0]["offset"], records[0]["offset"] + len(records))
    )
    return [record["data"] for record in records]


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


async def test_throttled_subscription_sends_first_frame_immediately(gateway, run, client):
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


async def test_throttled_page_over_frame_limit_is_sent_as_several_frames(gateway, run, client):
    for i in range(10):
        await append(gateway, run, [i, "x" * 40_000])
    await subscribed(client, run, throttle_ms=60_000)
    values = await read_until(client, 10)
    assert [value[0] for value in values] == list(range(10))


async def test_throttled_subscription_ends_with_its_last_records(gateway, run, client):
    await subscribed(client, run, throttle_ms=200)
    await append(gateway, run, 1)
    assert data_of(await client.receive()) == [1]
    await append(gateway, run, 2)
    await append(gateway, run, 3, end="completed")
    assert data_of(await client.receive()) == [2, 3]
    assert (await client.receive())["type"] == "end"


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
async def test_shutdown_notifies_every_client(tmp_path, busy):
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
