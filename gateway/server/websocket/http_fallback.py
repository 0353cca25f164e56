"""The protocol's frames over plain HTTP, for networks that block WebSockets.

The body of a request has the client's frames, one on each line. The response has the gateway's
frames as server-sent events. The rest of the gateway sees a WebSocket: the same limits, the same
tokens, the same state machine.

Source:
    PROTOCOL.md, section 12.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable
from random import random

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway import protocol
from gateway._internal.counters import Counters
from gateway.errors import HelloExpected, InvalidValue
from gateway.model.limits import Limits
from gateway.server.streaming_response import (
    EVENT_HEADERS,
    ReaderStalled,
    StreamingBody,
    wait_for_disconnect,
)
from gateway.server.uvicorn.unauthenticated_memory import BufferShare
from gateway.server.websocket.outbound import COUNTED, LIMITED

PATH = "/v1/events"
# interval of pings on the client's behalf, which cannot send any while it is connected
ALIVE_S = 10.0
# close code: the response reached its time limit, and the client sends a new request
GOING_AWAY = 1001
WAIT = "wait_s"  # query parameter: the longest response that the client accepts, seconds

_PING = protocol.encode(protocol.Ping())
_SECONDS = re.compile(r"\d{1,5}(\.\d{1,6})?", re.ASCII)
_LINE_END = re.compile(r"\r\n|\r|\n")
_HEADERS = {
    **EVENT_HEADERS,
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Timing-Allow-Origin": "*",  # lets a page see whether the response came over HTTP/2
}

Serve = Callable[[WebSocket], Awaitable[None]]


def route(serve: Serve, limits: Limits, counters: Counters) -> Route:
    """Make the endpoint.

    Args:
        serve: Serves one WebSocket until it closes.
        limits: Limits of frame size, of the response's duration, and of a stalled client.
        counters: Counts bytes in both directions.
    """

    async def answer(request: Request) -> Response:
        within_s = _seconds_of(request.query_params.get(WAIT))
        return _Answer(serve, limits, counters, min(limits.events_s, within_s))

    return Route(PATH, answer, methods=["POST"])


def _seconds_of(text: str | None) -> float:
    if text is None:
        return math.inf
    if not _SECONDS.fullmatch(text):
        raise InvalidValue(f"{WAIT} is {text[:40]!r}; it is a number of seconds, 0.5 for example")
    return float(text)


class _Answer(Response):
    def __init__(self, serve: Serve, limits: Limits, counters: Counters, within_s: float) -> None:
        super().__init__(status_code=200, headers=_HEADERS)
        del self.headers["content-length"]
        self._serve = serve
        self._limits = limits
        self._counters = counters
        self._within_s = within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        channel = _Channel(scope, receive, send, self._limits, self._counters, self._within_s)
        # The server's own extensions belong to an HTTP connection; with them, the session would
        # write WebSocket frames past this channel.
        extensions = {COUNTED: {}, LIMITED: channel}
        own = {"type": "websocket", "subprotocols": [], "extensions": extensions}
        try:
            await self._serve(WebSocket({**scope, **own}, channel.receive, channel.send))
        finally:
            await channel.close()


class _Channel:
    """Both directions of a WebSocket, made of an HTTP request and its response."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        limits: Limits,
        counters: Counters,
        within_s: float,
    ) -> None:
        self._counters = counters
        self._receive = receive
        self._body = StreamingBody(scope, send, limits.send_s)
        self._max_line_bytes = limits.frame_bytes
        self._share = BufferShare(limits.frame_bytes)
        self._is_connected = False
        self._is_closed = False
        self._is_read = False  # the whole body has been read
        self._has_spoken = False
        self._lines: deque[bytes] = deque()  # complete lines
        self._rest = bytearray()  # an incomplete line
        self._gone: asyncio.Task[None] | None = None
        now_s = asyncio.get_running_loop().time()
        self._ends_at_s = now_s + within_s * (1 - 0.2 * random())

    # ---- from the client ----

    async def receive(self) -> Message:
        """Return the next frame as ASGI's `websocket.receive`."""
        if not self._is_connected:
            self._is_connected = True
            return {"type": "websocket.connect"}
        while (line := await self._line()) is not None:
            if line.strip():
                self._has_spoken = True
                return {"type": "websocket.receive", "bytes": None, "text": _text(line)}
        return await self._stay()

    async def _line(self) -> bytes | None:
        """Return the body's next line. One over the limit is cut; the state machine rejects it."""
        while not self._lines and not self._is_read:
            is_too_long = len(self._rest) > self._max_line_bytes
            if is_too_long or not self._share.hold(len(self._rest)):
                break
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            body = message.get("body", b"")
            self._counters.bytes_received += len(body)
            self._is_read = not message.get("more_body", False)
            self._split(body)
        if self._lines:
            return self._lines.popleft()
        self._is_read = True
        line = bytes(self._rest)
        self._forget_rest()
        return line or None

    def _split(self, body: bytes) -> None:
        *whole, rest = body.split(b"\n")
        if whole:
            self._lines.append(bytes(self._rest) + whole[0])
            self._lines.extend(line for line in whole[1:] if line.strip())
            self._forget_rest()
        self._rest += rest

    def _forget_rest(self) -> None:
        self._rest = bytearray()
        self._share.hold(0)

    def raise_limit(self, max_bytes: int, *, is_known: bool) -> None:
        """See `DirectWebSocketProtocol.raise_limit`."""
        self._max_line_bytes = max_bytes
        if is_known:
            self._share.end()

    async def _stay(self) -> Message:
        """Wait for disconnect, for the response's time limit, or for the next keep-alive ping."""
        if not self._has_spoken:
            error = HelloExpected
            return await self._leave(error.close_code or GOING_AWAY, error.code)
        if self._gone is None:
            self._gone = asyncio.create_task(
                wait_for_disconnect(self._receive), name="reader of frames"
            )
        left_s = self._ends_at_s - asyncio.get_running_loop().time()
        if left_s > 0:
            await asyncio.wait([self._gone], timeout=min(left_s, ALIVE_S))
        if self._gone.done():
            return {"type": "websocket.disconnect", "code": 1006, "reason": ""}
        if left_s <= ALIVE_S:
            return await self._leave(GOING_AWAY, "")
        return {"type": "websocket.receive", "bytes": None, "text": _PING}

    # ---- to the client ----

    async def send(self, message: Message) -> None:
        """Send a message of ASGI's `websocket.send` as an event."""
        if message["type"] == "websocket.send":
            await self._event("", message["text"])
        elif message["type"] == "websocket.close":
            await self._say_goodbye(message.get("code", 1000), message.get("reason") or "")

    async def _leave(self, code: int, reason: str) -> Message:
        await self._say_goodbye(code, reason)
        return {"type": "websocket.disconnect", "code": code, "reason": reason}

    async def _say_goodbye(self, code: int, reason: str) -> None:
        await self._event("event: close\n", json.dumps({"code": code, "reason": reason}))
        await self.close()

    async def _event(self, head: str, text: str) -> None:
        if self._is_closed:
            return
        lines = "".join(f"data: {line}\n" for line in _LINE_END.split(text))
        await self._write(f"{head}{lines}\n".encode(), more=True)

    async def close(self) -> None:
        """End the response. Safe to call twice."""
        self._forget_rest()
        if not self._is_closed:
            self._is_closed = True
            with contextlib.suppress(OSError):
                await self._write(b"", more=False)
        if self._gone is not None:
            self._gone.cancel()
            await asyncio.wait([self._gone])

    async def _write(self, body: bytes, *, more: bool) -> None:
        self._counters.bytes_sent += len(body)
        try:
            await self._body.write(body, more=more)
        except ReaderStalled:
            self._is_closed = True
            raise


def _text(line: bytes) -> str:
    return line.decode(errors="replace")
