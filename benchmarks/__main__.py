"""Measure every scenario, or one of them. README.md explains the results.

Each result is the median of interleaved runs. Compare ratios within one table, not numbers from
different machines. Progress goes to standard error, the table to standard output.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import targets
from benchmarks.machine import describe_machine, prepare, progress
from benchmarks.report import HEAD, Effort, Result, save
from benchmarks.scenarios import (
    browser,
    catch_up,
    cold_start,
    fan_out,
    high_rate,
    http_appends,
    idle_connections,
    many_streams,
    scaling,
    slow_readers,
    store_appends,
)

COMMANDS: dict[str, tuple[str, Callable[[Effort], Iterator[Result]]]] = {
    "fan-out": ("one stream to 1, 100, 1,000 and 5,000 subscribers", fan_out.measure),
    "many-streams": ("1,000 streams with one subscriber each", many_streams.measure),
    "high-rate": ("1,000 and 5,000 records a second, throttled", high_rate.measure),
    "catch-up": ("1,000 clients resume 10,000 records behind", catch_up.measure),
    "store-appends": ("every store, and a remote worker", store_appends.measure),
    "http-appends": ("32 clients over HTTP, with the reference server", http_appends.measure),
    "idle-connections": ("memory per connection at 5,000", idle_connections.measure),
    "cold-start": ("imports, start, installed bytes", cold_start.measure),
    "slow-readers": ("latency while a tenth of the readers is slow", slow_readers.measure),
    "scaling": ("more subscribers, longer streams", scaling.measure),
    "browser": ("10,000 records a second into a page", browser.measure),
}
# In a complete run, some scenarios measure less: their results come from another scenario, or they
# take long and vary little between runs.
IN_ALL: dict[str, Callable[[Effort], Iterator[Result]]] = {
    "idle-connections": lambda _: iter(()),  # fan-out measures it
    "scaling": lambda effort: scaling.lengths(replace(effort, runs=1), scaling.LENGTHS),
    "browser": lambda effort: browser.measure(replace(effort, runs=1)),
}
# Time limits of interleaved groups in seconds, so that a complete run ends within 25 minutes.
GROUP_S = {
    "fan-out": 130.0,
    "many-streams": 130.0,
    "high-rate": 85.0,
    "catch-up": 80.0,
    "store-appends": 50.0,
    "slow-readers": 70.0,
}
OTHER_GROUP_S = 30.0


def main() -> None:
    """Parse the command line, measure, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each measurement (default 3)")
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="share of the records to send in each run; a small share is for trying it out",
    )
    parser.add_argument(
        "--into", type=Path, help="write results.md, results.json and results.svg to this folder"
    )
    commands = parser.add_subparsers(dest="command", title="scenarios (default: all)")
    for name, (description, _) in COMMANDS.items():
        commands.add_parser(name, help=description)
    commands.add_parser("targets", help="targets and whether they are reached: under 5 minutes")
    chosen = parser.parse_args()
    prepare()
    if chosen.command == "targets":
        targets.main(["--runs", str(chosen.runs)])
        return
    results: list[Result] = []
    machine = describe_machine()
    print(f"{machine}\n\n{HEAD}", flush=True)
    for result in _results(chosen.command, Effort(chosen.runs, chosen.share)):
        results.append(result)
        print(result.row(), flush=True)
        if chosen.into:  # after each result, so that an interruption loses nothing
            save(results, machine, chosen.into / "results.json")
    if chosen.into:
        from benchmarks.plot import draw

        rows = "\n".join(each.row() for each in results)
        (chosen.into / "results.md").write_text(f"# Results\n\n{machine}\n\n{HEAD}\n{rows}\n")
        draw(results, chosen.into / "results.svg")
    progress("done")


def _results(command: str | None, effort: Effort) -> Iterator[Result]:
    if command:
        yield from COMMANDS[command][1](effort)
        return
    for name, (_, measure) in COMMANDS.items():
        progress(f"---- {name}")
        try:
            limited = replace(effort, group_s=GROUP_S.get(name, OTHER_GROUP_S))
            yield from IN_ALL.get(name, measure)(limited)
        except Exception as error:  # continue with the other scenarios
            progress(f"{name}: {type(error).__name__}: {error}")
            yield Result(name, "all", "", (), None, None, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
