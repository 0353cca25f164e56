"""One stream to many subscribers, beside other servers, in turn in the same run."""

from __future__ import annotations

import argparse
import os
import resource
from collections.abc import Sequence

from benchmarks.load import Load, Measured, median
from benchmarks.peers.servers import SERVERS, Server, running

LOAD_CPU = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fan_out", description=__doc__)
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", type=float, help="records a second; default: in turn")
    parser.add_argument("--throttle-ms", type=int, default=0, help="of subscriptions, here only")
    parser.add_argument("--only", help="servers whose names contain this")
    chosen = parser.parse_args(arguments)
    os.sched_setaffinity(0, {LOAD_CPU})
    _allow_files(chosen.subscribers + 500)
    servers = [each for each in SERVERS if (chosen.only or "") in each.name]
    for each in servers:
        if each.missing:
            print(f"{each.name}: not here ({each.missing})")
    taken: dict[str, list[Measured]] = {}
    for _ in range(chosen.runs):
        for each in servers:
            if not each.missing:
                once = _measure(each, chosen)
                taken.setdefault(each.name, []).append(once)
    _print(taken, chosen.subscribers)


def _measure(server: Server, chosen: argparse.Namespace) -> Measured:
    with running(server, chosen.throttle_ms) as (port, pids, speaking):
        load = Load(port, speaking)
        load.connect(chosen.subscribers)
        try:
            load.in_turn(10, pids)  # warm
            if chosen.rate:
                return load.at_rate(chosen.records, chosen.rate, pids)
            return load.in_turn(chosen.records, pids)
        finally:
            load.close()


def _print(taken: dict[str, list[Measured]], subscribers: int) -> None:
    print(f"\n{subscribers:,} subscribers\n")
    print("| server | deliveries per server CPU-second | range | p50 ms | p99 ms | load's CPU |")
    print("|---|---|---|---|---|---|")
    for name, runs in taken.items():
        rates = [each.per_cpu_s for each in runs]
        p50, p99 = (median([each.latency_ms(at) for each in runs]) for at in (50, 99))
        share = median([each.load_cpu_s / each.wall_s for each in runs])
        print(
            f"| {name} | {median(rates):,.0f} | {min(rates):,.0f} to {max(rates):,.0f} "
            f"| {p50:.1f} | {p99:.1f} | {share:.0%} |",
            flush=True,
        )


def _allow_files(count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(count * 2, 4096)), hard))


if __name__ == "__main__":
    main()
