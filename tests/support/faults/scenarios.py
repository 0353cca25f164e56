"""Faults of one gateway and of its clients under load."""

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

from tests.support import nginx
from tests.support.faults import network
from tests.support.faults.clients import STALL_S
from tests.support.faults.history import Key, Seen, Verdict
from tests.support.faults.load import Load, load
from tests.support.faults.process import Child, Gateway, ProcessStats, gateway_at
from tests.support.gateways import DEADLINE_S, worker_token
from tests.support.tcp_proxy import Proxy

Log = Callable[[str], None]

# The gateway expects a ping this often, and closes after three are missing. Short, to save time.
PING_MS = 500
SILENCE_S = 3 * PING_MS / 1000
SLOW_BYTES_PER_S = 1024
PADDING_BYTES = 4000  # per record: far more than a slow client can receive
MAX_OTHERS_LATENCY_S = 5.0  # p99 of other readers while one is slow; measured: some ms
MAX_SLOW_MIB = 8.0  # additional memory for one slow client; its stream's ring is 1 MiB of it
CLIENTS = 200
MAX_IDLE_CPU = 0.05  # share of one core after all clients have left
MAX_LEAK_MIB = 8.0  # additional memory after the second group of clients, compared to the first


def no_log(_: str) -> None:
    """Discard a message."""


def _counted(verdict: Verdict, gateway: Gateway) -> Verdict:
    verdict.kills, verdict.stops = gateway.kills, gateway.stops
    return verdict


def _pinging_gateway(
    folder: Path, store: str | None, host: str = "127.0.0.1"
) -> AbstractAsyncContextManager[Gateway]:
    """Run a gateway with a short ping interval."""
    return gateway_at(folder, store=store, host=host, FAULTS_PING_MS=str(PING_MS))


async def kills(
    folder: Path, *, times: int, store: str | None = None, log: Log = no_log, **shape: int
) -> Verdict:
    """Kill the gateway with SIGKILL several times under load."""
    rng = random.Random(9)
    async with gateway_at(folder, store=store) as gateway, load(gateway.url, folder, **shape) as it:
        for number in range(1, times + 1):
            await asyncio.sleep(0.2 + rng.random() * 1.2)
            gateway.kill()
            await asyncio.to_thread(gateway.start)
            it.check_alive()
            log(f"kill {number}/{times}: {it.acknowledged()} records acknowledged to raw writers")
        await asyncio.sleep(1)
        return _counted(await it.finish(), gateway)


async def stops(
    folder: Path, *, times: int, store: str | None = None, log: Log = no_log, **shape: int
) -> Verdict:
    """Stop the gateway with SIGTERM under load: it ends within its drain time."""
    rng = random.Random(15)
    async with gateway_at(folder, store=store) as gateway, load(gateway.url, folder, **shape) as it:
        for number in range(1, times + 1):
            await asyncio.sleep(0.5 + rng.random())
            took_s = await asyncio.to_thread(gateway.stop)
            await asyncio.to_thread(gateway.start)
            it.check_alive()
            log(f"stop {number}/{times}: took {took_s:.2f} s")
        await asyncio.sleep(1)
        return _counted(await it.finish(), gateway)


async def paused(
    folder: Path, *, store: str | None = None, log: Log = no_log, **shape: int
) -> Verdict:
    """Pause a client's process (SIGSTOP), shorter and longer than the gateway's ping timeout."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(_pinging_gateway(folder, store))
        it = await stack.enter_async_context(load(gateway.url, folder, **shape))
        child = Child(*_lone_reader(gateway.url, it.keys[0], folder))
        stack.callback(child.close)
        await asyncio.sleep(1.5)  # until the process reads
        for pause_s in (SILENCE_S / 2, SILENCE_S * 3):
            child.signal(signal.SIGSTOP)
            await asyncio.sleep(pause_s)
            child.signal(signal.SIGCONT)
            log(f"paused for {pause_s:g} s")
            await asyncio.sleep(1)
        return await _check_with_lone_reader(it, child, folder, connections=2)


def _lone_reader(url: str, key: Key, folder: Path) -> tuple[str, ...]:
    return "lone_reader", url, worker_token(), *key, str(folder / "lone.json")


async def _check_with_lone_reader(
    it: Load, child: Child, folder: Path, *, connections: int
) -> Verdict:
    """Check the history, including the records of the reader in a child process."""
    view = it.history.view("lone reader", it.keys[0])
    ending = asyncio.create_task(child.finish(DEADLINE_S * 3))
    await it.stop_writers()
    await ending
    records, gaps, view.resets, view.end, view.connections = _load(folder / "lone.json")
    view.records = [Seen(*record) for record in records]
    view.gaps = [tuple(gap) for gap in gaps]
    verdict = await it.check_history()
    if view.connections < connections:
        verdict.count("contradictions", f"the lone reader connected {view.connections} time(s)")
    return verdict


def _load(path: Path) -> Any:
    return json.loads(path.read_text())


async def half_open(
    folder: Path, *, store: str | None = None, log: Log = no_log, **shape: int
) -> Verdict:
    """Stop forwarding in a proxy without closing: both sides must detect it."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(_pinging_gateway(folder, store))
        proxy = Proxy(gateway.port)
        url = await stack.enter_async_context(proxy.listen())
        it = await stack.enter_async_context(
            load(gateway.url, folder, proxied_url=url, **({"sdk_writers": 2} | shape))
        )
        await asyncio.sleep(1.5)
        before = await gateway.stats()
        proxy.stop_forwarding()
        log(f"the proxy stopped forwarding; the gateway has {before.connections} connections")
        gone = await _until(gateway, lambda now: now.connections <= 3)
        log(f"the gateway has closed all but {gone.connections} connections")
        proxy.resume_forwarding()
        proxy.cut()
        await asyncio.sleep(2)
        verdict = await it.finish()
        for reader in it.readers:
            if reader.view.connections < 2:
                verdict.count("contradictions", f"{reader.view.reader} did not reconnect")
        return verdict


async def dropped(
    folder: Path, *, store: str | None = None, log: Log = no_log, **shape: int
) -> Verdict:
    """Drop every packet of a client in a network namespace, then let packets pass again."""
    async with AsyncExitStack() as stack:
        net = stack.enter_context(network.network())
        gateway = await stack.enter_async_context(_pinging_gateway(folder, store, host="0.0.0.0"))
        it = await stack.enter_async_context(load(gateway.url, folder, **shape))
        url = f"ws://{net.host}:{gateway.port}"
        child = Child(*_lone_reader(url, it.keys[0], folder), prefix=net.prefix)
        stack.callback(child.close)
        await asyncio.sleep(2)
        before = await gateway.stats()
        net.drop_everything()
        log("all packets are dropped")
        await _until(gateway, lambda now: now.descriptors < before.descriptors)
        log("the gateway has closed the client's connection")
        await asyncio.sleep(STALL_S)  # until the client detects it too
        net.pass_everything()
        log("packets pass again")
        await asyncio.sleep(2)
        return await _check_with_lone_reader(it, child, folder, connections=2)


async def slow(
    folder: Path, *, for_s: float, store: str | None = None, log: Log = no_log, **shape: int
) -> Verdict:
    """Slow one client down to 1 KB/s, far below its stream's rate: others are not affected."""
    shape = {"streams": 1, "raw_writers": 2, "sdk_writers": 0, "readers": 10} | shape
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(gateway_at(folder, store=store))
        proxy = Proxy(gateway.port)
        url = await stack.enter_async_context(proxy.listen())
        it = await stack.enter_async_context(
            load(gateway.url, folder, padding=PADDING_BYTES, **shape)
        )
        await asyncio.sleep(3)  # until the ring is full
        before = await gateway.stats()
        latencies = _watch_latency(it)
        proxy.bytes_per_s = SLOW_BYTES_PER_S
        one = it.add_reader(it.keys[0], url=url)
        one.disable_stall_timeout()
        await asyncio.sleep(for_s)
        after = await gateway.stats()
        p99_s = statistics.quantiles(latencies, n=100)[98]
        mib = after.rss_mib - before.rss_mib
        behind = len(it.readers[0].view.records) - len(one.view.records)
        log(
            f"the slow client received {proxy.taken} B and is {behind} records behind; others: "
            f"p99 {p99_s * 1000:.0f} ms; the gateway: {mib:+.1f} MiB"
        )
        connections = one.view.connections
        proxy.bytes_per_s = None
        verdict = await it.finish()
        for is_wrong, text in (
            (p99_s > MAX_OTHERS_LATENCY_S, f"the other readers' p99 was {p99_s:.2f} s"),
            (mib > MAX_SLOW_MIB, f"the slow client used {mib:.1f} MiB of memory"),
            (behind < 100, f"the slow client was only {behind} records behind"),
            (connections != 1, f"the slow client connected {connections} times"),
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
    folder: Path, *, clients: int = CLIENTS, store: str | None = None, log: Log = no_log
) -> Verdict:
    """Abort many readers without a close: the gateway releases all their resources."""
    shape = {"streams": 2, "raw_writers": 2, "sdk_writers": 0, "readers": 2}
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(_pinging_gateway(folder, store))
        it = await stack.enter_async_context(load(gateway.url, folder, **shape))
        await asyncio.sleep(1)
        empty = await gateway.stats()
        log(f"before: {_summary(empty)}")
        # The first group warms up: the store's threads open the file, the allocator keeps memory.
        await _connect_and_vanish(gateway, it, clients, log)
        first = await _until(gateway, lambda now: now.connections <= empty.connections)
        log(f"after the first: {_summary(first)}")
        await _connect_and_vanish(gateway, it, clients, log)
        second = await _until(
            gateway,
            lambda now: now.descriptors <= first.descriptors and now.tasks <= empty.tasks,
        )
        log(f"after the second: {_summary(second)}")
        verdict = await it.finish()
        share = await gateway.cpu_share(2)
        log(f"idle: {share:.1%} of a core")
        mib = second.rss_mib - first.rss_mib
        if share > MAX_IDLE_CPU:
            verdict.count("contradictions", f"the idle gateway uses {share:.0%} of a core")
        if mib > MAX_LEAK_MIB:
            verdict.count(
                "contradictions", f"after the second group, {mib:.1f} MiB were not released"
            )
        verdict.readers += 2 * clients
        return verdict


async def _connect_and_vanish(gateway: Gateway, it: Load, clients: int, log: Log) -> None:
    proxy = Proxy(gateway.port)
    async with proxy.listen() as url:
        readers = [it.add_unchecked_reader(it.keys[n % 2], url=url) for n in range(clients)]
        async with asyncio.timeout(DEADLINE_S):
            while not all(reader.view.records for reader in readers):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        log(f"with {clients} clients: {_summary(await gateway.stats())}")
        proxy.stop_forwarding()
        await it.abort_readers(readers)
        # Half of the connections stay half open and time out; the others are reset immediately.
        proxy.cut(every=2)
        await _until(gateway, lambda now: now.connections <= clients / 2 + 10)
        await _until(gateway, lambda now: now.connections <= 10)


def _summary(stats: ProcessStats) -> str:
    return (
        f"{stats.connections} connections, {stats.tasks} tasks, "
        f"{stats.descriptors} descriptors, {stats.rss_mib:.1f} MiB"
    )


async def _until(gateway: Gateway, condition: Callable[[ProcessStats], bool]) -> ProcessStats:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition(stats := await gateway.stats()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"after {DEADLINE_S} s there are still {_summary(stats)}")
        await asyncio.sleep(0.1)
    return stats


async def proxied(folder: Path, *, reloads: int, log: Log = no_log, **shape: int) -> Verdict:
    """Reload a real nginx in front of the gateway under load."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(gateway_at(folder))
        server = stack.enter_context(nginx.nginx_before(gateway.port, folder=folder))
        it = await stack.enter_async_context(
            load(gateway.url, folder, proxied_url=server.url, **({"sdk_writers": 2} | shape))
        )
        for number in range(1, reloads + 1):
            await asyncio.sleep(1)
            await asyncio.to_thread(server.reload)
            await asyncio.sleep(1.5)  # until the old workers have cut their connections
            it.check_alive()
            log(f"reload {number}/{reloads}: {it.acknowledged()} records acknowledged")
        verdict = await it.finish()
        if any(reader.view.connections < 2 for reader in it.readers):
            verdict.count("contradictions", "a reload of nginx did not cut every connection")
        return verdict
