"""A streaming response: sent piece by piece, each with a deadline, until its reader disconnects."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from gateway.server.uvicorn.http_protocol import abort_connection

EVENT_HEADERS = {
    "Content-Type": "text/event-stream",
    # Proxies may not buffer, cache or compress it; some would send it only when it has ended.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class ReaderStalled(OSError):
    """The reader read nothing until the deadline; it was aborted where the server can."""


class StreamingBody:
    """The body of one response.

    Args:
        scope: The request's scope.
        send: ASGI's `send`.
        send_s: A reader that reads nothing for so many seconds is aborted.
    """

    def __init__(self, scope: Scope, send: Send, send_s: float) -> None:
        self._scope = scope
        self._send = send
        self._send_s = send_s

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Send a piece of the body; `more=False` marks the last one.

        Raises:
            ReaderStalled: the reader reads nothing.
        """
        try:
            async with asyncio.timeout(self._send_s):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            abort_connection(self._scope)
            raise ReaderStalled("the reader reads nothing") from None


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the reader of a response has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass
