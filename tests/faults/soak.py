"""`python -m tests.faults.soak`: a moderate load for long; memory has to stay flat.

Prints the gateway's memory each 30 s, fits a line through it after a warm-up, and ends with 1 if
it rises by more than LIMIT_KIB_PER_MIN, or if anything was lost or repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.history import Verdict
from faults.load import load
from faults.process import Figures, Gateway, gateway_at

LIMIT_KIB_PER_MIN = 256.0  # 15 MiB an hour; the allocator's own wandering is some ten KiB
WARM_UP_S = 240.0  # rings and SQLite's cache fill, the allocator settles
GENERATION_S = 10.0  # a load lives so long, then its streams end and another comes
SAMPLE_S = 5.0
PRINT_S = 30.0
SHAPE = {"streams": 4, "raw_writers": 4, "sdk_writers": 2, "readers": 20}


async def soak(folder: Path, for_s: float) -> tuple[list[tuple[float, Figures]], list[Verdict]]:
    """Put load after load on one gateway: streams, writers and readers come and go."""
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
) -> list[tuple[float, Figures]]:
    samples: list[tuple[float, Figures]] = []
    printed_s = -PRINT_S
    try:
        while True:
            at_s = time.monotonic() - began_s
            now = await gateway.figures()
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


def slope_kib_per_min(samples: list[tuple[float, Figures]]) -> float:
    """Fit a line through what comes after the warm-up."""
    late = [(at_s, now.rss_mib) for at_s, now in samples if at_s >= WARM_UP_S]
    times, sizes = zip(*late, strict=True)
    return statistics.linear_regression(times, sizes).slope * 60 * 1024


def main() -> int:
    """Soak, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
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
