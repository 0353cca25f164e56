"""Carries server-sent events to one reader."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.server.streaming_response import ReaderStalled, StreamingBody, until_gone


class EventStream(Response):
    """An answer of events that goes on until its source ends, or its reader leaves or stalls.

    One event is made when the one before is on its way: a slow reader costs one event and what the
    server's and the kernel's buffers hold.

    Args:
        events: Makes the body; closed with the answer.
        headers: Of the answer.
        on_gone: Called when the reader has left, so that `events` ends.
        on_end: Called when the answer is over.
        send_s: A reader that takes nothing for so long is cut off.
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
        """See ASGI."""
        watching = asyncio.create_task(until_gone(receive), name="reader of events")
        watching.add_done_callback(lambda _: self._on_gone())
        body = StreamingBody(scope, send, self._send_s)
        headers = self.raw_headers
        try:
            async with contextlib.aclosing(self._events) as events:
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await _carry(events, watching, body)
        except ReaderStalled:
            pass  # it comes back where it was
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
