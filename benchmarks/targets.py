"""Targets for this gateway, measured together with peers in under five minutes: `make bench-quick`.

Each value is the median of interleaved runs on this machine. Targets are ratios to a peer where a
peer exists, because absolute numbers depend on the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.machine import describe_machine, prepare, progress
from benchmarks.peers.servers import BY_NAME, FLOOR, HERE_FULL, NCHAN, STARLETTE
from benchmarks.report import Effort, Result, interleaved, median, number
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
TOTAL_S = 285.0  # time limit; a busy machine makes fewer runs instead of taking longer


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        what: The measured quantity, with its unit.
        here: The value of this gateway.
        target: The target, in words.
        others: The values of peers, by name.
        is_reached: Whether `here` reaches the target.
    """

    what: str
    here: float
    target: str
    others: dict[str, float]
    is_reached: bool

    def __str__(self) -> str:
        others = "; ".join(f"{name} {number(value)}" for name, value in self.others.items())
        ratios = "; ".join(f"{self.here / value:.2f}" for value in self.others.values() if value)
        verdict = "yes" if self.is_reached else "**no**"
        cells = (self.what, number(self.here), others, ratios, self.target, verdict)
        return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each measurement (default 3)")
    effort = Effort(parser.parse_args(arguments).runs)
    prepare()
    began = time.monotonic()
    print(f"{describe_machine()}\n")
    print("| what | here | others | ratio | target | reached |")
    print("|---|---|---|---|---|---|")
    # Seconds that each part takes on an idle machine. The remaining time is divided in this ratio.
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


def by_server(results: Sequence[Result], part: str) -> dict[str, float]:
    """Return the medians of the results whose label contains `part`, by server."""
    return {each.server: each.median for each in results if part in each.what and each.values}


def fan_outs(effort: Effort) -> Iterator[Row]:
    """Measure fan-out with one record per frame, and the memory of idle connections."""
    there = available([BY_NAME[name] for name in (HERE_FULL, STARLETTE, NCHAN, FLOOR)])
    per_cpu_s = {}
    for subscribers, records, least, share in ((1000, 100, 2.5, 0.35), (5000, 20, 3.5, 0.55)):
        put_in = replace(effort, group_s=effort.group_s * share)
        servers = [it for it in there if it.name != FLOOR or subscribers == FLOOR_AT]
        results = list(fan_out.measure_at(put_in, servers, subscribers, records, 0))
        found = by_server(results, "flat out")
        per_cpu_s[subscribers] = here = found.pop(HERE_FULL)
        above = found.get(NCHAN, 0.0)
        what = f"deliveries per server CPU-second, {subscribers:,} subscribers"
        goal = f"above nchan, at least {least} times Starlette + uvicorn"
        reached = here > above and here >= least * found[STARLETTE]
        yield Row(what, here, goal, found, reached)
        if FLOOR in found:
            ratio = here / found[FLOOR]
            yield Row("the same, as a ratio to the floor", ratio, "0.9", {}, ratio >= 0.9)
        if idle := by_server(results, "KiB"):
            kib = idle.pop(HERE_FULL)
            what = "KiB an idle connection with a subscription, of 5,000"
            yield Row(what, kib, "24 or less", idle, kib <= 24)
    put_in = replace(effort, group_s=effort.group_s * 0.1)
    few = list(fan_out.measure_at(put_in, [BY_NAME[HERE_FULL]], 100, 1500, 0))
    factor = few[0].median / per_cpu_s[5000]
    what = "CPU per delivery at 5,000 subscribers, as a ratio to 100 subscribers"
    yield Row(what, factor, "at most 1.5", {}, factor <= 1.5)


def bundled(effort: Effort) -> Iterator[Row]:
    """Measure streams of high rate, whose records share frames."""
    effort = replace(effort, group_s=effort.group_s / 2)
    for per_s, throttle_ms, least in ((1000, 0, 1e6), (5000, 50, 15e6)):
        results = list(high_rate.measure_at(effort, per_s, [(HERE_FULL, throttle_ms)]))
        here = by_server(results, "CPU-second").get(HERE_FULL, float("nan"))
        what = f"{per_s:,} records/s to 1,000 subscribers, throttle {throttle_ms} ms: "
        goal = f"at least {least / 1e6:g} M"
        yield Row(f"{what}records per CPU-second", here, goal, {}, here >= least)


def latency(effort: Effort) -> Iterator[Row]:
    """Measure the time from append to receive, with a peer that stores nothing."""
    servers = [BY_NAME[HERE_FULL], BY_NAME[STARLETTE]]
    results = list(fan_out.measure_at(effort, servers, 100, 50, 100.0))
    for percent in (50, 99):
        found = by_server(results, f"p{percent}")
        here = found.pop(HERE_FULL)
        what = f"append to receive, 100 subscribers, 100 records/s, p{percent} in ms"
        yield Row(what, here, "below the peer's, durably", found, here < found[STARLETTE])


def appends(effort: Effort) -> Iterator[Row]:
    """Measure durable appends to SQLite, with `append` and with `begin_append`."""
    store = {
        "one stream, 1,000 in flight, full": (append_pipelined, FULL, 100_000),
        "one stream, 1,000 in flight, normal": (append_pipelined, NORMAL, 150_000),
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
        least = store[name][2] or found["one stream, 1,000 in flight, full"] / 2
        goal = f"{least:,.0f}" if store[name][2] else "half of the store's in this run"
        yield Row(f"durable appends/s, {name}", here, goal, {}, here >= least)
    what = "durable append, one in flight, full: ms"
    yield Row(what, 1000 / in_flight, "0.3, an earlier result", {}, in_flight >= 1000 / 0.35)


def http(effort: Effort) -> Iterator[Row]:
    """Measure appends over HTTP, together with the reference server."""
    results = list(http_appends.measure_at(replace(effort, share=0.5), 1))
    found = by_server(results, "appends/s")
    here = found.pop(HERE_FULL)
    reached = bool(found) and here >= 10 * max(found.values())
    what = "durable appends/s over HTTP, 32 clients"
    yield Row(what, here, "10 times the reference server's", found, reached)


def catch_ups(effort: Effort) -> Iterator[Row]:
    """Measure catch-up of one client, and of many clients while others read live.

    The second measurement has one run, because it takes long.
    """
    here = catch_up.one_client(replace(effort, group_s=effort.group_s * 0.4)).median
    what = "catch-up from SQLite, records/s to one client"
    yield Row(what, here, "200,000", {}, here >= 200_000)
    results = list(catch_up.many_clients(replace(effort, runs=1)))
    rate = by_server(results, "records/s").get(HERE_FULL, float("nan"))
    yield Row(f"{catch_up.WHAT}: records/s to all", rate, "", {}, rate > 0)
    quiet = by_server(results, "p99 in ms, before").get(HERE_FULL, float("nan"))
    tail = by_server([it for it in results if it.what.endswith("p99 in ms")], "p99")
    here = tail.get(HERE_FULL, float("nan"))
    what = f"{catch_up.WHAT}: live readers' p99 in ms"
    yield Row(what, here, "under 50", {"before": quiet}, here < 50)


def slow_tenth(effort: Effort) -> Iterator[Row]:
    """Measure readers that keep up, with and without a slow tenth of all readers."""
    results = list(slow_readers.measure(effort))
    tails = [it.median for it in results if "p99 in ms" in it.what]
    ratio = next((it.median for it in results if "to that" in it.what), float("nan"))
    what = "others' p99 with a slow tenth of the readers, in ms"
    others = {"without": tails[0]}
    yield Row(what, tails[1], "at most 1.1 times", others, ratio <= 1.1)


def lengths(effort: Effort) -> Iterator[Row]:
    """Measure appends and memory at two lengths of a stream."""
    sizes = (10_000, 1_000_000)
    results = list(scaling.lengths(replace(effort, runs=1), sizes))
    for label, what, least_ratio in (
        ("appends/s", "appends/s at 1,000,000 records in the stream", 0.8),
        ("MiB", "resident MiB at 1,000,000 records in the stream", 0.0),
    ):
        short, long = (it.median for it in results if label in it.what)
        flat = long >= least_ratio * short if least_ratio else long <= 1.1 * short
        yield Row(what, long, "as at 10,000", {"at 10,000": short}, flat)


if __name__ == "__main__":
    main()
