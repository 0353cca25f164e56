"""One stream to many subscribers, beside other servers, in turn in the same run."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from benchmarks.load_generator import Load, Measured, resident_kib
from benchmarks.machine import described, prepare, progress
from benchmarks.peers.servers import BY_NAME, HERE_MEMORY, SERVERS, Server, running
from benchmarks.report import HEAD, Effort, Figure, interleaved, median

NAME = "fan-out"
WARM = 10  # records before anything is measured
SIZES = (  # subscribers, records flat out, records a second for latency
    (1, 1500, 100.0),
    (100, 800, 100.0),
    (1000, 120, 20.0),
    (5000, 40, 4.0),
)
RATED_S = 2.0  # how long records come at the fixed rate
# Who is asked for no more subscribers, since connecting or delivering would take minutes.
AT_MOST = {"python-socketio": 1000, "websockets.broadcast": 1000, HERE_MEMORY: 1000}
MANY = 5000  # subscribers from which on their memory is measured too
FIRST = 200  # of them, which are not counted: what is loaded for the first is no cost of the last
SETTLING_S = 0.5
T = TypeVar("T")


def measure(effort: Effort) -> Iterator[Figure]:
    """Measure 1, 100, 1,000 and 5,000 subscribers, flat out and at a fixed rate.

    With 5,000 their memory while nothing comes is measured on the way.
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
) -> Iterator[Figure]:
    """Measure some servers with one number of subscribers.

    Args:
        effort: How much is put into it.
        servers: Which ones, in turn.
        subscribers: Of the one stream.
        records: Sent flat out, of the full effort.
        per_s: Records a second of the fixed rate; 0 leaves that out.
    """
    flat_out, rated = effort.records(records), effort.records(round(per_s * RATED_S))

    def both(load: Load, pids: Sequence[int]) -> tuple[Measured, Measured | None, float]:
        flat = load.in_turn(flat_out, pids)
        timed = load.at_rate(rated, per_s, pids) if per_s else None
        return flat, timed, load.kib_a_connection

    what = f"{subscribers:,} subscriber{'s' if subscribers > 1 else ''}"
    taken, failed = interleaved(
        what, effort, {each.name: partial(once, each, subscribers, both) for each in servers}
    )
    for each in servers:
        runs = taken[each.name]
        yield _figure(
            f"{what}, flat out: deliveries per server CPU-second",
            each.name,
            [flat for flat, _, _ in runs],
            subscribers,
            lambda it: it.per_cpu_s,
            failed.get(each.name, ""),
        )
        if subscribers >= MANY and runs:
            label = f"{subscribers:,} connections with a subscription each: KiB a connection"
            yield Figure("idle-connections", label, each.name, tuple(kib for _, _, kib in runs))
        timed = [it for _, it, _ in runs if it]
        for percent in (50, 99) if timed else ():
            yield _figure(
                f"{what}, {per_s:g} records/s: p{percent} in ms",
                each.name,
                timed,
                subscribers,
                lambda it, percent=percent: it.latency_ms(percent),
            )


def _figure(
    what: str,
    server: str,
    runs: Sequence[Measured],
    at: float,
    of: Callable[[Measured], float],
    note: str = "",
) -> Figure:
    values = tuple(of(each) for each in runs)
    share = median([each.load_share for each in runs]) if runs else None
    return Figure(NAME, what, server, values, share, at, note)


def once(
    server: Server,
    subscribers: int,
    scenario: Callable[[Load, Sequence[int]], T],
    throttle_ms: int = 0,
) -> T:
    """Start a server, connect subscribers, warm up, and have them measured."""
    with running(server, throttle_ms) as (port, pids, speaking):
        load = Load(port, speaking)
        try:
            _connect(load, subscribers, pids)
            load.in_turn(WARM, pids)
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
    """Leave out what is not installed, and tell so."""
    for each in servers:
        if each.missing:
            progress(f"{each.name}: not here ({each.missing})")
    return [each for each in servers if not each.missing]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenarios.fan_out", description=__doc__
    )
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rate", type=float, help="records a second; default: in turn")
    parser.add_argument("--throttle-ms", type=int, default=0, help="of subscriptions, here only")
    parser.add_argument("--only", help="servers whose names contain this")
    chosen = parser.parse_args(arguments)
    prepare()
    print(f"{described()}\n\n{HEAD}")

    def scenario(load: Load, pids: Sequence[int]) -> Measured:
        if chosen.rate:
            return load.at_rate(chosen.records, chosen.rate, pids)
        return load.in_turn(chosen.records, pids)

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
            print(_figure(f"{what}: {measured}", name, runs, 0, of, note).row(), flush=True)


if __name__ == "__main__":
    main()
