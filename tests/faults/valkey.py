"""What is done to the Valkey under a gateway, and to the way there, while there is load."""

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
from redis_serving import redis_server
from serving import DEADLINE_S

from faults.history import Verdict
from faults.load import Load, load
from faults.process import Gateway, gateway_at
from faults.proxy import Proxy
from faults.scenarios import Say, quiet

NOTICED_S = 10.0  # so soon a gateway that hears nothing of its store says that it is not ready
SHORT_S = 2.0  # of silence: nobody has to notice


@asynccontextmanager
async def _serving(
    folder: Path, url: str, shape: dict[str, int]
) -> AsyncIterator[tuple[Gateway, Load]]:
    async with (
        gateway_at(folder, store=url) as gateway,
        load(gateway.url, folder, **({"sdk_writers": 4} | shape)) as it,
    ):
        yield gateway, it


async def killed(folder: Path, *, times: int, say: Say = quiet, **shape: int) -> Verdict:
    """`kill -9` a server that writes each append down: nothing is lost, readers begin anew."""
    chance = random.Random(4)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(redis_server(appendonly="yes", appendfsync="always"))
        gateway, it = await stack.enter_async_context(_serving(folder, server.url, shape))
        it.may_reset = True  # nobody can know that nothing was lost
        for number in range(1, times + 1):
            await asyncio.sleep(0.5 + chance.random())
            server.kill()
            await asyncio.sleep(chance.random())
            await asyncio.to_thread(server.start)
            it.check_alive()
            say(f"kill {number}/{times}: {it.acknowledged()} records acknowledged to raw writers")
        await _until_ready(gateway, True)
        await asyncio.sleep(1)
        verdict = await it.finish()
        verdict.kills = times
        for view in it.history.views:
            if not view.resets:
                verdict.count("contradictions", f"{view.reader} was not told to begin anew")
        return verdict


async def still(folder: Path, *, say: Say = quiet, **shape: int) -> Verdict:
    """Stop the server (SIGSTOP), for a short and for a long time: nobody is told of a reset."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(redis_server())
        gateway, it = await stack.enter_async_context(_serving(folder, server.url, shape))
        stack.callback(server.signal, signal.SIGCONT)
        await asyncio.sleep(1)
        for is_long in (False, True):
            server.signal(signal.SIGSTOP)
            say(f"stands still; {await _until_noticed(gateway, is_long)}")
            server.signal(signal.SIGCONT)
            await _go_on(gateway, it, say)
        return await it.finish()


async def cut_off(folder: Path, *, say: Say = quiet, **shape: int) -> Verdict:
    """The way to the server forwards nothing for a time, then breaks; and breaks at once."""
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
        say(f"broke three times; {it.acknowledged()} records acknowledged")
        proxy.fall_silent()
        say(f"silent; {await _until_noticed(gateway, True)}")
        proxy.cut()
        proxy.speak()
        await _go_on(gateway, it, say)
        return await it.finish()


async def _go_on(gateway: Gateway, it: Load, say: Say) -> None:
    """See that writers and the gateway go on."""
    began_s, before = time.monotonic(), it.acknowledged()
    await _until_ready(gateway, True)
    async with asyncio.timeout(DEADLINE_S):
        while it.acknowledged() < before + len(it.writers):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    it.check_alive()
    say(f"goes on after {time.monotonic() - began_s:.2f} s")
    await asyncio.sleep(1)


async def _until_noticed(gateway: Gateway, is_long: bool) -> str:
    if not is_long:
        await asyncio.sleep(SHORT_S)
        return f"for {SHORT_S:g} s"
    took_s = await _until_ready(gateway, False)
    assert took_s < NOTICED_S, f"it took {took_s:.1f} s to notice that nothing is heard"
    return f"noticed after {took_s:.1f} s"


async def _until_ready(gateway: Gateway, is_ready: bool) -> float:
    """Wait until the gateway says that it is ready, or that it is not; return how long it took."""
    url = gateway.url.replace("ws:", "http:") + "/readyz"
    began_s = time.monotonic()
    async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient() as client:
        while ((await client.get(url)).status_code == 200) is not is_ready:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return time.monotonic() - began_s
