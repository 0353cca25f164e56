"""Many streams: 1,000, each with one subscriber and the 20 records a second of an AI answer."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.load_generator import (
    MARKER,
    STAMP,
    Measured,
    cpu_seconds,
    greet,
    open_socket,
    some,
    stamped,
    text_frame,
)
from benchmarks.peers.by_stream import SERVERS, ByStream, Line
from benchmarks.peers.servers import Server, running
from benchmarks.report import Effort, Figure, interleaved, median
from benchmarks.scenarios.fan_out import available

NAME = "many-streams"
STREAMS = 1000
PER_S = 20.0  # records of each stream
RATED_S = 3.0
WARM_S = 1.0
TICK_S = 0.005  # streams whose records are due within it are served together
SILENT_S = 10.0  # after which what has not come is taken for lost


class Streams:
    """A subscriber for each stream, and their publishers.

    Args:
        port: Of the server on this machine.
        by_stream: How its streams are spoken to.
    """

    def __init__(self, port: int, by_stream: ByStream) -> None:
        self._address = ("127.0.0.1", port)
        self._by_stream = by_stream
        self._poll = select.epoll()
        self._subscribers: dict[int, socket.socket] = {}
        self._publishers: list[socket.socket] = []
        self._by_number: dict[int, socket.socket] = {}
        self._waiting: dict[int, bytearray] = {}  # what a publisher's socket has not taken
        self._received = 0
        self._latencies: list[float] = []

    def connect(self) -> None:
        """Open all; return when they are ready."""
        for line in self._by_stream.subscribers:
            opened = self._opened(line)
            self._subscribers[opened.fileno()] = opened
        self._publishers = [self._opened(line) for line in self._by_stream.publishers]
        self._by_number = {each.fileno(): each for each in self._publishers}

    def _opened(self, line: Line) -> socket.socket:
        opened = open_socket(self._address, line.path)
        greet(opened, line.greeting, line.ready, self._by_stream.opcode)
        opened.setblocking(False)
        self._poll.register(opened.fileno(), select.EPOLLIN)
        return opened

    def at_rate(self, per_s: float, seconds: float, pids: Sequence[int]) -> Measured:
        """Publish to all streams at a rate each, spread over time; wait until all has come.

        Raises:
            TimeoutError: some records did not come.
        """
        self._received, self._latencies = 0, []
        streams = len(self._by_stream.subscribers)
        total = round(streams * per_s * seconds)
        began, server, own = time.perf_counter(), cpu_seconds(pids), time.process_time()
        sent, heard_at, heard = 0, began, 0
        while self._received < total:
            due = min(total, int((time.perf_counter() - began) * per_s * streams))
            if due > sent:
                self._publish(range(sent, due))
                sent = due
            self._drain(TICK_S if sent < total else 0.5)
            now = time.perf_counter()
            if self._received > heard:
                heard_at, heard = now, self._received
            elif now - heard_at > SILENT_S:
                raise TimeoutError(f"{heard:,} of {total:,} records came, then none")
        return Measured(
            self._received,
            time.perf_counter() - began,
            cpu_seconds(pids) - server,
            time.process_time() - own,
            self._latencies,
        )

    def _publish(self, numbers: range) -> None:
        streams = len(self._by_stream.subscribers)
        lots: dict[int, list[bytes]] = {}
        for number in numbers:
            stream = number % streams
            payload = self._by_stream.publish(stream, number, stamped(number))
            lot = lots.setdefault(stream % len(self._publishers), [])
            lot.append(text_frame(payload, self._by_stream.opcode))
        for publisher, frames in lots.items():
            number = self._publishers[publisher].fileno()
            self._waiting.setdefault(number, bytearray()).extend(b"".join(frames))
        self._send()

    def _send(self) -> None:
        for number in list(self._waiting):
            waiting = self._waiting[number]
            try:
                del waiting[: self._by_number[number].send(waiting)]
            except BlockingIOError:
                continue
            if not waiting:
                del self._waiting[number]

    def _drain(self, timeout_s: float) -> None:
        self._send()
        for number, _ in self._poll.poll(timeout_s):
            if number in self._by_number:
                some(self._by_number[number])
                continue
            data = some(self._subscribers[number])
            self._received += data.count(MARKER)
            now = time.time()
            self._latencies += [(now - float(at)) * 1000 for at in STAMP.findall(data)]

    def close(self) -> None:
        """Close every connection."""
        for opened in (*self._subscribers.values(), *self._publishers):
            opened.close()
        self._poll.close()


def measure(effort: Effort) -> Iterator[Figure]:
    """Measure it here and with those peers that know streams by name."""
    there = available([server for server, _ in SERVERS])
    speaking = {server.name: (server, speak) for server, speak in SERVERS if server in there}
    measures = {name: partial(_once, *each, effort) for name, each in speaking.items()}
    what = f"{STREAMS:,} streams, {PER_S:g} records/s each"
    taken, failed = interleaved(what, effort, measures)
    for name, runs in taken.items():
        share = median([each.load_share for each in runs]) if runs else None
        for label, values in (
            ("deliveries per server CPU-second", [each.per_cpu_s for each in runs]),
            ("share of the server's core", [each.server_cpu_s / each.wall_s for each in runs]),
            ("p50 in ms", [each.latency_ms(50) for each in runs]),
            ("p99 in ms", [each.latency_ms(99) for each in runs]),
        ):
            note = failed.get(name, "")
            yield Figure(NAME, f"{what}: {label}", name, tuple(values), share, STREAMS, note)


def _once(server: Server, speak: Callable[[int, int], ByStream], effort: Effort) -> Measured:
    with running(server) as (port, pids, _):
        streams = Streams(port, speak(port, STREAMS))
        try:
            streams.connect()
            streams.at_rate(PER_S, WARM_S, pids)
            return streams.at_rate(PER_S, max(0.5, RATED_S * effort.share), pids)
        finally:
            streams.close()
