"""`python -m tests.tools.faults`: run every scenario in its long form, and print the totals.

The exit code is 1 if a record was lost, repeated or out of order, or if a client did not recover.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support.faults import cluster, large, scenarios, valkey
from tests.support.faults.history import Verdict

Scenario = Callable[[Path, scenarios.Log], Awaitable[Verdict]]

KILLS = 50
STOPS = 10
REPEATS = 5  # of scenarios that run again with another store or another setup
SLOW_S = 40.0
RELOADS = 5
MAX_SCENARIO_S = 240.0
LARGE_RUNS = 1_000_000
LARGE_STREAM_MB = 1_000

SCENARIOS: dict[str, Scenario] = {
    "kills": lambda folder, log: scenarios.kills(folder, times=KILLS, log=log),
    "stops": lambda folder, log: scenarios.stops(folder, times=STOPS, log=log),
    "paused": lambda folder, log: scenarios.paused(folder, log=log),
    "half open": lambda folder, log: scenarios.half_open(folder, log=log),
    "dropped": lambda folder, log: scenarios.dropped(folder, log=log),
    "slow": lambda folder, log: scenarios.slow(folder, for_s=SLOW_S, log=log),
    "vanished": lambda folder, log: scenarios.vanished(folder, log=log),
    "redis kills": lambda folder, log: cluster.over_redis(
        scenarios.kills, folder, times=REPEATS, log=log
    ),
    "redis stops": lambda folder, log: cluster.over_redis(
        scenarios.stops, folder, times=REPEATS, log=log
    ),
    "redis paused": lambda folder, log: cluster.over_redis(scenarios.paused, folder, log=log),
    "redis half open": lambda folder, log: cluster.over_redis(scenarios.half_open, folder, log=log),
    "redis dropped": lambda folder, log: cluster.over_redis(scenarios.dropped, folder, log=log),
    "redis slow": lambda folder, log: cluster.over_redis(
        scenarios.slow, folder, for_s=SLOW_S / 4, log=log
    ),
    "redis vanished": lambda folder, log: cluster.over_redis(scenarios.vanished, folder, log=log),
    "server killed": lambda folder, log: valkey.killed(folder, times=REPEATS, log=log),
    "server still": lambda folder, log: valkey.frozen(folder, log=log),
    "server cut off": lambda folder, log: valkey.network_cut(folder, log=log),
    "one of two": lambda folder, log: cluster.kills(folder, times=STOPS, log=log),
    "affinity": lambda folder, log: cluster.kills(
        folder, times=REPEATS, has_affinity=True, log=log
    ),
    "rolling": lambda folder, log: cluster.rolling(folder, rounds=RELOADS, log=log),
    "large file": lambda folder, log: large.large(
        folder, runs=LARGE_RUNS, stream_mb=LARGE_STREAM_MB, log=log
    ),
    "nginx": lambda folder, log: scenarios.proxied(folder, reloads=RELOADS, log=log),
}


async def run(names: list[str]) -> list[tuple[str, Verdict]]:
    """Run scenarios one after the other, and return their verdicts."""
    verdicts = []
    for name in names:
        began_s = time.monotonic()

        def log(text: str, name: str = name, began_s: float = began_s) -> None:
            print(f"{name:<15}{time.monotonic() - began_s:6.1f} s  {text}", flush=True)

        with tempfile.TemporaryDirectory(prefix="realtime-faults-") as folder:
            try:
                async with asyncio.timeout(MAX_SCENARIO_S):
                    verdict = await SCENARIOS[name](Path(folder), log)
            except Exception as error:
                verdict = Verdict()
                verdict.count("contradictions", f"{type(error).__name__}: {error}")
        log(str(verdict))
        for fault in verdict.faults[:20]:
            log(f"  {fault}")
        verdicts.append((name, verdict))
    return verdicts


def main() -> int:
    """Run the named scenarios, or all, and print the totals."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.faults", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"default all: {', '.join(SCENARIOS)}")
    names = parser.parse_args().scenario or list(SCENARIOS)
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    began_s = time.monotonic()
    verdicts = [verdict for _, verdict in asyncio.run(run(names))]
    total = {
        name: sum(getattr(verdict, name) for verdict in verdicts)
        for name in ("records", "readers", "deliveries", "kills", "stops", "losses", "repeats")
    }
    faults = sum(len(verdict.faults) for verdict in verdicts)
    print(", ".join(f"{name} {count}" for name, count in total.items()), end="")
    print(f", other faults {faults - total['losses'] - total['repeats']}", end="")
    print(f"; {time.monotonic() - began_s:.0f} s", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
