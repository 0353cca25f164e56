"""Many streams: 1,000 streams with one subscriber each, at the 20 records/s of an AI answer."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from benchmarks.load_generator import (
    MARKER,
    STAMP,
    Measurement,
    cpu_seconds,
    greet,
    open_socket,
    receive_some,
    stamped,
    text_frame,
)
from benchmarks.peers.by_stream import SERVERS, ConnectionSetup, MultiStreamProtocol
from benchmarks.peers.servers import Server, running
from benchmarks.report import Effort, Result, interleaved, median
from benchmarks.scenarios.fan_out import available

NAME = "many-streams"
STREAMS = 1000
PER_S = 20.0  # records of each stream
RATED_S = 3.0
WARM_UP_S = 1.0
TICK_S = 0.005  # records that are due within one tick are sent together
SILENT_S = 10.0  # without a record; missing records then count as lost


class Streams:
    """One subscriber per stream, and the publishers.

    Args:
        port: Port of the server on this machine.
        by_stream: The server's protocol for many streams.
    """

    def __init__(self, port: int, by_stream: MultiStreamProtocol) -> None:
        self._address = ("127.0.0.1", port)
        self._by_stream = by_stream
        self._poll = select.epoll()
        self._subscribers: dict[int, socket.socket] = {}
        self._publishers: list[socket.socket] = []
        self._by_number: dict[int, socket.socket] = {}
        self._waiting: dict[int, bytearray] = {}  # unsent bytes by publisher
        self._received = 0
        self._latencies: list[float] = []

    def connect(self) -> None:
        """Connect all, and wait until they are ready."""
        for line in self._by_stream.subscribers:
            opened = self._opened(line)
            self._subscribers[opened.fileno()] = opened
        self._publishers = [self._opened(line) for line in self._by_stream.publishers]
        self._by_number = {each.fileno(): each for each in self._publishers}

    def _opened(self, line: ConnectionSetup) -> socket.socket:
        opened = open_socket(self._address, line.path)
        greet(opened, line.greeting, line.ready, self._by_stream.opcode)
        opened.setblocking(False)
        self._poll.register(opened.fileno(), select.EPOLLIN)
        return opened

    def at_rate(self, per_s: float, seconds: float, pids: Sequence[int]) -> Measurement:
        """Publish to each stream at a rate, spread over time, and wait for all deliveries.

        Raises:
            TimeoutError: records are missing.
        """
        self._received, self._latencies = 0, []
        streams = len(self._by_stream.subscribers)
        total = round(streams * per_s * seconds)
        began, server, own = time.perf_counter(), cpu_seconds(pids), time.process_time()
        sent, received_at, received = 0, began, 0
        while self._received < total:
            due = min(total, int((time.perf_counter() - began) * per_s * streams))
            if due > sent:
                self._publish(range(sent, due))
                sent = due
            self._drain(TICK_S if sent < total else 0.5)
            now = time.perf_counter()
            if self._received > received:
                received_at, received = now, self._received
            elif now - received_at > SILENT_S:
                raise TimeoutError(
                    f"{received:,} of {total:,} records, then none for {SILENT_S:g} s"
                )
        return Measurement(
            self._received,
            time.perf_counter() - began,
            cpu_seconds(pids) - server,
            time.process_time() - own,
            self._latencies,
        )

    def _publish(self, numbers: range) -> None:
        streams = len(self._by_stream.subscribers)
        batches: dict[int, list[bytes]] = {}
        for number in numbers:
            stream = number % streams
            payload = self._by_stream.publish(stream, number, stamped(number))
            batch = batches.setdefault(stream % len(self._publishers), [])
            batch.append(text_frame(payload, self._by_stream.opcode))
        for publisher, frames in batches.items():
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
                receive_some(self._by_number[number])
                continue
            data = receive_some(self._subscribers[number])
            self._received += data.count(MARKER)
            now = time.time()
            self._latencies += [(now - float(at)) * 1000 for at in STAMP.findall(data)]

    def close(self) -> None:
        """Close every connection."""
        for opened in (*self._subscribers.values(), *self._publishers):
            opened.close()
        self._poll.close()


def measure(effort: Effort) -> Iterator[Result]:
    """Measure this gateway and the peers that have named streams."""
    there = available([server for server, _ in SERVERS])
    protocol = {server.name: (server, speak) for server, speak in SERVERS if server in there}
    measures = {name: partial(_once, *each, effort) for name, each in protocol.items()}
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
            yield Result(NAME, f"{what}: {label}", name, tuple(values), share, STREAMS, note)


def _once(
    server: Server, speak: Callable[[int, int], MultiStreamProtocol], effort: Effort
) -> Measurement:
    with running(server) as (port, pids, _):
        streams = Streams(port, speak(port, STREAMS))
        try:
            streams.connect()
            streams.at_rate(PER_S, WARM_UP_S, pids)
            return streams.at_rate(PER_S, max(0.5, RATED_S * effort.share), pids)
        finally:
            streams.close()
