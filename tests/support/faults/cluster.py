"""Faults of two gateways on one Valkey behind a real nginx, under load."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.faults.history import Verdict
from tests.support.faults.load import Load, load
from tests.support.faults.process import Gateway, gateway_at
from tests.support.faults.scenarios import Log, no_log
from tests.support.nginx import Nginx, nginx_before
from tests.support.redis.servers import redis_server

MAX_OUTAGE_S = 10.0  # p99 of the time until clients of a killed gateway use the other one
SETTLE_S = 2.0  # until all clients have reconnected


async def over_redis(
    scenario: Callable[..., Awaitable[Verdict]], folder: Path, **more: Any
) -> Verdict:
    """Run a scenario with a Redis store."""
    with redis_server() as server:
        return await scenario(folder, store=server.url, **more)


@asynccontextmanager
async def two_behind_nginx(
    folder: Path, has_affinity: bool
) -> AsyncIterator[tuple[list[Gateway], Nginx]]:
    """Run two gateways on one Valkey, and an nginx in front of them."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(redis_server())
        nodes = []
        for name in ("a", "b"):
            own = folder / name
            own.mkdir()
            nodes.append(await stack.enter_async_context(gateway_at(own, store=server.url)))
        ports = [node.port for node in nodes]
        proxy = stack.enter_context(nginx_before(*ports, folder=folder, has_affinity=has_affinity))
        yield nodes, proxy


async def kills(
    folder: Path, *, times: int, has_affinity: bool = False, log: Log = no_log, **shape: int
) -> Verdict:
    """Kill the gateways alternately; the clients reconnect to the other one."""
    rng = random.Random(5)
    async with (
        two_behind_nginx(folder, has_affinity) as (nodes, proxy),
        load(proxy.url, folder, **({"sdk_writers": 4} | shape)) as it,
    ):
        for number in range(times):
            await asyncio.sleep(0.5 + rng.random())
            node = nodes[number % 2]
            node.kill()
            await asyncio.sleep(SETTLE_S)
            await asyncio.to_thread(node.start)
            it.check_alive()
            log(f"kill {number + 1}/{times}: {_summary(it)}")
        verdict = await it.finish()
        verdict.kills = sum(node.kills for node in nodes)
        return _check_outages(verdict, it)


async def rolling(folder: Path, *, rounds: int, log: Log = no_log, **shape: int) -> Verdict:
    """Restart one gateway after the other, as a deployment does."""
    async with (
        two_behind_nginx(folder, False) as (nodes, proxy),
        load(proxy.url, folder, **({"sdk_writers": 4} | shape)) as it,
    ):
        for number in range(rounds):
            for node in nodes:
                await asyncio.sleep(1)
                took_s = await asyncio.to_thread(node.stop)
                await asyncio.to_thread(node.start)
                it.check_alive()
                log(f"round {number + 1}/{rounds}: stopped in {took_s:.2f} s; {_summary(it)}")
        await asyncio.sleep(SETTLE_S)
        verdict = await it.finish()
        verdict.stops = sum(node.stops for node in nodes)
        return _check_outages(verdict, it)


def _outages_s(it: Load) -> list[float]:
    return sorted(outage for reader in it.readers for outage in reader.outages_s)


def _p99_s(outages_s: list[float]) -> float:
    return statistics.quantiles(outages_s, n=100, method="inclusive")[98]


def _summary(it: Load) -> str:
    outages_s = _outages_s(it)
    if len(outages_s) < 2:
        return f"{len(outages_s)} reconnections of readers"
    return (
        f"{it.acknowledged()} records acknowledged; readers reconnected {len(outages_s)} times, "
        f"p50 {statistics.median(outages_s):.2f} s, p99 {_p99_s(outages_s):.2f} s"
    )


def _check_outages(verdict: Verdict, it: Load) -> Verdict:
    outages_s = _outages_s(it)
    if len(outages_s) < 2:
        verdict.count("contradictions", "no reader reconnected: the fault had no effect")
    elif (p99_s := _p99_s(outages_s)) > MAX_OUTAGE_S:
        verdict.count("contradictions", f"readers were disconnected for {p99_s:.2f} s (p99)")
    return verdict
