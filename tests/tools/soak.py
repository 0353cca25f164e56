"""`python -m tests.tools.soak`: a moderate load for ten minutes; memory must not grow.

Prints the gateway's memory every 30 s and fits a line through it after a warm-up. The exit code is
1 if the slope is above LIMIT_KIB_PER_MIN, or if a record was lost or repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from tests.support.faults.history import Verdict
from tests.support.faults.load import load
from tests.support.faults.process import Gateway, ProcessStats, gateway_at

LIMIT_KIB_PER_MIN = 256.0  # 15 MiB an hour; the allocator's noise is some ten KiB
WARM_UP_S = 240.0  # until rings and SQLite's cache are full and the allocator has settled
GENERATION_S = 10.0  # duration of one load; then its streams end and the next load starts
SAMPLE_S = 5.0
PRINT_S = 30.0
SHAPE = {"streams": 4, "raw_writers": 4, "sdk_writers": 2, "readers": 20}


async def soak(
    folder: Path, for_s: float
) -> tuple[list[tuple[float, ProcessStats]], list[Verdict]]:
    """Run one load after the other on one gateway, each with new streams and clients."""
    verdicts: list[Verdict] = []
    async with gateway_at(folder) as gateway:
        began_s = time.monotonic()
        watching = asyncio.create_task(_watch(gateway, began_s, verdicts))
        seed = 0
        while time.monotonic() - began_s < for_s:
            seed += 1
            async with load(gateway.url, folder, seed=seed, **SHAPE) as it:
                await asyncio.sleep(GENERATION_S)
                verdicts.append(await it.finish())
        watching.cancel()
        samples = (await asyncio.gather(watching, return_exceptions=True))[0]
        if isinstance(samples, BaseException):
            raise samples
        return samples, verdicts


async def _watch(
    gateway: Gateway, began_s: float, verdicts: list[Verdict]
) -> list[tuple[float, ProcessStats]]:
    samples: list[tuple[float, ProcessStats]] = []
    printed_s = -PRINT_S
    try:
        while True:
            at_s = time.monotonic() - began_s
            now = await gateway.stats()
            samples.append((at_s, now))
            if at_s - printed_s >= PRINT_S:
                printed_s = at_s
                records = sum(verdict.records for verdict in verdicts)
                print(
                    f"{at_s:6.0f} s  {now.rss_mib:7.2f} MiB  {now.descriptors} descriptors  "
                    f"{now.tasks} tasks  {records} records so far",
                    flush=True,
                )
            await asyncio.sleep(SAMPLE_S)
    except asyncio.CancelledError:
        return samples


def slope_kib_per_min(samples: list[tuple[float, ProcessStats]]) -> float:
    """Return the slope of a line fitted through the samples after the warm-up."""
    late = [(at_s, now.rss_mib) for at_s, now in samples if at_s >= WARM_UP_S]
    times, sizes = zip(*late, strict=True)
    return statistics.linear_regression(times, sizes).slope * 60 * 1024


def main() -> int:
    """Run the load, and print the result."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="realtime-soak-") as folder:
        samples, verdicts = asyncio.run(soak(Path(folder), minutes * 60))
    is_judged = minutes * 60 >= 1.5 * WARM_UP_S
    slope = slope_kib_per_min(samples) if is_judged else 0.0
    faults = [fault for verdict in verdicts for fault in verdict.faults]
    for fault in faults[:20]:
        print(fault)
    records, deliveries = (
        sum(getattr(verdict, name) for verdict in verdicts) for name in ("records", "deliveries")
    )
    print(
        f"{records} records, {deliveries} deliveries, {len(faults)} faults; "
        + (
            f"memory rises by {slope:.1f} KiB a minute (limit {LIMIT_KIB_PER_MIN:g})"
            if is_judged
            else f"too short to judge memory: the warm-up alone takes {WARM_UP_S:g} s"
        ),
        flush=True,
    )
    return 1 if faults or slope > LIMIT_KIB_PER_MIN else 0


if __name__ == "__main__":
    raise SystemExit(main())
