"""Orders of events that once went wrong.

The search for more: `tests/server/websocket/test_stateful.py`.
"""

from __future__ import annotations

import itertools

import pytest

from gateway.fanout.hub import Hub
from gateway.model.records import StreamKey
from gateway.stores.memory import MemoryStore
from tests.support.gateways import new_run
from tests.support.stepped_loop import SteppedLoop, Wired

WAITS_S = (1e-6, 0.05, 2.0)


async def _hub(store):
    return Hub(store)


@pytest.mark.parametrize("waits_s", list(itertools.product(WAITS_S, repeat=3)))
@pytest.mark.parametrize("throttle_ms", [0, 50, 2000])
def test_one_that_was_woken_before_it_joined_others_gets_nothing_twice(waits_s, throttle_ms):
    loop = SteppedLoop()
    store = MemoryStore()
    loop.run_until_complete(store.open())
    run = loop.run_until_complete(store.create_run(new_run()))
    key = StreamKey(run.id, "s")
    client = Wired(loop, store, loop.run_until_complete(_hub(store)), is_direct=True)
    client.send(type="subscribe", id=1, run=run.id, stream="s", throttle_ms=throttle_ms)
    loop.pass_time()
    client.sink.stall()
    for wait_s in waits_s:
        loop.run_until_complete(store.append(key, [b'"%b"' % (b"x" * 60)] * 5))
        loop.pass_time(wait_s)
    client.sink.go_on()
    loop.pass_time(5)
    frames = [frame for frame in client.sink.frames if frame["type"] == "records"]
    offsets = [record["offset"] for frame in frames for record in frame["records"]]
    assert offsets == list(range(15))
    client.leave()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


@pytest.mark.parametrize("set_by_s", [-3600, 0, 3600])
def test_a_clock_that_is_set_neither_cuts_clients_nor_keeps_silent_ones(set_by_s):
    loop = SteppedLoop()
    store = MemoryStore()
    loop.run_until_complete(store.open())
    run = loop.run_until_complete(store.create_run(new_run()))
    hub = loop.run_until_complete(_hub(store))
    alive, silent = (Wired(loop, store, hub, is_direct=False) for _ in range(2))
    for client in (alive, silent):
        client.send(type="subscribe", id=1, run=run.id, stream="s")
    loop.pass_time(10)
    loop.set_by_s = set_by_s
    for _ in range(6):
        alive.send(type="ping")
        loop.pass_time(20)
    assert (alive.close_code, silent.close_code) == (None, 4508)
    alive.leave()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
