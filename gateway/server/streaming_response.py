"""An answer that goes on: sent piece by piece, each with a deadline, until its reader has gone."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from gateway.server.uvicorn.http_protocol import cut

EVENT_HEADERS = {
    "Content-Type": "text/event-stream",
    # Nobody on the way may keep it, or change it, which some do only once it has ended.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class ReaderStalled(OSError):
    """The reader took nothing for as long as it may; it was cut off where the server can."""


class StreamingBody:
    """The body of one answer.

    Args:
        scope: The request's.
        send: ASGI's.
        send_s: A reader that takes nothing for so long is cut off.
    """

    def __init__(self, scope: Scope, send: Send, send_s: float) -> None:
        self._scope = scope
        self._send = send
        self._send_s = send_s

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Send a piece; the last one is not followed by more.

        Raises:
            Stalled: the reader takes nothing.
        """
        try:
            async with asyncio.timeout(self._send_s):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError:
            cut(self._scope)
            raise ReaderStalled("the reader takes nothing") from None


async def until_gone(receive: Receive) -> None:
    """Wait until the reader of an answer has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
