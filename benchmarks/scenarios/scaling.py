"""Scaling: CPU per delivery with more subscribers; appends and memory with longer streams."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load_generator import Load, Measurement, resident_kib
from benchmarks.peers.servers import BY_NAME, HERE_FULL
from benchmarks.report import Effort, Result, interleaved, median
from benchmarks.scenarios.fan_out import once
from benchmarks.scenarios.store_appends import KEY, RECORD, in_process, opened

NAME = "scaling"
LENGTHS = (10_000, 100_000, 1_000_000, 10_000_000)  # records in the one stream
BATCH = 1000  # records per append while filling the stream; appends in flight while measuring
MEASURED = 20_000  # appends at each length
STORE = "sqlite:{folder}/growth.db"
SUBSCRIBERS = {100: 1500, 5000: 40}  # and the records sent to them


def measure(effort: Effort) -> Iterator[Result]:
    """Measure deliveries at 100 and 5,000 subscribers, and appends to streams of four lengths."""
    yield from deliveries(effort)
    yield from lengths(effort, LENGTHS)


def deliveries(effort: Effort) -> Iterator[Result]:
    """Measure the server's CPU time per delivery, with few and with many subscribers."""
    measures = {
        f"{subscribers:,} subscribers": partial(
            once, BY_NAME[HERE_FULL], subscribers, _closed_loop(effort.records(records))
        )
        for subscribers, records in SUBSCRIBERS.items()
    }
    taken, failed = interleaved("a delivery", effort, measures)
    for name, runs in taken.items():
        values = tuple(each.server_cpu_s / each.deliveries * 1e6 for each in runs)
        share = median([each.load_share for each in runs]) if runs else None
        what = f"{name}: server CPU per delivery in µs"
        yield Result(NAME, what, HERE_FULL, values, share, None, failed.get(name, ""))
    few, many = taken.values()
    pairs = zip(few, many, strict=False)
    ratios = tuple(one.per_cpu_s / other.per_cpu_s for one, other in pairs)
    yield Result(NAME, "CPU per delivery at 5,000, as a ratio to 100", HERE_FULL, ratios)


def _closed_loop(records: int) -> Callable[[Load, Sequence[int]], Measurement]:
    return lambda load, pids: load.closed_loop(records, pids)


def lengths(effort: Effort, sizes: Sequence[int]) -> Iterator[Result]:
    """Measure appends and memory at each length of a growing stream, in one process per run."""
    found: list[list[tuple[float, float]]] = []

    def run() -> None:
        found.append(_lengths([effort.records(size) for size in sizes]))

    _, failed = interleaved(f"a stream of up to {sizes[-1]:,}", effort, {HERE_FULL: run})
    note = failed.get(HERE_FULL, "")
    for place, size in enumerate(sizes):
        for label, kind in (
            ("appends/s, 1,000 in flight", 0),
            ("resident MiB of the process", 1),
        ):
            values = tuple(each[place][kind] for each in found)
            what = f"{size:,} records in the stream: {label}"
            yield Result(NAME, what, "sqlite full", values, None, size, note)


def _lengths(sizes: Sequence[int]) -> list[tuple[float, float]]:
    """Return appends a second and MiB at each size, measured in a new process."""
    with TemporaryDirectory() as folder:
        answer = Path(folder) / "lengths"
        in_process(partial(_grow, sizes, answer.write_text))
        pairs = [line.split() for line in answer.read_text().splitlines()]
    return [(float(rate), float(mib)) for rate, mib in pairs]


async def _grow(sizes: Sequence[int], report: Callable[[str], object]) -> float:
    length, lines = 0, []
    async with opened(STORE) as store:
        append: Callable[[], Awaitable[object]] = partial(store.append, KEY, [RECORD])
        for size in sizes:
            while length < size:
                batch = min(BATCH, size - length)
                await store.append(KEY, [RECORD] * batch)
                length += batch
            began = time.perf_counter()
            for _ in range(MEASURED // BATCH):
                await asyncio.gather(*(append() for _ in range(BATCH)))
            rate = MEASURED / (time.perf_counter() - began)
            length += MEASURED
            lines.append(f"{rate} {resident_kib([os.getpid()]) / 1024}")
    report("\n".join(lines))
    return float(length)
