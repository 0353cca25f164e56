"""High rate: 1,000 and 5,000 records a second to 1,000 subscribers, throttled up to 100 ms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.load_generator import Load, Measurement
from benchmarks.peers.servers import BY_NAME, HERE_FULL, NATS
from benchmarks.report import Effort, Result, interleaved, median
from benchmarks.scenarios.fan_out import available, once

NAME = "high-rate"
SUBSCRIBERS = 1000
RATES = (1000, 5000)  # records a second
THROTTLES_MS = (0, 10, 50, 100)
RATED_S = 3.0
PEER_RATE = 1000  # NATS is measured at this rate too; it has no throttle


def measure(effort: Effort) -> Iterator[Result]:
    """Measure every rate with every throttle window, and one peer without a throttle."""
    for per_s in RATES:
        windows = [(HERE_FULL, throttle_ms) for throttle_ms in THROTTLES_MS]
        if per_s == PEER_RATE:
            windows += [(each.name, 0) for each in available([BY_NAME[NATS]])]
        yield from measure_at(effort, per_s, windows)


def measure_at(
    effort: Effort, per_s: int, windows: Sequence[tuple[str, int]], rated_s: float = RATED_S
) -> Iterator[Result]:
    """Measure one rate.

    Args:
        effort: Runs, share of the records, time limit.
        per_s: Records a second.
        windows: Servers and their throttle windows in ms.
        rated_s: Duration in seconds.
    """
    records = effort.records(round(per_s * rated_s))

    def scenario(load: Load, pids: Sequence[int]) -> Measurement:
        return load.at_rate(records, per_s, pids)

    measures = {
        f"{name}, {throttle_ms} ms": partial(
            once, BY_NAME[name], SUBSCRIBERS, scenario, throttle_ms
        )
        for name, throttle_ms in windows
    }
    what = f"{per_s:,} records/s to {SUBSCRIBERS:,}"
    taken, failed = interleaved(what, effort, measures)
    for (name, throttle_ms), (key, runs) in zip(windows, taken.items(), strict=True):
        share = median([each.load_share for each in runs]) if runs else None
        label = f"{what} subscribers, throttle {throttle_ms} ms"
        rates = tuple(each.per_cpu_s for each in runs)
        note = failed.get(key, "")
        yield Result(
            NAME, f"{label}: records per CPU-second", name, rates, share, throttle_ms, note
        )
        for percent in (50, 99) if runs else ():
            times = tuple(each.latency_ms(percent) for each in runs)
            yield Result(NAME, f"{label}: p{percent} in ms", name, times, share, throttle_ms)
