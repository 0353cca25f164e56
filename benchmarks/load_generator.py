"""A load generator for any WebSocket server: subscribers that count, a publisher that times.

One epoll loop over raw sockets, in a process of its own: it must cost less than the server it
measures, so it never parses a frame. Each published record carries the marker `@` and its time;
what a subscriber got is the number of markers in the bytes that it received, however the server
packs them.
"""

from __future__ import annotations

import base64
import os
import re
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

MARKER = b"@"
SAMPLED = 50  # connections whose latencies are taken
PUBLISHED_AT_ONCE = 500  # records
CONNECTING = 200  # handshakes under way at once
STAMP = re.compile(rb"@(\d{10}\.\d{6})")


def text_frame(payload: bytes, opcode: int = 1) -> bytes:
    """Mask a client's frame (RFC 6455, section 5.2); the mask is zero, so the payload stays."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + bytes(4) + payload


def stamped(number: int) -> str:
    """Return a record of about one hundred bytes that says when it was sent."""
    return f"@{time.time():.6f} record {number:07d} {'x' * 60}"


@dataclass(frozen=True)
class Speaking:
    """How a server is spoken to.

    Attributes:
        path: Where subscribers connect.
        greeting: Payloads that a subscriber sends first.
        ready: Bytes that it has then received; empty: the handshake is enough.
        publisher_path: Where the publisher connects.
        publisher_greeting: Payloads that it sends first.
        publish: Makes the payloads that publish some texts; the number is that of the first.
        opcode: 1 for text, 2 for binary.
    """

    path: str
    publish: Callable[[int, Sequence[str]], Sequence[bytes]]
    greeting: Sequence[bytes] = ()
    ready: bytes = b""
    publisher_path: str = ""
    publisher_greeting: Sequence[bytes] = ()
    publisher_ready: bytes = b""
    opcode: int = 1
    protocol: str = ""


@dataclass
class Measured:
    """What one scenario came to.

    Attributes:
        deliveries: Records that subscribers received, or appends that were answered.
        wall_s: From the first publication to the last delivery.
        server_cpu_s: Of the server's processes meanwhile.
        load_cpu_s: Of this process meanwhile.
        latencies_ms: Of the sampled connections.
    """

    deliveries: int
    wall_s: float
    server_cpu_s: float
    load_cpu_s: float
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def per_cpu_s(self) -> float:
        """Deliveries a second of the server's CPU."""
        return self.deliveries / self.server_cpu_s if self.server_cpu_s else float("nan")

    @property
    def load_share(self) -> float:
        """Of a core that the load generator took."""
        return self.load_cpu_s / self.wall_s

    def latency_ms(self, percent: float) -> float:
        """Return a percentile of the latencies."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return user and system time of processes, their threads included."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def resident_kib(pids: Sequence[int]) -> int:
    """Return the resident memory of processes."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/statm") as file:
            total += int(file.read().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") // 1024


def open_socket(
    address: tuple[str, int], path: str, protocol: str = "", receive_bytes: int = 0
) -> socket.socket:
    """Connect and ask for a WebSocket; `greet` takes the answer.

    Args:
        address: Host and port.
        path: What is asked for.
        protocol: The subprotocol, if any.
        receive_bytes: Of the kernel's buffer for what comes; 0 leaves it as it is.
    """
    opened = socket.socket()
    opened.settimeout(30)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_bytes:  # before connecting, since it decides the window
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    opened.connect(address)
    key = base64.b64encode(os.urandom(16)).decode()
    opened.sendall(
        (
            f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            + (f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else "")
            + "\r\n"
        ).encode()
    )
    return opened


def greet(opened: socket.socket, greeting: Sequence[bytes], ready: bytes, opcode: int = 1) -> bytes:
    """Take the handshake's answer, greet, wait until that is answered; gives what has come."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += some(opened)
    if b" 101 " not in got.split(b"\r\n", 1)[0]:
        raise ConnectionError(f"the handshake was refused: {got[:200]!r}")
    for payload in greeting:
        opened.sendall(text_frame(payload, opcode))
    while ready not in got:
        got += some(opened)
    return got


def some(opened: socket.socket) -> bytes:
    """Receive what is there."""
    data = opened.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


class Load:
    """Subscribers and a publisher of one server.

    Args:
        port: Of the server on this machine.
        speaking: How it is spoken to.
        subscribers_port: Of the server of the subscribers, if it is another one.
    """

    def __init__(self, port: int, speaking: Speaking, subscribers_port: int | None = None) -> None:
        self._address = ("127.0.0.1", port)
        self._subscribers_address = ("127.0.0.1", subscribers_port or port)
        self._speaking = speaking
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._sampled: set[int] = set()
        self._publisher: socket.socket | None = None
        self.received = 0
        self.kib_a_connection = float("nan")  # of the server, where it was measured
        self._latencies: list[float] = []

    def connect(self, subscribers: int) -> None:
        """Open the subscribers and the publisher; return when all are ready."""
        self.add(subscribers)
        path = self._speaking.publisher_path or self._speaking.path
        publisher = self._publisher = self._open(path, is_subscriber=False)
        self._greet(publisher, self._speaking.publisher_greeting, self._speaking.publisher_ready)
        publisher.setblocking(False)
        self._poll.register(publisher.fileno(), select.EPOLLIN)

    def add(self, subscribers: int) -> None:
        """Open further subscribers; return when they are ready."""
        for start in range(0, subscribers, CONNECTING):
            count = min(CONNECTING, subscribers - start)
            opened = [self._open(self._speaking.path) for _ in range(count)]
            for each in opened:
                self._greet(each, self._speaking.greeting, self._speaking.ready)
        self._sampled = set(list(self._sockets)[:: max(1, len(self._sockets) // SAMPLED)])

    def _open(self, path: str, is_subscriber: bool = True) -> socket.socket:
        address = self._subscribers_address if is_subscriber else self._address
        opened = open_socket(address, path, self._speaking.protocol)
        if is_subscriber:
            self._sockets[opened.fileno()] = opened
        return opened

    def _greet(self, opened: socket.socket, greeting: Sequence[bytes], ready: bytes) -> None:
        greet(opened, greeting, ready, self._speaking.opcode)
        if opened.fileno() in self._sockets:
            opened.setblocking(False)
            self._poll.register(opened.fileno(), select.EPOLLIN)

    def publish(self, number: int, count: int = 1) -> None:
        """Send records from the n-th on."""
        texts = [stamped(number + i) for i in range(count)]
        payloads = self._speaking.publish(number, texts)
        self._send(b"".join(text_frame(each, self._speaking.opcode) for each in payloads))

    def _send(self, data: bytes) -> None:
        assert self._publisher is not None
        view = memoryview(data)
        while view:
            try:
                view = view[self._publisher.send(view) :]
            except BlockingIOError:
                self.drain(0.01)

    def drain(self, timeout_s: float) -> None:
        """Receive what is there, waiting at most so long for the first of it."""
        publisher = self._publisher.fileno() if self._publisher is not None else -1
        for number, _ in self._poll.poll(timeout_s):
            if number == publisher:
                assert self._publisher is not None
                some(self._publisher)
                continue
            data = some(self._sockets[number])
            self.received += data.count(MARKER)
            if number in self._sampled:
                now = time.time()
                self._latencies += [(now - float(at)) * 1000 for at in STAMP.findall(data)]

    def in_turn(self, records: int, pids: Sequence[int], under_way: int = 2) -> Measured:
        """Publish each record when all but a few of those before have reached everybody."""
        subscribers = len(self._sockets)

        def due(sent: int) -> int:
            return 1 if sent - self.received // subscribers < under_way else 0

        return self._measure(records, pids, due)

    def at_rate(self, records: int, per_s: float, pids: Sequence[int]) -> Measured:
        """Publish at a fixed rate, whatever becomes of it."""
        began = time.perf_counter()
        return self._measure(
            records, pids, lambda sent: int((time.perf_counter() - began) * per_s) + 1 - sent
        )

    def _measure(self, records: int, pids: Sequence[int], due: Callable[[int], int]) -> Measured:
        self.received, self._latencies = 0, []
        expected = records * len(self._sockets)
        began, server, own = time.perf_counter(), cpu_seconds(pids), time.process_time()
        sent = 0
        heard_at, heard = began, 0
        while self.received < expected:
            count = min(due(sent), records - sent, PUBLISHED_AT_ONCE)
            if count > 0:
                self.publish(sent, count)
                sent += count
            self.drain(0.001 if sent < records else 1.0)
            if self.received > heard:
                heard_at, heard = time.perf_counter(), self.received
            elif time.perf_counter() - heard_at > 30:
                raise TimeoutError(f"{self.received:,} of {expected:,} deliveries came, then none")
        return Measured(
            self.received,
            time.perf_counter() - began,
            cpu_seconds(pids) - server,
            time.process_time() - own,
            self._latencies,
        )

    def taken_latencies_ms(self) -> list[float]:
        """Return the latencies of the sampled connections since this was last asked."""
        taken, self._latencies = self._latencies, []
        return taken

    def close(self) -> None:
        """Close every connection."""
        for opened in [*self._sockets.values(), *filter(None, [self._publisher])]:
            opened.close()
        self._poll.close()
