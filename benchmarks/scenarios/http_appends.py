"""Appends over HTTP by 32 clients, with the reference server of Durable Streams (npm) as peer."""

from __future__ import annotations

import re
import select
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.load_generator import Measurement, WireProtocol, cpu_seconds
from benchmarks.machine import find_program, progress
from benchmarks.peers.servers import BY_NAME, HERE, HERE_FULL, SECRET, Server, running
from benchmarks.report import Effort, Result, interleaved, median

NAME = "http-appends"
REFERENCE = "Durable Streams reference, file store (npm)"
CLIENTS = 32
RATED_S = 3.0
WARM_S = 0.5
RECORD = b'{"current":12345,"total":100000,"status":"a record of about one hundred bytes, in all"}'
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Clients:
    """HTTP connections that each append one record at a time.

    Args:
        port: Port of the server on this machine.
        paths: The path that each connection appends to.
        headers: Header lines of every request, each with its line end.
    """

    def __init__(self, port: int, paths: Sequence[str], headers: str) -> None:
        self._poll = select.epoll()
        self._requests: dict[int, bytes] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._partly: dict[int, bytes] = {}
        for path in paths:
            opened = socket.create_connection(("127.0.0.1", port), timeout=30)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets[opened.fileno()] = opened
            self._poll.register(opened.fileno(), select.EPOLLIN)
            head = (
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}"
                f"Content-Type: application/json\r\nContent-Length: {len(RECORD)}\r\n\r\n"
            )
            self._requests[opened.fileno()] = head.encode() + RECORD

    def append_for(self, seconds: float, pids: Sequence[int]) -> Measurement:
        """Append for a number of seconds, and count the acknowledged appends.

        Raises:
            ConnectionError: the server refused an append.
        """
        answered, latencies, asked_at = 0, [], dict.fromkeys(self._sockets, 0.0)
        began, server, own = time.perf_counter(), cpu_seconds(pids), time.process_time()
        for number in self._sockets:
            self._ask(number, asked_at)
        in_flight = len(self._sockets)
        while in_flight:
            events = self._poll.poll(30.0)
            if not events:
                raise TimeoutError("no append was answered within 30 s")
            for number, _ in events:
                if not self._is_answered(number):
                    continue
                now = time.perf_counter()
                answered += 1
                latencies.append((now - asked_at[number]) * 1000)
                if now - began < seconds:
                    self._ask(number, asked_at)
                else:
                    in_flight -= 1
        wall_s, cpu_s = time.perf_counter() - began, cpu_seconds(pids) - server
        return Measurement(answered, wall_s, cpu_s, time.process_time() - own, latencies)

    def _ask(self, number: int, asked_at: dict[int, float]) -> None:
        asked_at[number] = time.perf_counter()
        self._sockets[number].sendall(self._requests[number])

    def _is_answered(self, number: int) -> bool:
        data = self._sockets[number].recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        data = self._partly.pop(number, b"") + data
        head, end, body = data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            self._partly[number] = data
            return False
        if not head.startswith(b"HTTP/1.1 2"):
            raise ConnectionError(f"the server refused an append: {data[:300]!r}")
        return True

    def close(self) -> None:
        """Close every connection."""
        for opened in self._sockets.values():
            opened.close()
        self._poll.close()


@dataclass(frozen=True)
class HttpServer:
    """A server and the headers that its requests need."""

    server: Server
    headers: Callable[[], str]


def measure(effort: Effort) -> Iterator[Result]:
    """Measure 32 clients on one stream, and on one stream per client."""
    for streams in (1, CLIENTS):
        yield from measure_at(effort, streams)


def measure_at(effort: Effort, streams: int) -> Iterator[Result]:
    """Measure 32 clients on a number of streams, on both servers."""
    what = f"{CLIENTS} clients, {'a stream each' if streams > 1 else 'one stream'}"
    measures = {each.server.name: partial(_once, each, streams, effort) for each in _servers()}
    taken, failed = interleaved(what, effort, measures)
    for name, runs in taken.items():
        share = median([each.load_share for each in runs]) if runs else None
        for label, values in (
            ("durable appends/s over HTTP", [each.deliveries / each.wall_s for each in runs]),
            ("p99 in ms", [each.latency_ms(99) for each in runs]),
        ):
            note = failed.get(name, "")
            yield Result(NAME, f"{what}: {label}", name, tuple(values), share, streams, note)


def _servers(here_only: bool = False) -> list[HttpServer]:
    ours = HttpServer(replace(BY_NAME[HERE_FULL], protocol=_no_websocket), _authorization)
    if here_only:
        return [ours]
    reference = Server(REFERENCE, _installed(), _command, _no_websocket)
    if reference.missing:
        progress(f"{REFERENCE}: not here ({reference.missing})")
        return [ours]
    return [ours, HttpServer(reference, lambda: "")]


def _no_websocket(_port: int, _throttle_ms: int) -> WireProtocol:
    """Return an empty protocol: this scenario does not use WebSockets."""
    return WireProtocol(path="", publish=lambda _, texts: [])


def _authorization() -> str:
    from gateway import tokens

    token = tokens.mint(["read:paths:*", "write:paths:*"], secret_key=SECRET)
    return f"Authorization: Bearer {token}\r\n"


def _installed() -> str:
    """Install the reference server from npm. Returns an error message, or ""."""
    if not find_program("npm"):
        return "npm is not on PATH"
    if (HERE / "node_modules" / "@durable-streams" / "server").exists():
        return ""
    progress("npm install in benchmarks/peers")
    # Not `npm ci`: it rejects a lock file without the optional packages of all platforms.
    command = [find_program("npm"), "install", "--no-save", "--silent", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    return (
        "" if done.returncode == 0 else f"npm install: {(done.stdout + done.stderr)[-200:].strip()}"
    )


def _command(port: int, folder: Path) -> list[str]:
    return [find_program("node"), str(HERE / "durable_streams.mjs"), str(port), str(folder)]


def _once(http_server: HttpServer, streams: int, effort: Effort) -> Measurement:
    headers = http_server.headers()
    with running(http_server.server) as (port, pids, _):
        paths = [f"/v1/stream/bench/{number}" for number in range(streams)]
        for path in paths:
            _create(port, path, headers)
        clients = Clients(port, [paths[n % streams] for n in range(CLIENTS)], headers)
        try:
            clients.append_for(WARM_S, pids)
            return clients.append_for(max(0.5, RATED_S * effort.share), pids)
        finally:
            clients.close()


def _create(port: int, path: str, headers: str) -> None:
    given = dict(line.split(": ", 1) for line in headers.splitlines())
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        method="PUT",
        headers={**given, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status in (200, 201)
