"""Plot results: `python -m benchmarks.plot RESULTS.json PLOT.svg`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

from benchmarks.report import Result, load

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "benchmarks"  # makes the file reproducible
matplotlib.rcParams["svg.fonttype"] = "none"  # text as text, not as outlines: smaller

from matplotlib import pyplot  # noqa: E402  # after the backend is set
from matplotlib.axes import Axes  # noqa: E402

HERE_WIDTH = 2.6  # line width of this gateway; others are thinner


def draw(results: Sequence[Result], path: Path) -> None:
    """Plot each panel that has results, and write an SVG file."""
    panels: list[tuple[str, Callable[[Axes, Sequence[Result]], bool]]] = [
        ("Deliveries per server CPU-second, one record each, flat out", _fan_out),
        ("Append to receive, 100 subscribers, 100 records/s: ms", _latency),
        ("Records per server CPU-second to 1,000 subscribers", _windows),
        ("Appends/s (SQLite, full) as the stream grows", _lengths),
    ]
    plot, axes = pyplot.subplots(2, 2, figsize=(13, 8.5), layout="constrained")
    for axis, (title, panel) in zip(axes.flat, panels, strict=True):
        axis.set_title(title, fontsize=11, loc="left")
        if panel(axis, results):
            axis.grid(alpha=0.3)
        else:
            axis.axis("off")
    plot.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(plot)


def _lines(axis: Axes, chosen: Sequence[Result], name: Callable[[Result], str]) -> bool:
    """Plot a line of medians for each name, with error bars for the range."""
    drawn = [each for each in chosen if each.values and each.x is not None]
    for label in dict.fromkeys(map(name, drawn)):
        points = sorted((it for it in drawn if name(it) == label), key=lambda it: it.x or 0)
        middle = [each.median for each in points]
        spans = [
            [each.median - min(each.values) for each in points],
            [max(each.values) - each.median for each in points],
        ]
        width = HERE_WIDTH if label.startswith("here") else 1.2
        places = [each.x or 0 for each in points]
        axis.errorbar(
            places, middle, spans, label=label, linewidth=width, marker="o", markersize=4, capsize=3
        )
    if drawn:
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return bool(drawn)


def _fan_out(axis: Axes, results: Sequence[Result]) -> bool:
    chosen = [it for it in results if it.scenario == "fan-out" and "flat out" in it.what]
    axis.set_xscale("log")
    axis.set_xlabel("subscribers")
    return _lines(axis, chosen, lambda it: it.server)


def _latency(axis: Axes, results: Sequence[Result]) -> bool:
    chosen = [it for it in results if it.scenario == "fan-out" and it.what.startswith("100 subs")]
    found = {
        percent: {it.server: it.median for it in chosen if f"p{percent} in ms" in it.what}
        for percent in (50, 99)
    }
    names = [name for name in found[50] if name in found[99]]
    for shift, percent in ((-0.2, 50), (0.2, 99)):
        places = [place + shift for place in range(len(names))]
        heights = [found[percent][name] for name in names]
        axis.barh(places, heights, 0.38, label=f"p{percent}")
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    if names:
        axis.legend(fontsize=8)
    return bool(names)


def _windows(axis: Axes, results: Sequence[Result]) -> bool:
    chosen = [it for it in results if it.scenario == "high-rate" and "CPU-second" in it.what]
    axis.set_xlabel("throttle in ms")
    return _lines(axis, chosen, lambda it: f"{it.server}, {_rate(it.what)}")


def _rate(what: str) -> str:
    found = re.match(r"[\d,]+ records/s", what)
    return found[0] if found else ""


def _lengths(axis: Axes, results: Sequence[Result]) -> bool:
    chosen = [it for it in results if it.scenario == "scaling" and "appends/s" in it.what]
    axis.set_xscale("log")
    axis.set_xlabel("records in the stream")
    return _lines(axis, chosen, lambda _: "here, 1,000 appends in flight")


if __name__ == "__main__":
    draw(load(Path(sys.argv[1])), Path(sys.argv[2]))
