"""What was measured: figures, how they are gathered in turn, and the table of them."""

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
)  # of a server that does not bear it; TimeoutError is one


@dataclass(frozen=True)
class Effort:
    """How much is put into a figure.

    Attributes:
        runs: Of each figure; of interleaved runs the median is taken.
        share: Of the records that are sent for it; small ones are for trying the tools out.
        group_s: How long servers that are measured in turn may take together: on a machine that is
            too slow or too busy there are fewer runs, and the table says so.
    """

    runs: int = 3
    share: float = 1.0
    group_s: float = math.inf

    def records(self, count: int) -> int:
        """Return how many records are sent where the full measure sends so many."""
        return max(2, round(count * self.share))


@dataclass(frozen=True)
class Figure:
    """One figure of one server.

    Attributes:
        scenario: The name of the command that measures it.
        what: What was measured, with its unit.
        server: Which server, store or client.
        values: Of each run; none when it did not bear the load.
        load_share: Of a core that the load generator took; None where there is none.
        at: Where it stands in a plot, for example the number of subscribers.
        note: What is to be known of it.
    """

    scenario: str
    what: str
    server: str
    values: tuple[float, ...]
    load_share: float | None = None
    at: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the runs."""
        return median(self.values)

    def row(self) -> str:
        """Return it as a row of the table."""
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
    """Return the median; of nothing, nan."""
    return statistics.median(values) if values else float("nan")


def number(value: float) -> str:
    """Write a number with three figures or more."""
    return (
        f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    )


def interleaved(
    what: str, effort: Effort, measures: Mapping[str, Callable[[], T]]
) -> tuple[dict[str, list[T]], dict[str, str]]:
    """Take every measure in turn, so often; one that fails is left out from then on.

    Args:
        what: Is being measured, for the progress.
        effort: How often, and how long at most.
        measures: By name.

    Returns:
        What each gave, and why those that failed did.
    """
    taken: dict[str, list[T]] = {name: [] for name in measures}
    failed: dict[str, str] = {}
    began = time.monotonic()
    for turn in range(1, effort.runs + 1):
        passed = time.monotonic() - began
        if turn > 1 and passed * turn / (turn - 1) > effort.group_s:
            progress(f"{what}: {turn - 1} of {effort.runs} runs, which took {passed:.0f} s")
            break
        for name, measure in measures.items():
            if name in failed:
                continue
            progress(f"{what}: {name}, run {turn} of {effort.runs}")
            try:
                taken[name].append(measure())
            except FAILURES as error:
                failed[name] = f"{type(error).__name__}: {error}"
                progress(f"{what}: {name} did not bear it: {failed[name]}")
    return taken, failed


def save(figures: Iterable[Figure], machine: str, path: Path) -> None:
    """Write figures to a file of JSON."""
    content = {"machine": machine, "figures": [asdict(each) for each in figures]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def load(path: Path) -> list[Figure]:
    """Read figures from a file that `save` wrote."""
    content = json.loads(path.read_text())
    return [Figure(**{**each, "values": tuple(each["values"])}) for each in content["figures"]]
