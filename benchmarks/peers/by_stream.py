"""The protocols of servers that have many named streams."""

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
    SECRET,
    STARLETTE,
    Server,
    hello,
    new_runs,
    python_peer,
)

WORKERS = 8  # publishing connections, where one connection can publish to any stream


@dataclass(frozen=True)
class ConnectionSetup:
    """How one connection is set up.

    Attributes:
        path: Path of the handshake.
        greeting: Payloads to send first.
        ready: The connection is ready when it has received these bytes.
    """

    path: str
    greeting: Sequence[bytes] = ()
    ready: bytes = b""


@dataclass(frozen=True)
class MultiStreamProtocol:
    """The messages of clients of a server with many streams.

    Attributes:
        subscribers: One connection per stream.
        publishers: Publishing connections; stream n uses connection n modulo their number.
        publish: Returns the payload that publishes a text to stream n. Its second argument is a
            number that is unique to the record.
        opcode: 1 for text frames, 2 for binary frames.
    """

    subscribers: Sequence[ConnectionSetup]
    publishers: Sequence[ConnectionSetup]
    publish: Callable[[int, int, str], bytes]
    opcode: int = 1


def _ours(port: int, streams: int) -> MultiStreamProtocol:
    from gateway import tokens

    runs = asyncio.run(new_runs(port, streams))
    write = hello(tokens.mint(["write:runs:*"], secret_key=SECRET))
    return MultiStreamProtocol(
        [_our_subscriber(run) for run in runs],
        [ConnectionSetup("/v1/ws", [write], b'"welcome"')] * WORKERS,
        lambda stream, number, text: (
            b'{"type":"append","id":%d,"run":"%b","stream":"lines","records":["%b"]}'
            % (number, runs[stream].encode(), text.encode())
        ),
    )


def _our_subscriber(run: str) -> ConnectionSetup:
    from gateway import tokens

    token = tokens.mint([f"read:runs:{run}"], secret_key=SECRET)
    subscribe = {"type": "subscribe", "id": 1, "run": run, "stream": "lines", "start": "latest"}
    return ConnectionSetup(
        "/v1/ws", [hello(token), json.dumps(subscribe).encode()], b'"subscribed"'
    )


def _starlette(_port: int, streams: int) -> MultiStreamProtocol:
    return MultiStreamProtocol(
        [ConnectionSetup(f"/sub/{stream}") for stream in range(streams)],
        [ConnectionSetup("/pub")] * WORKERS,
        lambda stream, _, text: f"{stream} {text}".encode(),
    )


def _nchan(_port: int, streams: int) -> MultiStreamProtocol:
    return MultiStreamProtocol(
        [ConnectionSetup(f"/sub?id={stream}") for stream in range(streams)],
        [ConnectionSetup(f"/pub?id={stream}") for stream in range(streams)],
        lambda _stream, _number, text: text.encode(),
    )


def _nats(_port: int, streams: int) -> MultiStreamProtocol:
    connect = b'CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\n'
    return MultiStreamProtocol(
        [
            ConnectionSetup("/", [connect + b"SUB s%d 1\r\nPING\r\n" % stream], b"PONG")
            for stream in range(streams)
        ],
        [ConnectionSetup("/", [connect + b"PING\r\n"], b"PONG")] * WORKERS,
        lambda stream, _, text: b"PUB s%d %d\r\n%b\r\n" % (stream, len(text), text.encode()),
        opcode=2,
    )


SERVERS: list[tuple[Server, Callable[[int, int], MultiStreamProtocol]]] = [
    (BY_NAME[HERE_FULL], _ours),
    (BY_NAME[HERE_MEMORY], _ours),
    (replace(BY_NAME[STARLETTE], command=python_peer("starlette_streams")), _starlette),
    (BY_NAME[NCHAN], _nchan),
    (BY_NAME[NATS], _nats),
]
