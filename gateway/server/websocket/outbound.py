"""The sending side of one WebSocket: the one place where bytes leave for a client."""

from __future__ import annotations

from collections.abc import Callable

from starlette.websockets import WebSocket

from gateway._internal.counters import Counters
from gateway.fanout.frame import Frame
from gateway.protocol.commands import Close
from gateway.server.uvicorn.text_frames import encode_text_frame, text_frame_bytes
from gateway.server.uvicorn.websocket_protocol import direct_sink

COUNTED = "realtime.counted"  # of a scope's extensions: whoever lent it counts its bytes
LIMITED = "realtime.limited"  # likewise: has `raise_limit`, as a sink has


class Outbound:
    """Sends to one client, and knows since when it has been waiting for it.

    Args:
        websocket: Accepted.
        steady_s: A time that nobody sets.
        counters: Of the bytes that go either way.

    Attributes:
        sink: Takes frames at once, and cuts the connection; None on a server that lends none.
        blocked_since_s: Steady time at which the send began that is going on; None between sends.
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
        """Whether frames can be handed over at once, without waiting."""
        return self.sink is not None and self.sink.is_open

    def hand_over(self, texts: list[str]) -> None:
        """Send text frames at once, in one piece; only while it `is_open`."""
        assert self.sink is not None
        frames = b"".join(map(encode_text_frame, texts))
        self._counters.bytes_sent += len(frames)
        self.sink.write(frames)

    def raise_limit(self, max_bytes: int, *, is_known: bool) -> None:
        """Let the client's messages be larger, as far as the server has a limit of ours."""
        if self._limited is not None:
            self._limited.raise_limit(max_bytes, is_known=is_known)

    async def receive(self) -> list[str | bytes]:
        """Wait for frames of the client.

        Returns:
            Those that came together, text or, which nobody wants, bytes; none when it is gone.
        """
        if self.sink is not None:
            frames = await self.sink.receive_lot()
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
        """Send a frame that others may get too; waits while the client takes nothing."""
        if self.sink is not None and self.sink.is_open:
            data = frame.packed(encode_text_frame)
            self._counters.bytes_sent += len(data)
            self.sink.write(data)
            return
        await self.send(frame.text)

    async def send(self, text: str) -> None:
        """Send a text frame; waits while the client takes nothing."""
        if self.is_open:
            self.hand_over([text])
            return
        self.blocked_since_s = self._steady_s()
        try:
            if not self._is_counted:
                self._counters.bytes_sent += text_frame_bytes(text)
            await self._websocket.send_text(text)
        finally:
            self.blocked_since_s = None

    async def close(self, close: Close) -> None:
        """Say goodbye; a client that does not answer is cut off later."""
        self.blocked_since_s = self._steady_s()
        await self._websocket.close(close.code, close.reason)
        if self.sink is not None:
            self.sink.abort_later()

    def abort(self) -> None:
        """Cut the connection, as far as the server lets us; else it does so when we return."""
        if self.sink is not None:
            self.sink.abort()
