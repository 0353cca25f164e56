"""What this gateway has to reach, beside what others do, in under five minutes: `make bench-quick`.

Every figure is the median of interleaved runs on this machine; what is quoted are ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.machine import described, prepare, progress
from benchmarks.peers.servers import BY_NAME, FLOOR, HERE_FULL, NCHAN, PLAIN
from benchmarks.report import Effort, Figure, interleaved, median, number
from benchmarks.scenarios import (
    catch_up,
    fan_out,
    high_rate,
    http_appends,
    scaling,
    slow_readers,
)
from benchmarks.scenarios.fan_out import available
from benchmarks.scenarios.store_appends import (
    append_begun,
    append_many_streams,
    append_one_at_a_time,
    append_pipelined,
    append_through_sdk,
    in_process,
)

FULL, NORMAL = "sqlite:{folder}/b.db", "sqlite:{folder}/b.db?durability=normal"

FLOOR_AT = 1000  # subscribers
TOTAL_S = 285.0  # of all, so that a busy machine has fewer runs rather than more minutes


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: Is measured, with its unit.
        here: What came of it.
        goal: What has to be reached, in words.
        others: What came of others, by name.
        is_reached: Whether here is good enough.
    """

    what: str
    here: float
    goal: str
    others: dict[str, float]
    is_reached: bool

    def __str__(self) -> str:
        others = "; ".join(f"{name} {number(value)}" for name, value in self.others.items())
        ratios = "; ".join(f"{self.here / value:.2f}" for value in self.others.values() if value)
        verdict = "yes" if self.is_reached else "**no**"
        cells = (self.what, number(self.here), others, ratios, self.goal, verdict)
        return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each figure (default 3)")
    effort = Effort(parser.parse_args(arguments).runs)
    prepare()
    began = time.monotonic()
    print(f"{described()}\n")
    print("| what | here | others | ratio | to reach | reached |")
    print("|---|---|---|---|---|---|")
    # Seconds that each takes on a quiet machine; what is left of the total is shared out by them.
    parts = {
        fan_outs: 110.0,
        bundled: 26.0,
        latency: 26.0,
        appends: 18.0,
        http: 18.0,
        catch_ups: 32.0,
        slow_tenth: 50.0,
        lengths: 5.0,
    }
    left = sum(parts.values())
    for rows, seconds in parts.items():
        due_s = (TOTAL_S - (time.monotonic() - began)) * seconds / left
        for row in rows(replace(effort, group_s=due_s)):
            print(row, flush=True)
        left -= seconds
    taken_s = time.monotonic() - began
    print(f"\nMedians of up to {effort.runs} runs; {taken_s:.0f} s.")
    progress("done")


def by_server(figures: Sequence[Figure], part: str) -> dict[str, float]:
    """Return the medians of the figures whose label holds a text, by server."""
    return {each.server: each.median for each in figures if part in each.what and each.values}


def fan_outs(effort: Effort) -> Iterator[Row]:
    """One record a frame, to everybody, one record after the other; memory while nothing comes."""
    there = available([BY_NAME[name] for name in (HERE_FULL, PLAIN, NCHAN, FLOOR)])
    per_cpu_s = {}
    for subscribers, records, least, share in ((1000, 100, 2.5, 0.35), (5000, 20, 3.5, 0.55)):
        put_in = replace(effort, group_s=effort.group_s * share)
        servers = [it for it in there if it.name != FLOOR or subscribers == FLOOR_AT]
        figures = list(fan_out.measure_at(put_in, servers, subscribers, records, 0))
        found = by_server(figures, "flat out")
        per_cpu_s[subscribers] = here = found.pop(HERE_FULL)
        above = found.get(NCHAN, 0.0)
        what = f"deliveries per server CPU-second, {subscribers:,} subscribers"
        goal = f"above nchan, at least {least} times Starlette + uvicorn"
        reached = here > above and here >= least * found[PLAIN]
        yield Row(what, here, goal, found, reached)
        if FLOOR in found:
            ratio = here / found[FLOOR]
            yield Row("the same to that of the floor", ratio, "0.9 in the end", {}, ratio >= 0.9)
        if idle := by_server(figures, "KiB"):
            kib = idle.pop(HERE_FULL)
            what = "KiB an idle connection with a subscription, of 5,000"
            yield Row(what, kib, "24 or less", idle, kib <= 24)
    put_in = replace(effort, group_s=effort.group_s * 0.1)
    few = list(fan_out.measure_at(put_in, [BY_NAME[HERE_FULL]], 100, 1500, 0))
    factor = few[0].median / per_cpu_s[5000]
    what = "cost of a delivery at 5,000 subscribers to that at 100"
    yield Row(what, factor, "within 1.5", {}, factor <= 1.5)


def bundled(effort: Effort) -> Iterator[Row]:
    """Fast streams, joined in frames."""
    effort = replace(effort, group_s=effort.group_s / 2)
    for per_s, throttle_ms, least in ((1000, 0, 1e6), (5000, 50, 15e6)):
        figures = list(high_rate.measure_at(effort, per_s, [(HERE_FULL, throttle_ms)]))
        here = by_server(figures, "CPU-second").get(HERE_FULL, float("nan"))
        what = f"{per_s:,} records/s to 1,000 subscribers, throttle {throttle_ms} ms: "
        goal = f"at least {least / 1e6:g} M"
        yield Row(f"{what}records per CPU-second", here, goal, {}, here >= least)


def latency(effort: Effort) -> Iterator[Row]:
    """From the append to the arrival, beside a server that keeps nothing."""
    servers = [BY_NAME[HERE_FULL], BY_NAME[PLAIN]]
    figures = list(fan_out.measure_at(effort, servers, 100, 50, 100.0))
    for percent in (50, 99):
        found = by_server(figures, f"p{percent}")
        here = found.pop(HERE_FULL)
        what = f"append to receive, 100 subscribers, 100 records/s, p{percent} in ms"
        yield Row(what, here, "below it, durably", found, here < found[PLAIN])


def appends(effort: Effort) -> Iterator[Row]:
    """Durable appends into SQLite: awaited, and begun as a gateway does it, without a task each."""
    store = {
        "one stream, 1,000 under way, full": (append_pipelined, FULL, 100_000),
        "one stream, 1,000 under way, normal": (append_pipelined, NORMAL, 150_000),
        "one stream, 1,000 begun, full": (append_begun, FULL, 100_000),
        "one stream, 1,000 begun, normal": (append_begun, NORMAL, 150_000),
        "10,000 streams, full": (append_many_streams, FULL, 50_000),
        "through the SDK, full": (append_through_sdk, FULL, 0),
        "one in flight, full": (append_one_at_a_time, FULL, 0),
    }
    measures: dict[str, Callable[[], float]] = {
        name: partial(in_process, partial(scenario, url))
        for name, (scenario, url, _) in store.items()
    }
    taken, _ = interleaved("durable appends", effort, measures)
    found = {name: median(values) for name, values in taken.items()}
    in_flight = found.pop("one in flight, full")
    for name, here in found.items():
        least = store[name][2] or found["one stream, 1,000 under way, full"] / 2
        goal = f"{least:,.0f}" if store[name][2] else "half of the store's, in the same run"
        yield Row(f"durable appends/s, {name}", here, goal, {}, here >= least)
    what = "durable append, one in flight, full: ms"
    yield Row(what, 1000 / in_flight, "0.3 as measured before", {}, in_flight >= 1000 / 0.35)


def http(effort: Effort) -> Iterator[Row]:
    """Appends over HTTP beside the reference server."""
    figures = list(http_appends.measure_at(replace(effort, share=0.5), 1))
    found = by_server(figures, "appends/s")
    here = found.pop(HERE_FULL)
    reached = bool(found) and here >= 10 * max(found.values())
    what = "durable appends/s over HTTP, 32 clients"
    yield Row(what, here, "10 times the reference's", found, reached)


def catch_ups(effort: Effort) -> Iterator[Row]:
    """One client alone; a crowd beside live readers, in one run since it takes long."""
    here = catch_up.alone(replace(effort, group_s=effort.group_s * 0.4)).median
    what = "catch-up from SQLite, records/s to one client"
    yield Row(what, here, "200,000", {}, here >= 200_000)
    figures = list(catch_up.crowd(replace(effort, runs=1)))
    rate = by_server(figures, "records/s").get(HERE_FULL, float("nan"))
    yield Row(f"{catch_up.WHAT}: records/s to all", rate, "", {}, rate > 0)
    quiet = by_server(figures, "p99 in ms, before").get(HERE_FULL, float("nan"))
    tail = by_server([it for it in figures if it.what.endswith("p99 in ms")], "p99")
    here = tail.get(HERE_FULL, float("nan"))
    what = f"{catch_up.WHAT}: live readers' p99 in ms"
    yield Row(what, here, "under 50", {"before": quiet}, here < 50)


def slow_tenth(effort: Effort) -> Iterator[Row]:
    """Readers that keep up, with and without a slow tenth beside them."""
    figures = list(slow_readers.measure(effort))
    tails = [it.median for it in figures if "p99 in ms" in it.what]
    ratio = next((it.median for it in figures if "to that" in it.what), float("nan"))
    what = "others' p99 with a slow tenth of the readers, in ms"
    others = {"without": tails[0]}
    yield Row(what, tails[1], "at most 1.1 times", others, ratio <= 1.1)


def lengths(effort: Effort) -> Iterator[Row]:
    """A long stream costs what a short one does."""
    sizes = (10_000, 1_000_000)
    figures = list(scaling.lengths(replace(effort, runs=1), sizes))
    for label, what, least_ratio in (
        ("appends/s", "appends/s at 1,000,000 records in the stream", 0.8),
        ("MiB", "resident MiB at 1,000,000 records in the stream", 0.0),
    ):
        short, long = (it.median for it in figures if label in it.what)
        flat = long >= least_ratio * short if least_ratio else long <= 1.1 * short
        yield Row(what, long, "as at 10,000", {"at 10,000": short}, flat)


if __name__ == "__main__":
    main()
