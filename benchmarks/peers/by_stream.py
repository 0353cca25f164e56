"""How servers are spoken to where there are many streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.peers.servers import (
    BY_NAME,
    HERE_FULL,
    HERE_MEMORY,
    NATS,
    NCHAN,
    PLAIN,
    SECRET,
    Server,
    hello,
    new_runs,
    python_peer,
)

WORKERS = 8  # connections that publish, where one may publish to any stream


@dataclass(frozen=True)
class Line:
    """One connection and what is said on it first.

    Attributes:
        path: Where it connects.
        greeting: Payloads that it sends.
        ready: Bytes that it has then received.
    """

    path: str
    greeting: Sequence[bytes] = ()
    ready: bytes = b""


@dataclass(frozen=True)
class ByStream:
    """How the streams of a server are spoken to.

    Attributes:
        subscribers: One for each stream.
        publishers: Stream n is published to by the n-th of them, counted round.
        publish: Makes the payload that publishes a text to stream n; the number is unlike others'.
        opcode: 1 for text, 2 for binary.
    """

    subscribers: Sequence[Line]
    publishers: Sequence[Line]
    publish: Callable[[int, int, str], bytes]
    opcode: int = 1


def _ours(port: int, streams: int) -> ByStream:
    from gateway import tokens

    runs = asyncio.run(new_runs(port, streams))
    write = hello(tokens.mint(["write:runs:*"], secret_key=SECRET))
    return ByStream(
        [_our_subscriber(run) for run in runs],
        [Line("/v1/ws", [write], b'"welcome"')] * WORKERS,
        lambda stream, number, text: (
            b'{"type":"append","id":%d,"run":"%b","stream":"lines","records":["%b"]}'
            % (number, runs[stream].encode(), text.encode())
        ),
    )


def _our_subscriber(run: str) -> Line:
    from gateway import tokens

    token = tokens.mint([f"read:runs:{run}"], secret_key=SECRET)
    subscribe = {"type": "subscribe", "id": 1, "run": run, "stream": "lines", "start": "latest"}
    return Line("/v1/ws", [hello(token), json.dumps(subscribe).encode()], b'"subscribed"')


def _starlette(_port: int, streams: int) -> ByStream:
    return ByStream(
        [Line(f"/sub/{stream}") for stream in range(streams)],
        [Line("/pub")] * WORKERS,
        lambda stream, _, text: f"{stream} {text}".encode(),
    )


def _nchan(_port: int, streams: int) -> ByStream:
    return ByStream(
        [Line(f"/sub?id={stream}") for stream in range(streams)],
        [Line(f"/pub?id={stream}") for stream in range(streams)],
        lambda _stream, _number, text: text.encode(),
    )


def _nats(_port: int, streams: int) -> ByStream:
    connect = b'CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\n'
    return ByStream(
        [
            Line("/", [connect + b"SUB s%d 1\r\nPING\r\n" % stream], b"PONG")
            for stream in range(streams)
        ],
        [Line("/", [connect + b"PING\r\n"], b"PONG")] * WORKERS,
        lambda stream, _, text: b"PUB s%d %d\r\n%b\r\n" % (stream, len(text), text.encode()),
        opcode=2,
    )


SERVERS: list[tuple[Server, Callable[[int, int], ByStream]]] = [
    (BY_NAME[HERE_FULL], _ours),
    (BY_NAME[HERE_MEMORY], _ours),
    (replace(BY_NAME[PLAIN], command=python_peer("starlette_streams")), _starlette),
    (BY_NAME[NCHAN], _nchan),
    (BY_NAME[NATS], _nats),
]
