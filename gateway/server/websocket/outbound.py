"""The sending side of one WebSocket: the only place that writes bytes for a client."""

from __future__ import annotations

from collections.abc import Callable

from starlette.websockets import WebSocket

from gateway._internal.counters import Counters
from gateway.fanout.frame import Frame
from gateway.protocol.commands import Close
from gateway.server.uvicorn.text_frames import encode_text_frame, text_frame_bytes
from gateway.server.uvicorn.websocket_protocol import direct_sink

COUNTED = "realtime.counted"  # scope extension: whoever set it counts the bytes itself
LIMITED = "realtime.limited"  # scope extension: an object with `raise_limit`


class Outbound:
    """Sends to one client, and records since when a send has been blocked.

    Args:
        websocket: The accepted socket.
        steady_s: Monotonic time.
        counters: Counts bytes in both directions.

    Attributes:
        sink: Writes frames immediately and aborts the connection; None on other servers.
        blocked_since_s: Monotonic time at which the current send began; None between sends.
    """

    def __init__(
        self, websocket: WebSocket, steady_s: Callable[[], float], counters: Counters
    ) -> None:
        self._websocket = websocket
        self._steady_s = steady_s
        self._counters = counters
        self._is_counted = COUNTED in websocket.scope.get("extensions", {})
        self.sink = direct_sink(websocket)
        self._limited = self.sink or websocket.scope.get("extensions", {}).get(LIMITED)
        self.blocked_since_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether frames can be written now, without waiting."""
        return self.sink is not None and self.sink.is_open

    def write_now(self, texts: list[str]) -> None:
        """Write text frames in one piece, without waiting. Requires `is_open`."""
        assert self.sink is not None
        frames = b"".join(map(encode_text_frame, texts))
        self._counters.bytes_sent += len(frames)
        self.sink.write(frames)

    def raise_limit(self, max_bytes: int, *, is_known: bool) -> None:
        """Raise the size limit of the client's messages, where the server enforces ours."""
        if self._limited is not None:
            self._limited.raise_limit(max_bytes, is_known=is_known)

    async def receive(self) -> list[str | bytes]:
        """Wait for frames of the client.

        Returns:
            The frames that arrived together, as text or (invalid here) bytes; empty after a
            disconnect.
        """
        if self.sink is not None:
            frames = await self.sink.receive_batch()
        else:
            frames = await self._receive_one()
        if not self._is_counted:
            self._counters.bytes_received += sum(map(len, frames))
        return frames

    async def _receive_one(self) -> list[str | bytes]:
        message = await self._websocket.receive()
        if message["type"] != "websocket.receive":
            return []
        text = message.get("text")
        return [message["bytes"] if text is None else text]

    async def send_shared(self, frame: Frame) -> None:
        """Send a frame that other subscribers share; wait while the client reads nothing."""
        if self.sink is not None and self.sink.is_open:
            data = frame.packed(encode_text_frame)
            self._counters.bytes_sent += len(data)
            self.sink.write(data)
            return
        await self.send(frame.text)

    async def send(self, text: str) -> None:
        """Send a text frame; wait while the client reads nothing."""
        if self.is_open:
            self.write_now([text])
            return
        self.blocked_since_s = self._steady_s()
        try:
            if not self._is_counted:
                self._counters.bytes_sent += text_frame_bytes(text)
            await self._websocket.send_text(text)
        finally:
            self.blocked_since_s = None

    async def close(self, close: Close) -> None:
        """Send the close frame. A client that does not answer it is aborted later."""
        self.blocked_since_s = self._steady_s()
        await self._websocket.close(close.code, close.reason)
        if self.sink is not None:
            self.sink.abort_later()

    def abort(self) -> None:
        """Abort the connection, where the server can; elsewhere it closes when the session ends."""
        if self.sink is not None:
            self.sink.abort()
