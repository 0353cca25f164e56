"""Store appends: append and read with every store, and through a remote worker."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection

import uvloop

import gateway
from benchmarks.machine import LOAD_CPU, SERVER_CPU
from benchmarks.peers.redis_servers import fresh, redis_server
from benchmarks.peers.servers import BY_NAME, HERE_FULL, SECRET, as_worker, running
from benchmarks.report import Effort, Result, interleaved
from gateway import streams, task
from gateway.model.log import Appended
from gateway.model.records import StreamKey
from gateway.model.runs import Run
from gateway.server.serve import tune_gc
from gateway.stores.base import Store
from gateway.stores.factory import open_store

NAME = "store-appends"
RECORD = b'{"current":12345,"total":100000,"status":"a record of about one hundred bytes, in all"}'
STORES = {
    "memory": "memory:",
    "sqlite normal": "sqlite:{folder}/n.db?durability=normal",
    "sqlite full": "sqlite:{folder}/f.db",
    "redis everysec": "everysec",  # a separate server with this `appendfsync`
    "redis always": "always",
    "remote worker, sqlite full": "ws:",  # a worker of a gateway in another process
}
KEY = StreamKey("run_1", "progress")
NOW = "2026-01-01T00:00:00.000Z"  # when runs were created; any valid time will do

lines = streams.define("lines", str)


@task
async def append_many(count: int) -> int:
    """Append without awaiting, as tasks do."""
    for number in range(count):
        lines.append(f"record {number} of about one hundred bytes: {'x' * 60}")
        if number % 1000 == 0:
            await asyncio.sleep(0)
    return count


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """Open a new store with one run. A URL `ws:…` opens a gateway's store as a worker does."""
    if url.startswith("ws:"):
        async with as_worker(int(url.rpartition(":")[2])) as store:
            await store.create_run(Run(KEY.run_id, "bench", "executing", KEY.run_id, NOW))
            yield store
        return
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(url.format(folder=folder))
        await store.open()
        await store.create_run(Run(KEY.run_id, "bench", "queued", KEY.run_id, NOW))
        try:
            yield store
        finally:
            await store.close()


async def append_one_at_a_time(url: str, count: int = 1000) -> float:
    """Return records a second when each append waits for the one before."""
    async with opened(url) as store:
        began = time.perf_counter()
        for _ in range(count):
            await store.append(KEY, [RECORD])
        return count / (time.perf_counter() - began)


async def append_pipelined(url: str, count: int = 50_000, in_flight: int = 1000) -> float:
    """Return records a second with 1,000 appends of one record in flight."""
    async with opened(url) as store:
        began = time.perf_counter()
        for _ in range(count // in_flight):
            await asyncio.gather(*(store.append(KEY, [RECORD]) for _ in range(in_flight)))
        return count / (time.perf_counter() - began)


async def append_begun(url: str, count: int = 50_000, in_flight: int = 1000) -> float:
    """Return records a second with `begin_append`, 1,000 at a time, as a gateway uses it."""
    async with opened(url) as store:
        began = time.perf_counter()
        for _ in range(count // in_flight):
            outcomes: list[Appended | Exception] = []
            are_done = asyncio.Event()
            done = partial(_collect, outcomes, in_flight, are_done)
            for _ in range(in_flight):
                store.begin_append(KEY, [RECORD], done)
            await are_done.wait()
            failed = [each for each in outcomes if isinstance(each, Exception)]
            if failed:
                raise failed[0]
        return count / (time.perf_counter() - began)


def _collect(
    outcomes: list[Appended | Exception],
    count: int,
    are_done: asyncio.Event,
    outcome: Appended | Exception,
) -> None:
    outcomes.append(outcome)
    if len(outcomes) == count:
        are_done.set()


async def append_through_sdk(url: str, count: int = 50_000) -> float:
    """Return records a second of a task's `append`, until all records are durable."""
    with tempfile.TemporaryDirectory() as folder:
        where = {"url": url} if url.startswith("ws:") else {"store": url.format(folder=folder)}
        async with gateway.connect(**where, secret_key=SECRET):
            began = time.perf_counter()
            result = await append_many.trigger_and_wait(count)
            assert result.output == count
            return count / (time.perf_counter() - began)


async def read_back(url: str, count: int = 50_000) -> float:
    """Return records a second of one reader that catches up."""
    async with opened(url) as store:
        for _ in range(count // 1000):
            await store.append(KEY, [RECORD] * 1000)
        began, got, after = time.perf_counter(), 0, None
        while not (page := await store.read(KEY, after)).is_empty:
            got, after = got + len(page.records), page.position
        assert got == count
        return count / (time.perf_counter() - began)


async def change_runs(url: str, count: int = 400, in_flight: int = 50) -> float:
    """Return changes of runs a second. Each run has a tag and a parent and is changed 3 times."""
    patches = ({"status": "executing"}, {"metadata": {"step": 1}}, {"status": "completed"})

    async def live(store: Store, number: int) -> None:
        id = f"run_child{number}"
        await store.create_run(
            Run(id, "bench", "queued", KEY.run_id, NOW, ["nightly"], parent_id=KEY.run_id)
        )
        for patch in patches:
            await store.patch_run(id, patch)

    async with opened(url) as store:
        began = time.perf_counter()
        for start in range(0, count, in_flight):
            await asyncio.gather(*(live(store, start + i) for i in range(in_flight)))
        return count * (1 + len(patches)) / (time.perf_counter() - began)


async def append_hundred_streams(url: str, count: int = 20_000) -> float:
    """Return records a second with ten appends in flight on each of 100 streams."""
    async with opened(url) as store:
        keys = [StreamKey(KEY.run_id, f"s{number}") for number in range(100)] * 10
        await asyncio.gather(*(store.append(key, [RECORD]) for key in keys))  # creates the streams
        began = time.perf_counter()
        for _ in range(count // len(keys)):
            await asyncio.gather(*(store.append(key, [RECORD]) for key in keys))
        return count / (time.perf_counter() - began)


async def append_many_streams(url: str, streams: int = 10_000, rounds: int = 2) -> float:
    """Return records a second with one append in flight on each of many streams."""
    async with opened(url) as store:
        keys = [StreamKey(KEY.run_id, f"s{number}") for number in range(streams)]
        await asyncio.gather(*(store.append(key, [RECORD]) for key in keys))  # creates the streams
        began = time.perf_counter()
        for _ in range(rounds):
            await asyncio.gather(*(store.append(key, [RECORD]) for key in keys))
        return streams * rounds / (time.perf_counter() - began)


async def follow_many_streams(url: str, streams: int = 10_000, in_flight: int = 500) -> float:
    """Return records a second from append to follower, with one on each of many streams."""
    async with opened(url) as store:
        keys = [StreamKey(KEY.run_id, f"s{number}") for number in range(streams)]
        for start in range(0, streams, in_flight):
            batch = keys[start : start + in_flight]
            await asyncio.gather(*(store.append(key, [RECORD]) for key in batch))
        following = [store.follow(key) for key in keys]
        for start in range(0, streams, in_flight):
            await asyncio.gather(*(anext(pages) for pages in following[start : start + in_flight]))
        next_pages = [asyncio.ensure_future(anext(pages)) for pages in following]
        await asyncio.sleep(0.1)
        began = time.perf_counter()
        for start in range(0, streams, in_flight):
            batch = keys[start : start + in_flight]
            await asyncio.gather(*(store.append(key, [RECORD]) for key in batch))
        await asyncio.gather(*next_pages)
        taken = time.perf_counter() - began
        for pages in following:
            await pages.aclose()
        return streams / taken


SCENARIOS: dict[str, Callable[[str], Awaitable[float]]] = {
    "append, one at a time": append_one_at_a_time,
    "append, 1,000 in flight on one stream": append_pipelined,
    "append, 1,000 begun on one stream": append_begun,
    "append, 10 in flight on each of 100 streams": append_hundred_streams,
    "append, one on each of 10,000 streams": append_many_streams,
    "delivered on each of 10,000 followed streams": follow_many_streams,
    "append through the SDK": append_through_sdk,
    "read back": read_back,
    "changes of runs with a tag": change_runs,
}


ONCE = (follow_many_streams, change_runs)  # one run only, because they take long
NOT_REMOTE = (change_runs,)  # its runs have no owner: a gateway would end them as crashed


def run_as_server(work: Awaitable[float]) -> float:
    """Run with the event loop and the garbage collector's settings of the gateway's server."""

    async def with_settings() -> float:
        tune_gc()
        return await work

    return uvloop.run(with_settings())


def in_process(work: Callable[[], Awaitable[float]], cpu: int = SERVER_CPU) -> float:
    """Run in a new process on one core, so that earlier measurements have no effect.

    Raises:
        RuntimeError: the work failed, or the process ended.
    """
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_run, args=(work, cpu, there))
    process.start()
    there.close()
    try:
        found: float | str = here.recv()
    except EOFError:
        found = "the process ended"
    process.join()
    if isinstance(found, str):
        raise RuntimeError(found)
    return found


def _run(work: Callable[[], Awaitable[float]], cpu: int, answer: Connection) -> None:
    os.sched_setaffinity(0, {cpu})
    try:
        answer.send(run_as_server(work()))
    except Exception as error:
        answer.send(f"{type(error).__name__}: {error}")


def measure(effort: Effort) -> Iterator[Result]:
    """Measure records a second of every scenario with every store.

    The store runs on one core, Valkey on the other. With a remote worker, the gateway runs on the
    first core and the worker on the second.
    """
    with ExitStack() as stack:
        servers = {sync: stack.enter_context(redis_server(sync)) for sync in ("everysec", "always")}
        stores = {name: servers.get(url, url) for name, url in STORES.items()}
        for what, scenario in SCENARIOS.items():
            measures = {
                name: partial(_once, scenario, url)
                for name, url in stores.items()
                if not (url.startswith("ws:") and scenario in NOT_REMOTE)
            }
            limited = replace(effort, runs=1) if scenario in ONCE else effort
            taken, failed = interleaved(what, limited, measures)
            for name, values in taken.items():
                note = failed.get(name, "")
                yield Result(NAME, f"{what}, records/s", name, tuple(values), None, None, note)


def _once(scenario: Callable[[str], Awaitable[float]], url: str) -> float:
    if not url.startswith("ws:"):
        return in_process(partial(scenario, fresh(url)))
    with running(BY_NAME[HERE_FULL]) as (port, _, _):
        return in_process(partial(scenario, f"ws://127.0.0.1:{port}"), LOAD_CPU)
