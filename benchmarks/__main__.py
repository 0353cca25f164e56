"""Append, read and fan-out, side by side over the stores. Figures and how to read them: README.md.

Each figure is the median of `--runs` interleaved runs; what is compared is the ratio in one run's
table, not a number from another machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import gateway
from gateway import streams, task, tokens
from gateway.records import StreamKey
from gateway.runs import Run
from gateway.settings import open_store
from gateway.stores.base import Store

RECORD = b'{"current":12345,"total":100000,"status":"a record of about one hundred bytes, in all"}'
STORES = {
    "memory": "memory:",
    "sqlite normal": "sqlite:{folder}/n.db?durability=normal",
    "sqlite full": "sqlite:{folder}/f.db",
}
KEY = StreamKey("run_1", "progress")

lines = streams.define("lines", str)


@task
async def append_many(count: int) -> int:
    """Append without awaiting, as a task does."""
    for number in range(count):
        lines.append(f"record {number} of about one hundred bytes: {'x' * 60}")
        if number % 1000 == 0:
            await asyncio.sleep(0)
    return count


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """Open a fresh store with one run."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(url.format(folder=folder))
        await store.open()
        await store.create_run(Run(KEY.run_id, "bench", "queued", KEY.run_id, "now"))
        try:
            yield store
        finally:
            await store.close()


async def append_one_at_a_time(url: str, count: int = 1000) -> float:
    """Records a second when each waits for the one before."""
    async with opened(url) as store:
        began = time.perf_counter()
        for _ in range(count):
            await store.append(KEY, [RECORD])
        return count / (time.perf_counter() - began)


async def append_pipelined(url: str, count: int = 20_000, under_way: int = 1000) -> float:
    """Records a second with 1,000 appends of one record under way."""
    async with opened(url) as store:
        began = time.perf_counter()
        for _ in range(count // under_way):
            await asyncio.gather(*(store.append(KEY, [RECORD]) for _ in range(under_way)))
        return count / (time.perf_counter() - began)


async def append_through_sdk(url: str, count: int = 50_000) -> float:
    """Records a second from a task's `append` to durable."""
    with tempfile.TemporaryDirectory() as folder:
        async with gateway.connect(store=url.format(folder=folder)):
            began = time.perf_counter()
            result = await append_many.trigger_and_wait(count)
            assert result.output == count
            return count / (time.perf_counter() - began)


async def read_back(url: str, count: int = 50_000) -> float:
    """Records a second of one reader catching up."""
    async with opened(url) as store:
        for _ in range(count // 1000):
            await store.append(KEY, [RECORD] * 1000)
        began, got, after = time.perf_counter(), 0, None
        while not (page := await store.read(KEY, after)).is_empty:
            got, after = got + len(page.records), page.position
        assert got == count
        return count / (time.perf_counter() - began)


async def live_through_runs(url: str, count: int = 400, under_way: int = 50) -> float:
    """Changes of runs a second: each run has a tag and a parent, is made, changed and ended."""
    patches = ({"status": "executing"}, {"metadata": {"step": 1}}, {"status": "completed"})

    async def live(store: Store, number: int) -> None:
        id = f"run_child{number}"
        await store.create_run(
            Run(id, "bench", "queued", KEY.run_id, "now", ["nightly"], parent_id=KEY.run_id)
        )
        for patch in patches:
            await store.patch_run(id, patch)

    async with opened(url) as store:
        began = time.perf_counter()
        for start in range(0, count, under_way):
            await asyncio.gather(*(live(store, start + i) for i in range(under_way)))
        return count * (1 + len(patches)) / (time.perf_counter() - began)


SCENARIOS: dict[str, Callable[[str], Awaitable[float]]] = {
    "append, one at a time": append_one_at_a_time,
    "append, 1,000 under way": append_pipelined,
    "append through the SDK": append_through_sdk,
    "read back": read_back,
    "changes of runs with a tag": live_through_runs,
}


def measure_stores(runs: int) -> None:
    """Print records a second of every scenario over every store."""
    print("| records a second | " + " | ".join(STORES) + " | full / memory |")
    print("|---|" + "---|" * (len(STORES) + 1))
    for name, scenario in SCENARIOS.items():
        taken: dict[str, list[float]] = {store: [] for store in STORES}
        for _ in range(runs):
            for store, url in STORES.items():
                taken[store].append(asyncio.run(scenario(url)))  # type: ignore[arg-type]
        medians = {store: statistics.median(values) for store, values in taken.items()}
        ratio = medians["sqlite full"] / medians["memory"]
        row = " | ".join(f"{value:,.0f}" for value in medians.values())
        print(f"| {name} | {row} | {ratio:.2f} |", flush=True)


# ---- fan-out: the gateway in a process of its own, the readers in this one ----


@asynccontextmanager
async def gateway_process(secret_key: str) -> AsyncIterator[tuple[str, int]]:
    """Run a gateway over SQLite on a free port; gives its address and process id."""
    with tempfile.TemporaryDirectory() as folder:
        port = 8790
        env = {**os.environ, "REALTIME_SECRET_KEY": secret_key}
        store = f"sqlite:{folder}/bench.db"
        command = [sys.executable, "-m", "gateway", "serve", "--port", str(port), "--store", store]
        process = await asyncio.create_subprocess_exec(*command, "--log-level", "error", env=env)
        try:
            yield f"ws://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            await process.wait()


async def fan_out(readers: int, records: int, pause_s: float) -> tuple[float, float, float, float]:
    """Append durably to one stream that many read.

    Returns:
        Median and 99th percentile of append to receive in ms, deliveries a second of the server's
        CPU time, and deliveries a second.
    """
    from benchmarks.readers import read_all

    secret_key = "benchmark-secret-" * 3
    async with (
        gateway_process(secret_key) as (url, pid),
        gateway.connect(url, secret_key=secret_key),
    ):
        run = await wait_for_records.trigger(records, pause_s)
        token = tokens.mint([f"read:runs:{run.id}"])
        return await read_all(url, pid, run.id, token, readers, records)


@task
async def wait_for_records(records: int, pause_s: float) -> int:
    """Append the time, once the readers are there."""
    await asyncio.sleep(3)
    for _ in range(records):
        lines.append(f"{time.time():.6f} {'x' * 70}")
        await asyncio.sleep(pause_s)
    return records


def measure_fan_out(runs: int) -> None:
    """Print latency and deliveries of the gateway over `sqlite:` with full durability."""
    print("\n| readers | records/s | p50 ms | p99 ms | deliveries/s | per server CPU-second |")
    print("|---|---|---|---|---|---|")
    for readers, records, pause_s in ((1, 300, 0.01), (100, 300, 0.01), (500, 200, 0.02)):
        taken = [asyncio.run(fan_out(readers, records, pause_s)) for _ in range(runs)]
        p50, p99, per_cpu, rate = (statistics.median(column) for column in zip(*taken, strict=True))
        print(
            f"| {readers} | {1 / pause_s:.0f} | {p50:.1f} | {p99:.1f} "
            f"| {rate:,.0f} | {per_cpu:,.0f} |",
            flush=True,
        )


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each figure (default 3)")
    parser.add_argument("--only", choices=["stores", "fan-out"], help="measure only this")
    chosen = parser.parse_args()
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores\n"
    )
    if chosen.only != "fan-out":
        measure_stores(chosen.runs)
    if chosen.only != "stores":
        measure_fan_out(chosen.runs)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
