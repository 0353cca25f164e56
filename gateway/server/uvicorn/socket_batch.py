"""Writes the same bytes to many WebSockets in as few system calls as possible."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from gateway.fanout.group import WireFormat
from gateway.server.uvicorn.bulk_write import MIN_BATCH, bulk_writer
from gateway.server.uvicorn.text_frames import encode_text_frame
from gateway.server.uvicorn.websocket_protocol import DirectWebSocketProtocol, writability


class DirectSocketBatch:
    """WebSockets that get the same bytes, by as few system calls as possible.

    Args:
        sinks: The connections, examined once.

    Attributes:
        full: Connections whose buffers are full; see `gateway.fanout.group.SocketBatch`.
    """

    def __init__(self, sinks: Iterable[DirectWebSocketProtocol]) -> None:
        self._version = writability.count
        self._direct: list[DirectWebSocketProtocol] = []
        self._sockets = array("i")
        self._others: list[DirectWebSocketProtocol] = []
        self.full: list[DirectWebSocketProtocol] = []
        self._is_writable = True
        for each in sinks:  # thousands: test the usual case first
            if each.is_writable and each.socket >= 0:
                self._direct.append(each)
                self._sockets.append(each.socket)
            else:
                self._is_writable = self._is_writable and each.is_writable
                (self._others if each.is_open else self.full).append(each)
        self._bulk = bulk_writer() if len(self._direct) >= MIN_BATCH else None
        if self._bulk is None:
            self._others += self._direct

    @property
    def is_current(self) -> bool:
        """Whether the batch can be reused; see `SocketBatch`. Any connection's change counts."""
        return self._is_writable and self._version == writability.count

    def write(self, frames: bytes) -> None:
        """Write bytes to each connection that is not full."""
        for sink in self._others:
            sink.write(frames)
        if self._bulk is not None:
            for which, taken in self._bulk.write(self._sockets, frames):
                self._direct[which].write(frames[taken:])


DIRECT_WIRE = WireFormat(encode_text_frame, DirectSocketBatch)
