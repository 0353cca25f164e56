"""Sends server-sent events to one reader."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.server.streaming_response import ReaderStalled, StreamingBody, wait_for_disconnect


class EventStream(Response):
    """A response of events, until their source ends or the reader disconnects or stalls.

    The next event is made only after the previous one was sent. So a slow reader costs one event,
    and the buffers of the server and the kernel.

    Args:
        events: Makes the body; closed with the response.
        headers: Headers of the response.
        on_gone: Called when the reader has disconnected, so that `events` ends.
        on_end: Called when the response has ended.
        send_s: A reader that reads nothing for so many seconds is aborted.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        on_gone: Callable[[], None],
        on_end: Callable[[], None],
        send_s: float,
    ) -> None:
        super().__init__(status_code=200, headers=dict(headers))
        del self.headers["content-length"]
        self._events = events
        self._on_gone = on_gone
        self._on_end = on_end
        self._send_s = send_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. See ASGI."""
        watching = asyncio.create_task(wait_for_disconnect(receive), name="reader of events")
        watching.add_done_callback(lambda _: self._on_gone())
        body = StreamingBody(scope, send, self._send_s)
        headers = self.raw_headers
        try:
            async with contextlib.aclosing(self._events) as events:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await _carry(events, watching, body)
        except ReaderStalled:
            pass  # the reader reconnects at its position
        finally:
            self._on_end()
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


async def _carry(
    events: AsyncGenerator[bytes, None], watching: asyncio.Task[None], body: StreamingBody
) -> None:
    async for event in events:
        if watching.done():
            return
        await body.write(event)
    await body.write(b"", more=False)
