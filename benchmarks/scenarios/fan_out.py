"""Fan-out: one stream to many subscribers, interleaved with other servers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from benchmarks.load_generator import Load, Measurement, resident_kib
from benchmarks.machine import describe_machine, prepare, progress
from benchmarks.peers.servers import BY_NAME, HERE_MEMORY, SERVERS, Server, running
from benchmarks.report import HEAD, Effort, Result, interleaved, median

NAME = "fan-out"
WARM_UP = 10  # records
SIZES = (  # subscribers, records sent flat out, records a second for latency
    (1, 1500, 100.0),
    (100, 800, 100.0),
    (1000, 120, 20.0),
    (5000, 40, 4.0),
)
RATED_S = 2.0  # duration of the fixed rate
# Servers with a limit of subscribers; with more, connecting or delivering takes minutes.
AT_MOST = {"python-socketio": 1000, "websockets.broadcast": 1000, HERE_MEMORY: 1000}
MANY = 5000  # with so many subscribers, their memory is measured too
FIRST = 200  # subscribers that are not counted: they include one-time costs
SETTLING_S = 0.5
T = TypeVar("T")


def measure(effort: Effort) -> Iterator[Result]:
    """Measure 1, 100, 1,000 and 5,000 subscribers, flat out and at a fixed rate.

    With 5,000 subscribers, the memory of idle connections is measured too.
    """
    for subscribers, records, per_s in SIZES:
        servers = [
            each
            for each in available(SERVERS)
            if subscribers <= AT_MOST.get(each.name, subscribers)
        ]
        yield from measure_at(effort, servers, subscribers, records, per_s)


def measure_at(
    effort: Effort, servers: Sequence[Server], subscribers: int, records: int, per_s: float
) -> Iterator[Result]:
    """Measure servers with one number of subscribers.

    Args:
        effort: Runs, share of the records, time limit.
        servers: The servers.
        subscribers: Subscribers of the one stream.
        records: Records sent flat out at full effort.
        per_s: Records a second of the fixed rate; 0 skips that measurement.
    """
    flat_out, rated = effort.records(records), effort.records(round(per_s * RATED_S))

    def both(load: Load, pids: Sequence[int]) -> tuple[Measurement, Measurement | None, float]:
        flat = load.closed_loop(flat_out, pids)
        timed = load.at_rate(rated, per_s, pids) if per_s else None
        return flat, timed, load.kib_a_connection

    what = f"{subscribers:,} subscriber{'s' if subscribers > 1 else ''}"
    taken, failed = interleaved(
        what, effort, {each.name: partial(once, each, subscribers, both) for each in servers}
    )
    for each in servers:
        runs = taken[each.name]
        yield _result(
            f"{what}, flat out: deliveries per server CPU-second",
            each.name,
            [flat for flat, _, _ in runs],
            subscribers,
            lambda it: it.per_cpu_s,
            failed.get(each.name, ""),
        )
        if subscribers >= MANY and runs:
            label = f"{subscribers:,} connections with a subscription each: KiB per connection"
            yield Result("idle-connections", label, each.name, tuple(kib for _, _, kib in runs))
        timed = [it for _, it, _ in runs if it]
        for percent in (50, 99) if timed else ():
            yield _result(
                f"{what}, {per_s:g} records/s: p{percent} in ms",
                each.name,
                timed,
                subscribers,
                lambda it, percent=percent: it.latency_ms(percent),
            )


def _result(
    what: str,
    server: str,
    runs: Sequence[Measurement],
    x: float,
    of: Callable[[Measurement], float],
    note: str = "",
) -> Result:
    values = tuple(of(each) for each in runs)
    share = median([each.load_share for each in runs]) if runs else None
    return Result(NAME, what, server, values, share, x, note)


def once(
    server: Server,
    subscribers: int,
    scenario: Callable[[Load, Sequence[int]], T],
    throttle_ms: int = 0,
) -> T:
    """Start a server, connect subscribers, warm up, and run a scenario."""
    with running(server, throttle_ms) as (port, pids, protocol):
        load = Load(port, protocol)
        try:
            _connect(load, subscribers, pids)
            load.closed_loop(WARM_UP, pids)
            return scenario(load, pids)
        finally:
            load.close()


def _connect(load: Load, subscribers: int, pids: Sequence[int]) -> None:
    if subscribers < MANY:
        load.connect(subscribers)
        return
    load.add(FIRST)
    time.sleep(SETTLING_S)
    before = resident_kib(pids)
    load.connect(subscribers - FIRST)
    time.sleep(SETTLING_S)
    load.kib_a_connection = (resident_kib(pids) - before) / (subscribers - FIRST)


def available(servers: Sequence[Server]) -> list[Server]:
    """Return the installed servers, and print the others as progress."""
    for each in servers:
        if each.missing:
            progress(f"{each.name}: not installed ({each.missing})")
    return [each for each in servers if not each.missing]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenarios.fan_out", description=__doc__
    )
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", type=float, help="records a second; default: flat out")
    parser.add_argument(
        "--throttle-ms", type=int, default=0, help="throttle of subscriptions, this gateway only"
    )
    parser.add_argument("--only", help="only servers whose name contains this")
    chosen = parser.parse_args(arguments)
    prepare()
    print(f"{describe_machine()}\n\n{HEAD}")

    def scenario(load: Load, pids: Sequence[int]) -> Measurement:
        if chosen.rate:
            return load.at_rate(chosen.records, chosen.rate, pids)
        return load.closed_loop(chosen.records, pids)

    names = [each.name for each in available(SERVERS) if (chosen.only or "") in each.name]
    counted = (chosen.subscribers, scenario, chosen.throttle_ms)
    measures = {name: partial(once, BY_NAME[name], *counted) for name in names}
    what = f"{chosen.subscribers:,} subscribers"
    taken, failed = interleaved(what, Effort(chosen.runs), measures)
    for name, runs in taken.items():
        for measured, of in (
            ("deliveries per server CPU-second", lambda it: it.per_cpu_s),
            ("p50 in ms", lambda it: it.latency_ms(50)),
            ("p99 in ms", lambda it: it.latency_ms(99)),
        ):
            note = failed.get(name, "")
            print(_result(f"{what}: {measured}", name, runs, 0, of, note).row(), flush=True)


if __name__ == "__main__":
    main()
