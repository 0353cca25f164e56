"""What this gateway has to reach, beside what others do, in under five minutes: `make bench-quick`.

Every figure is the median of interleaved runs on this machine; what is quoted are ratios.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version

from benchmarks.load import Load, Measured, median, resident_kib
from benchmarks.peers.servers import SERVERS, running
from benchmarks.stores import (
    append_many_streams,
    append_pipelined,
    append_through_sdk,
    run_as_server,
)

LOAD_CPU = 1
HERE, PLAIN, NCHAN = "here, sqlite full", "Starlette + uvicorn, a queue each", "nchan (C)"
BY_NAME = {each.name: each for each in SERVERS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quick", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each figure (default 3)")
    runs = parser.parse_args(arguments).runs
    os.sched_setaffinity(0, {LOAD_CPU})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    packages = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "starlette", "uvloop"))
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores, {packages}\n")
    print("| what | here | others | ratio | to reach |")
    print("|---|---|---|---|---|")
    for row in (_fan_out, _growth, _bundled, _throttled, _latency, _appends, _idle, _catch_up):
        for cells in row(runs):
            print("| " + " | ".join(cells) + " |", flush=True)


Scenario = Callable[[Load, list[int]], Measured]


def _measure(name: str, subscribers: int, scenario: Scenario, throttle_ms: int = 0) -> Measured:
    with running(BY_NAME[name], throttle_ms) as (port, pids, speaking):
        load = Load(port, speaking)
        load.connect(subscribers)
        try:
            load.in_turn(10, pids)  # warm
            return scenario(load, pids)
        finally:
            load.close()


def _medians(
    names: Sequence[str],
    runs: int,
    subscribers: int,
    scenario: Scenario,
    of: Callable[[Measured], float],
) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(runs):
        for name in names:
            taken[name].append(of(_measure(name, subscribers, scenario)))
    return {name: median(values) for name, values in taken.items()}


def _there(*names: str) -> list[str]:
    return [name for name in names if not BY_NAME[name].missing]


_per_cpu_s: dict[int, float] = {}


def _fan_out(runs: int) -> list[list[str]]:
    """One record a frame, to everybody, one record after the other."""
    rows = []
    for subscribers, records, least in ((1000, 150, "2.5"), (5000, 30, "3.5")):
        names = _there(HERE, PLAIN, NCHAN)
        found = _medians(
            names,
            runs,
            subscribers,
            lambda load, pids, records=records: load.in_turn(records, pids),
            lambda measured: measured.per_cpu_s,
        )
        _per_cpu_s[subscribers] = here = found.pop(HERE)
        others = "; ".join(f"{name} {rate:,.0f}" for name, rate in found.items())
        ratios = "; ".join(f"{here / rate:.2f}" for rate in found.values())
        what = f"deliveries per server CPU-second, {subscribers:,} subscribers"
        rows.append([what, f"{here:,.0f}", others, ratios, f"{least} times the first; above nchan"])
    return rows


def _growth(runs: int) -> list[list[str]]:
    small = _medians(
        [HERE], runs, 100, lambda load, pids: load.in_turn(800, pids), lambda it: it.per_cpu_s
    )[HERE]
    factor = small / _per_cpu_s[5000]
    what = "cost of a delivery at 5,000 subscribers to that at 100"
    return [[what, f"{factor:.2f}", "", "", "within 1.5"]]


def _bundled(runs: int) -> list[list[str]]:
    found = _medians(
        [HERE],
        runs,
        1000,
        lambda load, pids: load.at_rate(3000, 1000, pids),
        lambda it: it.per_cpu_s,
    )[HERE]
    return [
        [
            "1,000 records/s to 1,000 subscribers, records per CPU-second",
            f"{found:,.0f}",
            "",
            "",
            "1 M",
        ]
    ]


def _throttled(runs: int) -> list[list[str]]:
    rates = [
        _measure(HERE, 1000, lambda load, pids: load.at_rate(15_000, 5000, pids), 50).per_cpu_s
        for _ in range(runs)
    ]
    what = "5,000 records/s to 1,000 subscribers in windows of 50 ms, records per CPU-second"
    return [[what, f"{median(rates):,.0f}", "", "", "15 M"]]


def _latency(runs: int) -> list[list[str]]:
    rows = []
    taken: dict[str, list[Measured]] = {HERE: [], PLAIN: []}
    for _ in range(runs):
        for name, measured in taken.items():
            measured.append(_measure(name, 100, lambda load, pids: load.at_rate(400, 100, pids)))
    for percent in (50, 99):
        here, plain = (median([it.latency_ms(percent) for it in taken[n]]) for n in (HERE, PLAIN))
        what = f"append to receive, 100 subscribers, 100 records/s, p{percent} in ms"
        other = f"{PLAIN}, no store {plain:.1f}"
        rows.append([what, f"{here:.1f}", other, f"{here / plain:.2f}", "below 1"])
    return rows


def _appends(runs: int) -> list[list[str]]:
    rows = []
    for what, scenario, url, least in (
        ("one stream, full", append_pipelined, "sqlite:{folder}/b.db", "100 k"),
        ("one stream, normal", append_pipelined, "sqlite:{folder}/b.db?durability=normal", "150 k"),
        ("10,000 streams, full", append_many_streams, "sqlite:{folder}/b.db", "50 k"),
        ("through the SDK, full", append_through_sdk, "sqlite:{folder}/b.db", "50 k"),
    ):
        found = median([run_as_server(scenario(url)) for _ in range(runs)])
        rows.append([f"durable appends a second, {what}", f"{found:,.0f}", "", "", least])
    return rows


def _idle(runs: int) -> list[list[str]]:
    found = {}
    for name in _there(HERE, PLAIN):
        with running(BY_NAME[name]) as (port, pids, speaking):
            first, rest = Load(port, speaking), Load(port, speaking)
            first.connect(200)
            time.sleep(0.5)
            before = resident_kib(pids)
            rest.connect(2000)
            time.sleep(0.5)
            found[name] = (resident_kib(pids) - before) / 2000
            first.close()
            rest.close()
    what = "KiB an idle connection with a subscription"
    ratio = found[HERE] / found[PLAIN]
    return [[what, f"{found[HERE]:.1f}", f"{PLAIN} {found[PLAIN]:.1f}", f"{ratio:.2f}", "24"]]


def _catch_up(runs: int) -> list[list[str]]:
    records = 200_000
    rates = []
    for _ in range(runs):
        with running(BY_NAME[HERE]) as (port, _, speaking):
            writer = Load(port, speaking)
            writer.connect(1)
            for start in range(0, records, 1000):
                writer.publish(start, 1000)
                while writer.received <= start:
                    writer.drain(1.0)
            behind = [each.replace(b'"latest"', b'"beginning"') for each in speaking.greeting]
            reader = Load(port, replace(speaking, greeting=behind))
            began = time.perf_counter()
            reader.connect(1)
            while reader.received < records - 1000:  # the first come with the answer
                reader.drain(1.0)
            rates.append(records / (time.perf_counter() - began))
            writer.close()
            reader.close()
    what = "catch-up from SQLite, records a second to one client"
    return [[what, f"{median(rates):,.0f}", "", "", "200 k"]]


if __name__ == "__main__":
    main()
