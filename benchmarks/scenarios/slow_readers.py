"""Slow readers: latency of the other readers, with and without a slow tenth."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from benchmarks.load_generator import Load, Measurement, WireProtocol, greet, open_socket
from benchmarks.peers.servers import BY_NAME, HERE_FULL, running
from benchmarks.report import Effort, Result, interleaved, median

NAME = "slow-readers"
READERS = 1000
SLOW = READERS // 10
PER_S = 40.0  # records
RECORD_BYTES = 1500  # fills the buffers of slow readers within the first seconds
WARM_UP_S = 3.0
RATED_S = 3.0
SLOW_BYTES = 1024  # received by a slow reader at a time
SLOW_EVERY_S = 0.5  # makes about 1/30 of the bytes that are sent
RECEIVE_BYTES = 4096  # kernel buffer of a slow reader


class SlowReadersLoad(Load):
    """Readers that keep up, and slow readers. Measurements do not wait for slow readers.

    Args:
        port: Port of the server on this machine.
        protocol: The server's protocol.
    """

    def __init__(self, port: int, protocol: WireProtocol) -> None:
        super().__init__(port, protocol)
        self._slow: list[socket.socket] = []
        self._slow_at = 0.0

    def connect_slow(self, readers: int) -> None:
        """Connect readers that receive `SLOW_BYTES` every `SLOW_EVERY_S`."""
        for _ in range(readers):
            opened = open_socket(self._address, self._protocol.path, "", RECEIVE_BYTES)
            greet(opened, self._protocol.greeting, self._protocol.ready, self._protocol.opcode)
            opened.setblocking(False)
            self._slow.append(opened)

    def drain(self, timeout_s: float) -> None:
        """Receive available bytes, and a few on each slow connection when that is due."""
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


def measure(effort: Effort) -> Iterator[Result]:
    """Measure the same readers with and without a slow tenth."""
    # Tail latency varies between runs, so fewer than three runs say little.
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
            yield Result(NAME, label, HERE_FULL, values, share, names[name], failed.get(name, ""))
    without, with_slow = taken.values()
    if without and with_slow:
        ratios = tuple(
            with_them.latency_ms(99) / alone.latency_ms(99)
            for alone, with_them in zip(without, with_slow, strict=False)
        )
        yield Result(
            NAME, "the others' p99 with a slow tenth, as a ratio to that without", HERE_FULL, ratios
        )


def _once(slow: int, effort: Effort) -> Measurement:
    with running(BY_NAME[HERE_FULL]) as (port, pids, protocol):
        load = SlowReadersLoad(port, _longer(protocol))
        try:
            load.connect_slow(slow)
            load.connect(READERS - SLOW)
            load.at_rate(round(PER_S * WARM_UP_S), PER_S, pids)
            return load.at_rate(effort.records(round(PER_S * RATED_S)), PER_S, pids)
        finally:
            load.close()


def _longer(protocol: WireProtocol) -> WireProtocol:
    """Return the protocol with longer records."""
    padding = "x" * RECORD_BYTES
    publish = protocol.publish
    return replace(
        protocol,
        publish=lambda number, texts: publish(number, [text + padding for text in texts]),
    )
