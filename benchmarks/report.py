"""Results of measurements: interleaved runs, the table, and the JSON file."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import SubprocessError
from typing import TypeVar

from benchmarks.machine import progress

T = TypeVar("T")
HEAD = (
    "| scenario | measured | server | median | range (runs) | CPU of the load |\n"
    "|---|---|---|---|---|---|"
)
FAILURES = (
    OSError,
    RuntimeError,
    SubprocessError,
)  # errors of a server that fails under the load; TimeoutError is an OSError


@dataclass(frozen=True)
class Effort:
    """How much time a measurement may take.

    Attributes:
        runs: Number of runs; a result is their median.
        share: Share of the records to send. A small share is for trying the tools out.
        group_s: Time limit of a group of interleaved measurements, in seconds. On a slow or busy
            machine a group has fewer runs, and the table shows how many.
    """

    runs: int = 3
    share: float = 1.0
    group_s: float = math.inf

    def records(self, count: int) -> int:
        """Return the number of records to send, where the full measurement sends `count`."""
        return max(2, round(count * self.share))


@dataclass(frozen=True)
class Result:
    """One result of one server.

    Attributes:
        scenario: The name of the scenario.
        what: The measured quantity, with its unit.
        server: The server, store or client.
        values: One value for each run; empty if the server failed.
        load_share: The load generator's share of a core; None without a load generator.
        x: The position on a plot's x axis, for example the number of subscribers.
        note: A remark, for example the error of a server that failed.
    """

    scenario: str
    what: str
    server: str
    values: tuple[float, ...]
    load_share: float | None = None
    x: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the runs."""
        return median(self.values)

    def row(self) -> str:
        """Return the result as a row of the table."""
        if not self.values:
            return f"| {self.scenario} | {self.what} | {self.server} | none | {self.note} | |"
        low, high = number(min(self.values)), number(max(self.values))
        span = f"{low} to {high} ({len(self.values)})"
        note = f" ({self.note})" if self.note else ""
        share = "" if self.load_share is None else f"{self.load_share:.0%}"
        middle = number(self.median)
        return (
            f"| {self.scenario} | {self.what}{note} | {self.server} | {middle} | {span} | {share} |"
        )


def median(values: Sequence[float]) -> float:
    """Return the median, or NaN without values."""
    return statistics.median(values) if values else float("nan")


def number(value: float) -> str:
    """Format a number with at least three significant digits."""
    return (
        f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    )


def interleaved(
    what: str, effort: Effort, measures: Mapping[str, Callable[[], T]]
) -> tuple[dict[str, list[T]], dict[str, str]]:
    """Run measurements in turn: each once, then each a second time, and so on.

    Interleaving spreads the machine's other load over all of them. A measurement that fails is
    skipped in the following rounds.

    Args:
        what: A label for progress messages.
        effort: The number of rounds, and the time limit.
        measures: The measurements by name.

    Returns:
        The values by name, and the errors of failed measurements by name.
    """
    taken: dict[str, list[T]] = {name: [] for name in measures}
    failed: dict[str, str] = {}
    began = time.monotonic()
    for turn in range(1, effort.runs + 1):
        passed = time.monotonic() - began
        if turn > 1 and passed * turn / (turn - 1) > effort.group_s:
            progress(f"{what}: stopped after {turn - 1} of {effort.runs} runs, {passed:.0f} s")
            break
        for name, measure in measures.items():
            if name in failed:
                continue
            progress(f"{what}: {name}, run {turn} of {effort.runs}")
            try:
                taken[name].append(measure())
            except FAILURES as error:
                failed[name] = f"{type(error).__name__}: {error}"
                progress(f"{what}: {name} failed: {failed[name]}")
    return taken, failed


def save(results: Iterable[Result], machine: str, path: Path) -> None:
    """Write results to a JSON file."""
    content = {"machine": machine, "results": [asdict(each) for each in results]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def load(path: Path) -> list[Result]:
    """Read results from a file that `save` wrote."""
    content = json.loads(path.read_text())
    return [Result(**{**each, "values": tuple(each["values"])}) for each in content["results"]]
