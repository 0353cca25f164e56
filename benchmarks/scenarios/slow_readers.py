"""Mixed: a slow tenth of the readers, and what the others' latency is with and without them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from benchmarks.load_generator import Load, Measured, Speaking, greet, open_socket
from benchmarks.peers.servers import BY_NAME, HERE_FULL, running
from benchmarks.report import Effort, Figure, interleaved, median

NAME = "slow-readers"
READERS = 1000
SLOW = READERS // 10
PER_S = 40.0  # records
RECORD_BYTES = 1500  # so that the slow ones' buffers are full within the first seconds
WARM_S = 3.0
RATED_S = 3.0
SLOW_BYTES = 1024  # that a slow reader takes at once
SLOW_EVERY_S = 0.5  # so about a thirtieth of what is sent
RECEIVE_BYTES = 4096  # its kernel's buffer


class Mixed(Load):
    """Readers that keep up, and others that do not, which are never waited for.

    Args:
        port: Of the server on this machine.
        speaking: How it is spoken to.
    """

    def __init__(self, port: int, speaking: Speaking) -> None:
        super().__init__(port, speaking)
        self._slow: list[socket.socket] = []
        self._slow_at = 0.0

    def connect_slow(self, readers: int) -> None:
        """Open readers that take a little now and then."""
        for _ in range(readers):
            opened = open_socket(self._address, self._speaking.path, "", RECEIVE_BYTES)
            greet(opened, self._speaking.greeting, self._speaking.ready, self._speaking.opcode)
            opened.setblocking(False)
            self._slow.append(opened)

    def drain(self, timeout_s: float) -> None:
        """Receive what is there, and a little for the slow ones when it is their time."""
        super().drain(timeout_s)
        now = time.perf_counter()
        if now >= self._slow_at:
            self._slow_at = now + SLOW_EVERY_S
            for opened in self._slow:
                try:
                    opened.recv(SLOW_BYTES)
                except BlockingIOError:
                    continue

    def close(self) -> None:
        """Close every connection."""
        for opened in self._slow:
            opened.close()
        super().close()


def measure(effort: Effort) -> Iterator[Figure]:
    """Measure the same readers with and without a slow tenth beside them."""
    # The tail of a latency differs from run to run.
    effort = replace(effort, runs=max(effort.runs, 3))
    names = {"no slow reader": 0, f"{SLOW} slow readers": SLOW}
    what = f"{READERS - SLOW} readers, {PER_S:g} records/s"
    measures = {name: partial(_once, slow, effort) for name, slow in names.items()}
    taken, failed = interleaved(what, effort, measures)
    for name, each in taken.items():
        share = median([it.load_share for it in each]) if each else None
        for percent in (50, 99):
            values = tuple(it.latency_ms(percent) for it in each)
            label = f"{what}, {name}: p{percent} in ms"
            yield Figure(NAME, label, HERE_FULL, values, share, names[name], failed.get(name, ""))
    without, beside = taken.values()
    if without and beside:
        ratios = tuple(
            with_them.latency_ms(99) / alone.latency_ms(99)
            for alone, with_them in zip(without, beside, strict=False)
        )
        yield Figure(NAME, "the others' p99 with the slow tenth to that without", HERE_FULL, ratios)


def _once(slow: int, effort: Effort) -> Measured:
    with running(BY_NAME[HERE_FULL]) as (port, pids, speaking):
        load = Mixed(port, _longer(speaking))
        try:
            load.connect_slow(slow)
            load.connect(READERS - SLOW)
            load.at_rate(round(PER_S * WARM_S), PER_S, pids)
            return load.at_rate(effort.records(round(PER_S * RATED_S)), PER_S, pids)
        finally:
            load.close()


def _longer(speaking: Speaking) -> Speaking:
    """Publish longer records, in the same manner."""
    padding = "x" * RECORD_BYTES
    publish = speaking.publish
    return replace(
        speaking,
        publish=lambda number, texts: publish(number, [text + padding for text in texts]),
    )
