"""Writes the same bytes to many WebSockets in as few system calls as possible."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from gateway.fanout.group import WireFormat
from gateway.server.uvicorn.bulk_write import MIN_BATCH, bulk_writer
from gateway.server.uvicorn.text_frames import encode_text_frame
from gateway.server.uvicorn.websocket_protocol import DirectWebSocketProtocol, writability


class DirectSocketBatch:
    """Connections that are handed the same bytes, by as few system calls as can be.

    Args:
        sinks: Looked at once.

    Attributes:
        full: See `gateway.fanout.group.SocketBatch`.
    """

    def __init__(self, sinks: Iterable[DirectWebSocketProtocol]) -> None:
        self._version = writability.count
        self._direct: list[DirectWebSocketProtocol] = []
        self._sockets = array("i")
        self._others: list[DirectWebSocketProtocol] = []
        self.full: list[DirectWebSocketProtocol] = []
        self._is_clear = True
        for each in sinks:  # of thousands: the usual ones first, and nothing twice
            if each.is_clear and each.socket >= 0:
                self._direct.append(each)
                self._sockets.append(each.socket)
            else:
                self._is_clear = self._is_clear and each.is_clear
                (self._others if each.is_open else self.full).append(each)
        self._bulk = bulk_writer() if len(self._direct) >= MIN_BATCH else None
        if self._bulk is None:
            self._others += self._direct

    @property
    def is_current(self) -> bool:
        """See `SocketBatch`. A change of any connection counts; changes are few."""
        return self._is_clear and self._version == writability.count

    def write(self, frames: bytes) -> None:
        """Hand bytes over to each that is not full."""
        for sink in self._others:
            sink.write(frames)
        if self._bulk is not None:
            for which, taken in self._bulk.write(self._sockets, frames):
                self._direct[which].write(frames[taken:])


DIRECT_WIRE = WireFormat(encode_text_frame, DirectSocketBatch)
