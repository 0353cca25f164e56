"""`python -m tests.faults`: every scenario in its long form, and a last line of figures.

Ends with 1 if anything was lost, repeated or out of order, or did not recover.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults import cluster, large, scenarios, valkey
from faults.history import Verdict

Scenario = Callable[[Path, scenarios.Say], Awaitable[Verdict]]

KILLS = 50
STOPS = 10
AGAIN = 5  # of what is done once more, over another store or another way
SLOW_S = 40.0
RELOADS = 5
MAX_SCENARIO_S = 240.0
LARGE_RUNS = 1_000_000
LARGE_STREAM_MB = 1_000

SCENARIOS: dict[str, Scenario] = {
    "kills": lambda folder, say: scenarios.kills(folder, times=KILLS, say=say),
    "stops": lambda folder, say: scenarios.stops(folder, times=STOPS, say=say),
    "paused": lambda folder, say: scenarios.paused(folder, say=say),
    "half open": lambda folder, say: scenarios.half_open(folder, say=say),
    "dropped": lambda folder, say: scenarios.dropped(folder, say=say),
    "slow": lambda folder, say: scenarios.slow(folder, for_s=SLOW_S, say=say),
    "vanished": lambda folder, say: scenarios.vanished(folder, say=say),
    "redis kills": lambda folder, say: cluster.over_redis(
        scenarios.kills, folder, times=AGAIN, say=say
    ),
    "redis stops": lambda folder, say: cluster.over_redis(
        scenarios.stops, folder, times=AGAIN, say=say
    ),
    "redis paused": lambda folder, say: cluster.over_redis(scenarios.paused, folder, say=say),
    "redis half open": lambda folder, say: cluster.over_redis(scenarios.half_open, folder, say=say),
    "redis dropped": lambda folder, say: cluster.over_redis(scenarios.dropped, folder, say=say),
    "redis slow": lambda folder, say: cluster.over_redis(
        scenarios.slow, folder, for_s=SLOW_S / 4, say=say
    ),
    "redis vanished": lambda folder, say: cluster.over_redis(scenarios.vanished, folder, say=say),
    "server killed": lambda folder, say: valkey.killed(folder, times=AGAIN, say=say),
    "server still": lambda folder, say: valkey.still(folder, say=say),
    "server cut off": lambda folder, say: valkey.cut_off(folder, say=say),
    "one of two": lambda folder, say: cluster.kills(folder, times=STOPS, say=say),
    "affinity": lambda folder, say: cluster.kills(folder, times=AGAIN, has_affinity=True, say=say),
    "rolling": lambda folder, say: cluster.rolling(folder, rounds=RELOADS, say=say),
    "large file": lambda folder, say: large.large(
        folder, runs=LARGE_RUNS, stream_mb=LARGE_STREAM_MB, say=say
    ),
    "nginx": lambda folder, say: scenarios.proxied(folder, reloads=RELOADS, say=say),
}


async def run(names: list[str]) -> list[tuple[str, Verdict]]:
    """Run scenarios one after the other."""
    verdicts = []
    for name in names:
        began_s = time.monotonic()

        def say(text: str, name: str = name, began_s: float = began_s) -> None:
            print(f"{name:<15}{time.monotonic() - began_s:6.1f} s  {text}", flush=True)

        with tempfile.TemporaryDirectory(prefix="realtime-faults-") as folder:
            try:
                async with asyncio.timeout(MAX_SCENARIO_S):
                    verdict = await SCENARIOS[name](Path(folder), say)
            except Exception as error:
                verdict = Verdict()
                verdict.count("contradictions", f"{type(error).__name__}: {error}")
        say(str(verdict))
        for fault in verdict.faults[:20]:
            say(f"  {fault}")
        verdicts.append((name, verdict))
    return verdicts


def main() -> int:
    """Run what is asked for; say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
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
