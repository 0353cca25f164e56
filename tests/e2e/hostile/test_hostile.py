"""Each attack costs a bounded amount of memory, and does not delay other clients."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from tests.support.hostile import attacks_by_values, attacks_on_the_wire
from tests.support.hostile.raw import HELLO, TEXT, connected, frame, head, push, websocket
from tests.support.hostile.target import target_at

ATTACKS = [*attacks_on_the_wire.ATTACKS, *attacks_by_values.ATTACKS]
GROWTH_MIB = 100  # all attacks together
BUSY_S = 1.0  # CPU time of the event loop in one pass
LATE_S = 10.0  # wall-clock time of one pass on a loaded machine; a blocking wait takes longer
DRAIN_S = 3
EXIT_S = 5  # for a process to exit on a loaded machine


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    settings = {"REALTIME_HELLO_S": "3", "REALTIME_DRAIN_S": str(DRAIN_S)}
    with target_at(tmp_path_factory.mktemp("hostile"), **settings) as it:
        yield it


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
async def test_attack_has_bounded_cost_and_does_not_delay_others(target, attack):
    try:
        cost = await target.cost_of(attack)
    except BaseException:
        target.kill()  # it may never answer again
        target.start()
        raise
    assert cost.growth_mib < GROWTH_MIB
    assert cost.busy_s < BUSY_S
    assert cost.late_s < LATE_S


async def test_sigterm_stops_gateway_in_time_during_attack(target):
    async with AsyncExitStack() as stack:
        for first in ([], [head(TEXT, 60_000)], [frame(TEXT, HELLO), head(TEXT, 1 << 20)]):
            await stack.enter_async_context(websocket(target.port, *first))
        for request in (b"", b"GET / HTTP/1.1\r\n", b"POST /v1/events HTTP/1.1\r\nHost: x\r\n"):
            _, writer = await stack.enter_async_context(connected(target.port))
            await push(writer, request)
        assert target.stop() < DRAIN_S + EXIT_S
