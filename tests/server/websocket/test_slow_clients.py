"""Slow clients, and clients that vanish."""

import asyncio
import json

from websockets.asyncio.client import connect

from gateway._internal.fair_share import LoopQuota
from gateway.model.limits import Limits
from gateway.model.records import REVOCATIONS
from tests.support.gateways import (
    DEADLINE_S,
    until,
    worker_token,
)
from tests.support.subscriptions import append, subscribed


async def test_slow_reader_does_not_delay_others_or_grow_memory(gateway, run):
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
            (carrier for carrier in gateway.gateway._sessions),
            key=lambda carrier: carrier._subscriptions[1].cursor.position.offset,
        )
        assert slow_one._subscriptions[1].cursor.position.offset < 600
        assert slow_one._backpressure.answers == 0
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
        (one,) = gateway.gateway._sessions
        await until(lambda: one._is_read_paused)
        for _ in range(50):
            await asyncio.sleep(0.002)
        assert one._is_read_paused
        assert one._backpressure.bytes <= Limits().flight_bytes + 300_000  # and one request
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        slow.transport.abort()


async def test_new_handshakes_wait_behind_subscribed_connections(gateway, run, client):
    await subscribed(client, run)
    turns = gateway.hub.handshake_quota = LoopQuota(per_tick=0)

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
    turns._next_tick()
    await asyncio.wait_for(visiting, DEADLINE_S)


async def test_a_client_that_vanishes_leaves_nothing(gateway, run):
    before = len(asyncio.all_tasks())
    async with gateway.client(token=worker_token()) as client:
        for id in range(20):
            await subscribed(client, run, id, stream=f"s{id}")
        assert gateway.hub.live_streams == 20
        client.socket.transport.abort()
        await until(lambda: gateway.hub.live_streams == 0)
    await until(lambda: not gateway.gateway._sessions)
    await until(lambda: len(asyncio.all_tasks()) <= before)
    assert gateway.store._growth._watches.keys() == {REVOCATIONS.run_id}


async def test_disconnected_clients_leave_no_state(gateway, run):
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
    await until(lambda: not gateway.gateway._sessions)
