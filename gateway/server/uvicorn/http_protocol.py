"""uvicorn's HTTP protocol with a way to cut a connection off, and a deadline for a request's head.

A connection that sends nothing, or a header now and then, would stay for as long as it likes. So
each request's headers and body have a deadline, and few connections may wait for their first. A
reader that takes nothing holds what was sent to it until the system gives up, for closing a
connection waits for what is in its buffer. Under another server there is no way: there its own
deadlines have to do.
"""

from __future__ import annotations

import asyncio
from asyncio.transports import Transport
from typing import Any

import h11
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

EXTENSION = "realtime.cut"
REQUEST_S = 10.0  # for the headers of a request, the first or one that has begun to come
BODY_S = 60.0  # for the body of a request: 4 MB in it are 0.6 Mbit/s
SILENT_CONNECTIONS = 4096  # of this process, without a request so far: 12 KB each, and its headers

_silent: dict[AbortableHttpProtocol, None] = {}  # in the order in which they came


class AbortableHttpProtocol(H11Protocol):
    """The protocol; puts `transport.abort` into the scope of every request.

    Attributes:
        request_s: For the headers of a request.
        body_s: For its body.
        silent_connections: Which may wait for their first request; a further one has the oldest
            of them cut off.
    """

    request_s = REQUEST_S
    body_s = BODY_S
    silent_connections = SILENT_CONNECTIONS
    _is_handed_over = False
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loaded_app: ASGIApp = self.app
        self.app: ASGIApp = self._run

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        _silent[self] = None
        if len(_silent) > self.silent_connections:
            oldest = next(iter(_silent))
            del _silent[oldest]
            oldest.transport.abort()
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        if self._deadline is None and not (self._is_handed_over or self._is_answering):
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        """See uvicorn, which fails when an answer has begun: then there is none any more."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.abort()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._note_head()
        super().connection_lost(exc)
        self.cycle: Any = None
        self._break_cycle()

    def handle_websocket_upgrade(self, *args: Any) -> None:
        """Hand the connection over to the other protocol; nothing keeps this one then."""
        self._note_head()
        self._is_handed_over = True
        super().handle_websocket_upgrade(*args)
        self._break_cycle()

    def _break_cycle(self) -> None:
        """Let the protocol be freed at once, and not by the garbage collector, hours later."""
        self.app = self._loaded_app  # `_run` holds the protocol

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.request_s, self._cut_if_silent)

    def _note_head(self) -> None:
        """Take note that the headers of a request are here, or that none will come."""
        _silent.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_if_silent(self) -> None:
        self._deadline = None
        if not (self._is_answering or self.transport.is_closing()):
            self.transport.abort()

    def _cut_if_body_is_missing(self, cycle: Any) -> None:
        self._deadline = None
        if cycle is self.cycle and cycle.more_body:
            self.transport.abort()
        elif not self._is_answering:
            self._await_head()  # some of the next request may be there

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._note_head()
        if self.cycle.more_body:
            ring = self._cut_if_body_is_missing
            self._deadline = self.loop.call_later(self.body_s, ring, self.cycle)
        if _has_two_lengths(scope):
            await _TWO_LENGTHS(scope, receive, send)
            return
        scope["extensions"] = {**scope.get("extensions", {}), EXTENSION: self.transport.abort}
        await self._loaded_app(scope, receive, send)


def _has_two_lengths(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"transfer-encoding" in names and b"content-length" in names


# What a proxy in front takes for one body, another reads as a request of its own.
_TWO_LENGTHS = JSONResponse(
    {
        "code": "malformed_request",
        "message": "the request has Content-Length and Transfer-Encoding; send one of them",
        "retryable": False,
    },
    400,
    {"Connection": "close"},
)


def cut(scope: Scope) -> bool:
    """End a request's connection at once; false where the server has no way to."""
    abort = scope.get("extensions", {}).get(EXTENSION)
    if abort is not None:
        abort()
    return abort is not None
