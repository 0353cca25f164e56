"""A load generator for WebSocket servers: subscribers that count records, and a publisher.

It is one epoll loop over raw sockets in its own process. It must need less CPU than the server, so
it never parses a frame. Each published record contains the marker `@` and its time of publication.
The number of records that a subscriber received is the number of markers in the received bytes,
whatever frames the server puts them into.
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
SAMPLED = 50  # connections whose latencies are measured
MAX_BATCH = 500  # records published by one send
CONNECTING = 200  # concurrent handshakes
STAMP = re.compile(rb"@(\d{10}\.\d{6})")


def text_frame(payload: bytes, opcode: int = 1) -> bytes:
    """Return a client's frame (RFC 6455, section 5.2); its mask is zero, so nothing is masked."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + bytes(4) + payload


def stamped(number: int) -> str:
    """Return a record of about 100 bytes that contains the current time."""
    return f"@{time.time():.6f} record {number:07d} {'x' * 60}"


@dataclass(frozen=True)
class WireProtocol:
    """The messages that clients of a server send.

    Attributes:
        path: Path to which subscribers connect.
        publish: Returns the payloads that publish texts. Its first argument is the number of the
            first text.
        greeting: Payloads that a subscriber sends first.
        ready: A subscriber is ready when it has received these bytes; if empty, after the
            handshake.
        publisher_path: Path to which the publisher connects; the default is `path`.
        publisher_greeting: Payloads that the publisher sends first.
        publisher_ready: The publisher is ready when it has received these bytes.
        opcode: 1 for text frames, 2 for binary frames.
        subprotocol: Subprotocol of the WebSocket handshake.
    """

    path: str
    publish: Callable[[int, Sequence[str]], Sequence[bytes]]
    greeting: Sequence[bytes] = ()
    ready: bytes = b""
    publisher_path: str = ""
    publisher_greeting: Sequence[bytes] = ()
    publisher_ready: bytes = b""
    opcode: int = 1
    subprotocol: str = ""


@dataclass
class Measurement:
    """The measurement of one run.

    Attributes:
        deliveries: Records that subscribers received, or appends that were acknowledged.
        wall_s: Time from the first publication to the last delivery, in seconds.
        server_cpu_s: CPU time of the server's processes in that time.
        load_cpu_s: CPU time of this process in that time.
        latencies_ms: Latencies of the sampled connections.
    """

    deliveries: int
    wall_s: float
    server_cpu_s: float
    load_cpu_s: float
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def per_cpu_s(self) -> float:
        """Deliveries per second of the server's CPU time."""
        return self.deliveries / self.server_cpu_s if self.server_cpu_s else float("nan")

    @property
    def load_share(self) -> float:
        """The load generator's share of a core."""
        return self.load_cpu_s / self.wall_s

    def latency_ms(self, percent: float) -> float:
        """Return a percentile of the latencies."""
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the user and system time of processes, including their threads."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def resident_kib(pids: Sequence[int]) -> int:
    """Return the resident memory of processes, in KiB."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/statm") as file:
            total += int(file.read().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") // 1024


def open_socket(
    address: tuple[str, int], path: str, subprotocol: str = "", receive_bytes: int = 0
) -> socket.socket:
    """Connect and send the request of a WebSocket handshake; `greet` reads the response.

    Args:
        address: Host and port.
        path: Path of the request.
        subprotocol: The subprotocol, if any.
        receive_bytes: Size of the kernel's receive buffer; 0 keeps the default.
    """
    opened = socket.socket()
    opened.settimeout(30)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_bytes:  # before connect, because it determines the TCP window
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    opened.connect(address)
    key = base64.b64encode(os.urandom(16)).decode()
    opened.sendall(
        (
            f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            + (f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else "")
            + "\r\n"
        ).encode()
    )
    return opened


def greet(opened: socket.socket, greeting: Sequence[bytes], ready: bytes, opcode: int = 1) -> bytes:
    """Finish the handshake, send the greeting, and wait for the bytes `ready`.

    Returns:
        All bytes received.

    Raises:
        ConnectionError: the server refused the handshake, or closed the connection.
    """
    got = b""
    while b"\r\n\r\n" not in got:
        got += receive_some(opened)
    if b" 101 " not in got.split(b"\r\n", 1)[0]:
        raise ConnectionError(f"the server refused the handshake: {got[:200]!r}")
    for payload in greeting:
        opened.sendall(text_frame(payload, opcode))
    while ready not in got:
        got += receive_some(opened)
    return got


def receive_some(opened: socket.socket) -> bytes:
    """Receive available bytes.

    Raises:
        ConnectionError: the server closed the connection.
    """
    data = opened.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


class Load:
    """The subscribers and the publisher of one server.

    Args:
        port: Port of the server on this machine.
        protocol: The server's protocol.
        subscribers_port: Port for the subscribers, if they connect to another server.
    """

    def __init__(
        self, port: int, protocol: WireProtocol, subscribers_port: int | None = None
    ) -> None:
        self._address = ("127.0.0.1", port)
        self._subscribers_address = ("127.0.0.1", subscribers_port or port)
        self._protocol = protocol
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._sampled: set[int] = set()
        self._publisher: socket.socket | None = None
        self.received = 0
        self.kib_a_connection = float("nan")  # server memory, if measured
        self._latencies: list[float] = []

    def connect(self, subscribers: int) -> None:
        """Connect the subscribers and the publisher, and wait until all are ready."""
        self.add(subscribers)
        path = self._protocol.publisher_path or self._protocol.path
        publisher = self._publisher = self._open(path, is_subscriber=False)
        self._greet(publisher, self._protocol.publisher_greeting, self._protocol.publisher_ready)
        publisher.setblocking(False)
        self._poll.register(publisher.fileno(), select.EPOLLIN)

    def add(self, subscribers: int) -> None:
        """Connect more subscribers, and wait until they are ready."""
        for start in range(0, subscribers, CONNECTING):
            count = min(CONNECTING, subscribers - start)
            opened = [self._open(self._protocol.path) for _ in range(count)]
            for each in opened:
                self._greet(each, self._protocol.greeting, self._protocol.ready)
        self._sampled = set(list(self._sockets)[:: max(1, len(self._sockets) // SAMPLED)])

    def _open(self, path: str, is_subscriber: bool = True) -> socket.socket:
        address = self._subscribers_address if is_subscriber else self._address
        opened = open_socket(address, path, self._protocol.subprotocol)
        if is_subscriber:
            self._sockets[opened.fileno()] = opened
        return opened

    def _greet(self, opened: socket.socket, greeting: Sequence[bytes], ready: bytes) -> None:
        greet(opened, greeting, ready, self._protocol.opcode)
        if opened.fileno() in self._sockets:
            opened.setblocking(False)
            self._poll.register(opened.fileno(), select.EPOLLIN)

    def publish(self, number: int, count: int = 1) -> None:
        """Publish `count` records, the first with the given number."""
        texts = [stamped(number + i) for i in range(count)]
        payloads = self._protocol.publish(number, texts)
        self._send(b"".join(text_frame(each, self._protocol.opcode) for each in payloads))

    def _send(self, data: bytes) -> None:
        assert self._publisher is not None
        view = memoryview(data)
        while view:
            try:
                view = view[self._publisher.send(view) :]
            except BlockingIOError:
                self.drain(0.01)

    def drain(self, timeout_s: float) -> None:
        """Receive available bytes. Wait up to `timeout_s` if there are none."""
        publisher = self._publisher.fileno() if self._publisher is not None else -1
        for number, _ in self._poll.poll(timeout_s):
            if number == publisher:
                assert self._publisher is not None
                receive_some(self._publisher)
                continue
            data = receive_some(self._sockets[number])
            self.received += data.count(MARKER)
            if number in self._sampled:
                now = time.time()
                self._latencies += [(now - float(at)) * 1000 for at in STAMP.findall(data)]

    def closed_loop(self, records: int, pids: Sequence[int], in_flight: int = 2) -> Measurement:
        """Publish each record when at most `in_flight` earlier ones are not delivered to all."""
        subscribers = len(self._sockets)

        def due(sent: int) -> int:
            return 1 if sent - self.received // subscribers < in_flight else 0

        return self._measure(records, pids, due)

    def at_rate(self, records: int, per_s: float, pids: Sequence[int]) -> Measurement:
        """Publish at a fixed rate, regardless of the deliveries (open loop)."""
        began = time.perf_counter()
        return self._measure(
            records, pids, lambda sent: int((time.perf_counter() - began) * per_s) + 1 - sent
        )

    def _measure(self, records: int, pids: Sequence[int], due: Callable[[int], int]) -> Measurement:
        self.received, self._latencies = 0, []
        expected = records * len(self._sockets)
        began, server, own = time.perf_counter(), cpu_seconds(pids), time.process_time()
        sent = 0
        received_at, received = began, 0
        while self.received < expected:
            count = min(due(sent), records - sent, MAX_BATCH)
            if count > 0:
                self.publish(sent, count)
                sent += count
            self.drain(0.001 if sent < records else 1.0)
            if self.received > received:
                received_at, received = time.perf_counter(), self.received
            elif time.perf_counter() - received_at > 30:
                raise TimeoutError(
                    f"{self.received:,} of {expected:,} deliveries, then none for 30 s"
                )
        return Measurement(
            self.received,
            time.perf_counter() - began,
            cpu_seconds(pids) - server,
            time.process_time() - own,
            self._latencies,
        )

    def taken_latencies_ms(self) -> list[float]:
        """Return the latencies of the sampled connections since the last call."""
        taken, self._latencies = self._latencies, []
        return taken

    def close(self) -> None:
        """Close every connection."""
        for opened in [*self._sockets.values(), *filter(None, [self._publisher])]:
            opened.close()
        self._poll.close()
