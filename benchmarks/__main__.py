"""Everything that is measured here. Figures and how to read them: README.md.

Each figure is the median of interleaved runs; what is compared is the ratio in one run's table, not
a number from another machine. Progress goes to standard error, the table to standard output.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import targets
from benchmarks.machine import described, prepare, progress
from benchmarks.report import HEAD, Effort, Figure, save
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

COMMANDS: dict[str, tuple[str, Callable[[Effort], Iterator[Figure]]]] = {
    "fan-out": ("one stream to 1, 100, 1,000 and 5,000 subscribers", fan_out.measure),
    "many-streams": ("1,000 streams with one subscriber each", many_streams.measure),
    "high-rate": ("1,000 and 5,000 records a second, throttled", high_rate.measure),
    "catch-up": ("1,000 clients resume 10,000 records behind", catch_up.measure),
    "store-appends": ("every store, and a remote worker", store_appends.measure),
    "http-appends": ("32 clients over HTTP, beside the reference server", http_appends.measure),
    "idle-connections": ("memory a connection at 5,000", idle_connections.measure),
    "cold-start": ("imports, start, installed bytes", cold_start.measure),
    "slow-readers": ("a slow tenth of the readers", slow_readers.measure),
    "scaling": ("to more subscribers, to a longer stream", scaling.measure),
    "browser": ("10,000 records a second into a page", browser.measure),
}
# What others measure on the way, or what takes long and changes little from run to run.
IN_ALL: dict[str, Callable[[Effort], Iterator[Figure]]] = {
    "idle-connections": lambda _: iter(()),  # fan-out's
    "scaling": lambda effort: scaling.lengths(replace(effort, runs=1), scaling.LENGTHS),
    "browser": lambda effort: browser.measure(replace(effort, runs=1)),
}
# Seconds that what is measured in turn may take together, of all, so that all ends in 25 minutes.
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
    parser.add_argument("--runs", type=int, default=3, help="runs of each figure (default 3)")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the records of each run; small to try it out"
    )
    parser.add_argument(
        "--into", type=Path, help="write results.md, results.json and results.svg to this folder"
    )
    commands = parser.add_subparsers(dest="command", title="what is measured (default: all)")
    for name, (tells, _) in COMMANDS.items():
        commands.add_parser(name, help=tells)
    commands.add_parser("targets", help="what has to be reached, in under 5 minutes")
    chosen = parser.parse_args()
    prepare()
    if chosen.command == "targets":
        targets.main(["--runs", str(chosen.runs)])
        return
    figures: list[Figure] = []
    machine = described()
    print(f"{machine}\n\n{HEAD}", flush=True)
    for figure in _figures(chosen.command, Effort(chosen.runs, chosen.share)):
        figures.append(figure)
        print(figure.row(), flush=True)
        if chosen.into:  # each time, so that an interruption loses nothing
            save(figures, machine, chosen.into / "results.json")
    if chosen.into:
        from benchmarks.plot import draw

        rows = "\n".join(each.row() for each in figures)
        (chosen.into / "results.md").write_text(f"# Results\n\n{machine}\n\n{HEAD}\n{rows}\n")
        draw(figures, chosen.into / "results.svg")
    progress("done")


def _figures(command: str | None, effort: Effort) -> Iterator[Figure]:
    if command:
        yield from COMMANDS[command][1](effort)
        return
    for name, (_, measure) in COMMANDS.items():
        progress(f"---- {name}")
        try:
            limited = replace(effort, group_s=GROUP_S.get(name, OTHER_GROUP_S))
            yield from IN_ALL.get(name, measure)(limited)
        except Exception as error:  # the other scenarios go on
            progress(f"{name}: {type(error).__name__}: {error}")
            yield Figure(name, "all", "", (), None, None, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
