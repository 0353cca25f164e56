"""What one gateway does at this moment, for an operator's page.

Unlike metrics, a snapshot names streams and connections, so its reader needs full permissions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from gateway._internal.counters import Counters
from gateway.fanout.hub import Hub
from gateway.fanout.lag import LaggingReader
from gateway.model.records import StreamKey


@dataclass(frozen=True, slots=True)
class LiveStream:
    """A stream with readers at this gateway.

    Attributes:
        key: The stream.
        records: Number of its records.
        readers: Number of its readers here.
    """

    key: StreamKey
    records: int
    readers: int


class LagSource(Protocol):
    """A source of readers that may lag."""

    def lagging(self) -> Iterator[LaggingReader]:
        """Yield the readers that lag."""


class ConnectionSource(LagSource, Protocol):
    """The readers of an open connection."""

    @property
    def subscriptions(self) -> int:
        """Number of active subscriptions."""


class HttpReaderSource(LagSource, Protocol):
    """The readers over HTTP."""

    @property
    def live_readers(self) -> int:
        """Number of requests that wait for records."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a gateway at one moment.

    Attributes:
        counters: The gateway's counters, which continue to count.
        connections: Number of open connections.
        subscriptions: Number of their subscriptions.
        streams: Streams with readers here.
        lagging: Readers with records that they have not received yet.
        memory_bytes: Memory of the process; 0 where the system does not report it.
        not_ready_reason: Why it is not ready for clients; None if it is.
    """

    counters: Counters
    connections: int
    subscriptions: int
    streams: list[LiveStream]
    lagging: list[LaggingReader]
    memory_bytes: int
    not_ready_reason: str | None


def take_snapshot(
    counters: Counters,
    hub: Hub | None,
    connections: Iterable[ConnectionSource],
    waiting: HttpReaderSource,
    memory_bytes: float | None,
    not_ready_reason: str | None,
) -> Snapshot:
    """Take a snapshot of a gateway's parts."""
    connected = list(connections)
    tails = list(hub.tails) if hub is not None else []
    readers: list[LagSource] = [*connected, waiting]
    return Snapshot(
        counters=counters,
        connections=len(connected),
        subscriptions=sum(each.subscriptions for each in connected),
        streams=[LiveStream(tail.key, tail.position.offset, tail.reader_count) for tail in tails],
        lagging=[reader for each in readers for reader in each.lagging()],
        memory_bytes=int(memory_bytes or 0),
        not_ready_reason=not_ready_reason,
    )
