"""Faults of the store's Valkey server, and of the network path to it, under load."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.support.faults.history import Verdict
from tests.support.faults.load import Load, load
from tests.support.faults.process import Gateway, gateway_at
from tests.support.faults.scenarios import Log, no_log
from tests.support.gateways import DEADLINE_S
from tests.support.redis.servers import redis_server
from tests.support.tcp_proxy import Proxy

DETECTION_S = 10.0  # limit until a gateway reports that its store does not answer
SHORT_PAUSE_S = 2.0  # a pause that need not be detected


@asynccontextmanager
async def _serving(
    folder: Path, url: str, shape: dict[str, int]
) -> AsyncIterator[tuple[Gateway, Load]]:
    async with (
        gateway_at(folder, store=url) as gateway,
        load(gateway.url, folder, **({"sdk_writers": 4} | shape)) as it,
    ):
        yield gateway, it


async def killed(folder: Path, *, times: int, log: Log = no_log, **shape: int) -> Verdict:
    """Kill a server with `appendfsync always`: no record is lost, readers get a `reset`."""
    rng = random.Random(4)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(redis_server(appendonly="yes", appendfsync="always"))
        gateway, it = await stack.enter_async_context(_serving(folder, server.url, shape))
        it.may_reset = True  # the gateway cannot know that no record was lost
        for number in range(1, times + 1):
            await asyncio.sleep(0.5 + rng.random())
            server.kill()
            await asyncio.sleep(rng.random())
            await asyncio.to_thread(server.start)
            it.check_alive()
            log(f"kill {number}/{times}: {it.acknowledged()} records acknowledged to raw writers")
        await _until_ready(gateway, True)
        await asyncio.sleep(1)
        verdict = await it.finish()
        verdict.kills = times
        for view in it.history.views:
            if not view.resets:
                verdict.count("contradictions", f"{view.reader} received no reset")
        return verdict


async def frozen(folder: Path, *, log: Log = no_log, **shape: int) -> Verdict:
    """Pause the server (SIGSTOP), for a short and for a long time: no reader gets a `reset`."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(redis_server())
        gateway, it = await stack.enter_async_context(_serving(folder, server.url, shape))
        stack.callback(server.signal, signal.SIGCONT)
        await asyncio.sleep(1)
        for is_long in (False, True):
            server.signal(signal.SIGSTOP)
            log(f"paused; {await _wait_until_detected(gateway, is_long)}")
            server.signal(signal.SIGCONT)
            await _wait_for_recovery(gateway, it, log)
        return await it.finish()


async def network_cut(folder: Path, *, log: Log = no_log, **shape: int) -> Verdict:
    """Break the connections to the server, then stop forwarding and break them."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(redis_server())
        proxy = Proxy(server.port)
        there = urlsplit(await stack.enter_async_context(proxy.listen()))
        url = f"redis://127.0.0.1:{there.port}/0"
        gateway, it = await stack.enter_async_context(_serving(folder, url, shape))
        for _ in range(3):
            await asyncio.sleep(0.5)
            proxy.cut()
            it.check_alive()
        await _until_ready(gateway, True)
        log(f"broken three times; {it.acknowledged()} records acknowledged")
        proxy.stop_forwarding()
        log(f"not forwarding; {await _wait_until_detected(gateway, True)}")
        proxy.cut()
        proxy.resume_forwarding()
        await _wait_for_recovery(gateway, it, log)
        return await it.finish()


async def _wait_for_recovery(gateway: Gateway, it: Load, log: Log) -> None:
    """Wait until the gateway is ready and every writer has appended again."""
    began_s, before = time.monotonic(), it.acknowledged()
    await _until_ready(gateway, True)
    async with asyncio.timeout(DEADLINE_S):
        while it.acknowledged() < before + len(it.writers):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    it.check_alive()
    log(f"recovered after {time.monotonic() - began_s:.2f} s")
    await asyncio.sleep(1)


async def _wait_until_detected(gateway: Gateway, is_long: bool) -> str:
    if not is_long:
        await asyncio.sleep(SHORT_PAUSE_S)
        return f"for {SHORT_PAUSE_S:g} s"
    took_s = await _until_ready(gateway, False)
    assert took_s < DETECTION_S, f"it took {took_s:.1f} s to detect that the store is down"
    return f"detected after {took_s:.1f} s"


async def _until_ready(gateway: Gateway, is_ready: bool) -> float:
    """Wait until the gateway is ready, or not ready. Returns the time it took, in seconds."""
    url = gateway.url.replace("ws:", "http:") + "/readyz"
    began_s = time.monotonic()
    async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient() as client:
        while ((await client.get(url)).status_code == 200) is not is_ready:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return time.monotonic() - began_s
