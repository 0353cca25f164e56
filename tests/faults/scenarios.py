"""What is done to a gateway under load, and what has to hold all the same."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

from serving import DEADLINE_S, worker_token

from faults import network, nginx
from faults.clients import STALL_S
from faults.history import Key, Seen, Verdict
from faults.load import Load, load
from faults.process import Child, Figures, Gateway, gateway_at
from faults.proxy import Proxy

Say = Callable[[str], None]

# The gateway asks for a sign of life this often, and waits for three, so that silence is short.
PING_MS = 500
SILENCE_S = 3 * PING_MS / 1000
SLOW_BYTES_PER_S = 1024
PADDING_BYTES = 4000  # of records for the slow: far more than it can take
MAX_OTHERS_LATENCY_S = 5.0  # p99 of the readers beside a slow one; measured: some ms
MAX_SLOW_MIB = 8.0  # more memory for one slow client; its stream's ring is 1 MiB of it
CROWD = 200
MAX_IDLE_CPU = 0.05  # of one core, when everyone has left
MAX_CROWD_MIB = 8.0  # more memory after a second crowd than after the first


def quiet(_: str) -> None:
    """Say nothing."""


def _counted(verdict: Verdict, gateway: Gateway) -> Verdict:
    verdict.kills, verdict.stops = gateway.kills, gateway.stops
    return verdict


def _asking(
    folder: Path, store: str | None, host: str = "127.0.0.1"
) -> AbstractAsyncContextManager[Gateway]:
    """Run a gateway that often asks for a sign of life."""
    return gateway_at(folder, store=store, host=host, FAULTS_PING_MS=str(PING_MS))


async def kills(
    folder: Path, *, times: int, store: str | None = None, say: Say = quiet, **shape: int
) -> Verdict:
    """`kill -9` the gateway again and again under load."""
    chance = random.Random(9)
    async with gateway_at(folder, store=store) as gateway, load(gateway.url, folder, **shape) as it:
        for number in range(1, times + 1):
            await asyncio.sleep(0.2 + chance.random() * 1.2)
            gateway.kill()
            await asyncio.to_thread(gateway.start)
            it.check_alive()
            say(f"kill {number}/{times}: {it.acknowledged()} records acknowledged to raw writers")
        await asyncio.sleep(1)
        return _counted(await it.finish(), gateway)


async def stops(
    folder: Path, *, times: int, store: str | None = None, say: Say = quiet, **shape: int
) -> Verdict:
    """SIGTERM it under load: it ends by itself, within its stated time."""
    chance = random.Random(15)
    async with gateway_at(folder, store=store) as gateway, load(gateway.url, folder, **shape) as it:
        for number in range(1, times + 1):
            await asyncio.sleep(0.5 + chance.random())
            took_s = await asyncio.to_thread(gateway.stop)
            await asyncio.to_thread(gateway.start)
            it.check_alive()
            say(f"stop {number}/{times}: took {took_s:.2f} s")
        await asyncio.sleep(1)
        return _counted(await it.finish(), gateway)


async def paused(
    folder: Path, *, store: str | None = None, say: Say = quiet, **shape: int
) -> Verdict:
    """Stop a client's process (SIGSTOP), for less and for more than the gateway waits."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(_asking(folder, store))
        it = await stack.enter_async_context(load(gateway.url, folder, **shape))
        child = Child(*_lone_reader(gateway.url, it.keys[0], folder))
        stack.callback(child.close)
        await asyncio.sleep(1.5)  # Python has started and reads
        for pause_s in (SILENCE_S / 2, SILENCE_S * 3):
            child.signal(signal.SIGSTOP)
            await asyncio.sleep(pause_s)
            child.signal(signal.SIGCONT)
            say(f"paused for {pause_s:g} s")
            await asyncio.sleep(1)
        return await _with_lone_reader(it, child, folder, connections=2)


def _lone_reader(url: str, key: Key, folder: Path) -> tuple[str, ...]:
    return "lone_reader.py", url, worker_token(), *key, str(folder / "lone.json")


async def _with_lone_reader(it: Load, child: Child, folder: Path, *, connections: int) -> Verdict:
    """Judge, with what the reader in its own process has seen."""
    view = it.history.view("lone reader", it.keys[0])
    ending = asyncio.create_task(child.finish(DEADLINE_S * 3))
    await it.stop_writers()
    await ending
    records, gaps, view.resets, view.end, view.connections = _load(folder / "lone.json")
    view.records = [Seen(*record) for record in records]
    view.gaps = [tuple(gap) for gap in gaps]
    verdict = await it.judge()
    if view.connections < connections:
        verdict.count("contradictions", f"the lone reader connected {view.connections} time(s)")
    return verdict


def _load(path: Path) -> Any:
    return json.loads(path.read_text())


async def half_open(
    folder: Path, *, store: str | None = None, say: Say = quiet, **shape: int
) -> Verdict:
    """A proxy forwards nothing any more and closes nothing: both sides have to notice."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(_asking(folder, store))
        proxy = Proxy(gateway.port)
        url = await stack.enter_async_context(proxy.listen())
        it = await stack.enter_async_context(
            load(gateway.url, folder, proxied_url=url, **({"sdk_writers": 2} | shape))
        )
        await asyncio.sleep(1.5)
        before = await gateway.figures()
        proxy.fall_silent()
        say(f"silent; the gateway has {before.connections} connections")
        gone = await _until(gateway, lambda now: now.connections <= 3)
        say(f"the gateway has let go of all but {gone.connections}")
        proxy.speak()
        proxy.cut()
        await asyncio.sleep(2)
        verdict = await it.finish()
        for reader in it.readers:
            if reader.view.connections < 2:
                verdict.count("contradictions", f"{reader.view.reader} never connected again")
        return verdict


async def dropped(
    folder: Path, *, store: str | None = None, say: Say = quiet, **shape: int
) -> Verdict:
    """Every packet of a client is dropped, in a network namespace, then passes again."""
    async with AsyncExitStack() as stack:
        net = stack.enter_context(network.network())
        gateway = await stack.enter_async_context(_asking(folder, store, host="0.0.0.0"))
        it = await stack.enter_async_context(load(gateway.url, folder, **shape))
        url = f"ws://{net.host}:{gateway.port}"
        child = Child(*_lone_reader(url, it.keys[0], folder), prefix=net.prefix)
        stack.callback(child.close)
        await asyncio.sleep(2)
        before = await gateway.figures()
        net.drop_everything()
        say("every packet is dropped")
        await _until(gateway, lambda now: now.descriptors < before.descriptors)
        say("the gateway has let go of the client")
        await asyncio.sleep(STALL_S)  # so that the client notices too
        net.pass_everything()
        say("packets pass again")
        await asyncio.sleep(2)
        return await _with_lone_reader(it, child, folder, connections=2)


async def slow(
    folder: Path, *, for_s: float, store: str | None = None, say: Say = quiet, **shape: int
) -> Verdict:
    """A client takes 1 KB/s of a stream that grows by far more; the others notice nothing."""
    shape = {"streams": 1, "raw_writers": 2, "sdk_writers": 0, "readers": 10} | shape
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(gateway_at(folder, store=store))
        proxy = Proxy(gateway.port)
        url = await stack.enter_async_context(proxy.listen())
        it = await stack.enter_async_context(
            load(gateway.url, folder, padding=PADDING_BYTES, **shape)
        )
        await asyncio.sleep(3)  # the ring has filled
        before = await gateway.figures()
        latencies = _watch_latency(it)
        proxy.bytes_per_s = SLOW_BYTES_PER_S
        one = it.add_reader(it.keys[0], url=url)
        one.be_patient()
        await asyncio.sleep(for_s)
        after = await gateway.figures()
        p99_s = statistics.quantiles(latencies, n=100)[98]
        mib = after.rss_mib - before.rss_mib
        behind = len(it.readers[0].view.records) - len(one.view.records)
        say(
            f"it took {proxy.taken} B and is {behind} records behind; the others: p99 "
            f"{p99_s * 1000:.0f} ms; the gateway: {mib:+.1f} MiB"
        )
        connections = one.view.connections
        proxy.bytes_per_s = None
        verdict = await it.finish()
        for is_wrong, text in (
            (p99_s > MAX_OTHERS_LATENCY_S, f"the others' p99 was {p99_s:.2f} s"),
            (mib > MAX_SLOW_MIB, f"the slow client cost {mib:.1f} MiB"),
            (behind < 100, f"the slow client was {behind} records behind: it was not slow"),
            (connections != 1, f"the slow client had to connect {connections} times"),
        ):
            if is_wrong:
                verdict.count("contradictions", text)
        return verdict


def _watch_latency(it: Load) -> list[float]:
    latencies: list[float] = []

    def arrived(records: list[dict[str, Any]]) -> None:
        now_s = time.time()
        latencies.extend(now_s - record["time_ms"] / 1000 for record in records)

    for reader in it.readers:
        if not reader.throttle_ms:
            reader.arrived = arrived
    return latencies


async def vanished(
    folder: Path, *, crowd: int = CROWD, store: str | None = None, say: Say = quiet
) -> Verdict:
    """A crowd of readers leaves without a word: everything goes back to where it was."""
    shape = {"streams": 2, "raw_writers": 2, "sdk_writers": 0, "readers": 2}
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(_asking(folder, store))
        it = await stack.enter_async_context(load(gateway.url, folder, **shape))
        await asyncio.sleep(1)
        empty = await gateway.figures()
        say(f"before: {_shown(empty)}")
        # The first crowd warms up: the store's threads open the file, the allocator keeps memory.
        await _come_and_vanish(gateway, it, crowd, say)
        first = await _until(gateway, lambda now: now.connections <= empty.connections)
        say(f"after the first: {_shown(first)}")
        await _come_and_vanish(gateway, it, crowd, say)
        second = await _until(
            gateway,
            lambda now: now.descriptors <= first.descriptors and now.tasks <= empty.tasks,
        )
        say(f"after the second: {_shown(second)}")
        verdict = await it.finish()
        share = await gateway.cpu_share(2)
        say(f"idle: {share:.1%} of a core")
        mib = second.rss_mib - first.rss_mib
        if share > MAX_IDLE_CPU:
            verdict.count("contradictions", f"the idle gateway uses {share:.0%} of a core")
        if mib > MAX_CROWD_MIB:
            verdict.count("contradictions", f"the second crowd left {mib:.1f} MiB behind")
        verdict.readers += 2 * crowd
        return verdict


async def _come_and_vanish(gateway: Gateway, it: Load, crowd: int, say: Say) -> None:
    proxy = Proxy(gateway.port)
    async with proxy.listen() as url:
        readers = [it.add_passer_by(it.keys[n % 2], url=url) for n in range(crowd)]
        async with asyncio.timeout(DEADLINE_S):
            while not all(reader.view.records for reader in readers):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        say(f"crowd of {crowd}: {_shown(await gateway.figures())}")
        proxy.fall_silent()
        await it.forget(readers)
        # Half of them stay half open and are found out, the others' sockets break at once.
        proxy.cut(every=2)
        await _until(gateway, lambda now: now.connections <= crowd / 2 + 10)
        await _until(gateway, lambda now: now.connections <= 10)


def _shown(figures: Figures) -> str:
    return (
        f"{figures.connections} connections, {figures.tasks} tasks, "
        f"{figures.descriptors} descriptors, {figures.rss_mib:.1f} MiB"
    )


async def _until(gateway: Gateway, condition: Callable[[Figures], bool]) -> Figures:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition(figures := await gateway.figures()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"after {DEADLINE_S} s there are still {_shown(figures)}")
        await asyncio.sleep(0.1)
    return figures


async def proxied(folder: Path, *, reloads: int, say: Say = quiet, **shape: int) -> Verdict:
    """Through a real nginx that is reloaded under load."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(gateway_at(folder))
        server = stack.enter_context(nginx.nginx_before(gateway.port, folder=folder))
        it = await stack.enter_async_context(
            load(gateway.url, folder, proxied_url=server.url, **({"sdk_writers": 2} | shape))
        )
        for number in range(1, reloads + 1):
            await asyncio.sleep(1)
            await asyncio.to_thread(server.reload)
            await asyncio.sleep(1.5)  # the old workers have cut what was open
            it.check_alive()
            say(f"reload {number}/{reloads}: {it.acknowledged()} records acknowledged")
        verdict = await it.finish()
        if any(reader.view.connections < 2 for reader in it.readers):
            verdict.count("contradictions", "a reload of nginx did not cut every connection")
        return verdict
