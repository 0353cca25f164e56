"""What one gateway does at this moment, for a page that an operator looks at.

Unlike the metrics these name streams and connections: they are for whoever may see everything.
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
    """A stream that has readers here.

    Attributes:
        key: Which.
        records: How many it has.
        readers: How many read it here.
    """

    key: StreamKey
    records: int
    readers: int


class LagSource(Protocol):
    """Some readers, as far as they are looked at here."""

    def lagging(self) -> Iterator[LaggingReader]:
        """Yield those that lag."""


class ConnectionSource(LagSource, Protocol):
    """Those of an open connection."""

    @property
    def subscriptions(self) -> int:
        """How many go on."""


class HttpReaderSource(LagSource, Protocol):
    """Those over HTTP."""

    @property
    def live_readers(self) -> int:
        """How many requests wait for records."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a gateway.

    Attributes:
        counters: Those of the gateway, which go on counting.
        connections: How many are open.
        subscriptions: Of all of them.
        streams: Those that have readers here.
        lagging: Readers that have records yet to take.
        memory_bytes: Of the process; 0 where the system does not say.
        unready: Why it is not ready for clients; None: it is.
    """

    counters: Counters
    connections: int
    subscriptions: int
    streams: list[LiveStream]
    lagging: list[LaggingReader]
    memory_bytes: int
    unready: str | None


def look(
    counters: Counters,
    hub: Hub | None,
    connections: Iterable[ConnectionSource],
    waiting: HttpReaderSource,
    memory_bytes: float | None,
    unready: str | None,
) -> Snapshot:
    """Look at a gateway's parts."""
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
        unready=unready,
    )
