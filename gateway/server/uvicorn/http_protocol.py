"""uvicorn's HTTP protocol with an abort for connections, and with deadlines for requests.

Without deadlines, a connection that sends nothing, or a header now and then, stays open for ever.
So the headers and the body of each request have a deadline, and the number of connections without
a request is limited. The abort is for readers that stall: closing a connection waits until its
buffer is empty, so its memory would stay in use until the system gives up. Other servers have no
such abort; there, only the server's own deadlines apply.
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
# for the headers of a request, from the connection's start or the previous response
REQUEST_S = 10.0
BODY_S = 60.0  # for the body of a request: 4 MB need 0.6 Mbit/s
# per process, without a request so far: 12 KB each, and the headers received
SILENT_CONNECTIONS = 4096

_silent: dict[AbortableHttpProtocol, None] = {}  # oldest first


class AbortableHttpProtocol(H11Protocol):
    """The protocol; puts `transport.abort` into the scope of every request.

    Attributes:
        request_s: Deadline for the headers of a request, seconds.
        body_s: Deadline for its body, seconds.
        silent_connections: Connections that may wait for their first request. One more aborts the
            oldest.
    """

    request_s = REQUEST_S
    body_s = BODY_S
    silent_connections = SILENT_CONNECTIONS
    _is_upgraded = False
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loaded_app: ASGIApp = self.app
        self.app: ASGIApp = self._run

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the deadline. See `asyncio.Protocol`."""
        super().connection_made(transport)
        _silent[self] = None
        if len(_silent) > self.silent_connections:
            oldest = next(iter(_silent))
            del _silent[oldest]
            oldest.transport.abort()
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Receive bytes. See `asyncio.Protocol`."""
        super().data_received(data)
        if self._deadline is None and not (self._is_upgraded or self._is_answering):
            self._await_head()

    def send_400_response(self, msg: str) -> None:
        """Reject a malformed request, or abort if a response has begun, where uvicorn fails."""
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.transport.abort()

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline and break reference cycles. See `asyncio.Protocol`."""
        self._on_head()
        super().connection_lost(exc)
        self.cycle: Any = None
        self._break_cycle()

    def handle_websocket_upgrade(self, *args: Any) -> None:
        """Switch to the WebSocket protocol and drop all references to this one."""
        self._on_head()
        self._is_upgraded = True
        super().handle_websocket_upgrade(*args)
        self._break_cycle()

    def _break_cycle(self) -> None:
        """Break the reference cycle, so that the protocol is freed now and not by a full GC."""
        self.app = self._loaded_app  # the bound method `_run` refers to the protocol

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.request_s, self._abort_if_no_request)

    def _on_head(self) -> None:
        """Stop the deadline: the headers of a request are complete, or none will come."""
        _silent.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _abort_if_no_request(self) -> None:
        self._deadline = None
        if not (self._is_answering or self.transport.is_closing()):
            self.transport.abort()

    def _abort_if_body_is_missing(self, cycle: Any) -> None:
        self._deadline = None
        if cycle is self.cycle and cycle.more_body:
            self.transport.abort()
        elif not self._is_answering:
            self._await_head()  # part of the next request may have arrived

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._on_head()
        if self.cycle.more_body:
            abort = self._abort_if_body_is_missing
            self._deadline = self.loop.call_later(self.body_s, abort, self.cycle)
        if _has_two_lengths(scope):
            await _TWO_LENGTHS(scope, receive, send)
            return
        scope["extensions"] = {**scope.get("extensions", {}), EXTENSION: self.transport.abort}
        await self._loaded_app(scope, receive, send)


def _has_two_lengths(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"transfer-encoding" in names and b"content-length" in names


# Request smuggling: a proxy may use one length and the gateway the other, so that a part of the
# body counts as a request of its own.
_TWO_LENGTHS = JSONResponse(
    {
        "code": "malformed_request",
        "message": "the request has Content-Length and Transfer-Encoding; send one of them",
        "retryable": False,
    },
    400,
    {"Connection": "close"},
)


def abort_connection(scope: Scope) -> bool:
    """Abort a request's connection; return False where the server has no abort."""
    abort = scope.get("extensions", {}).get(EXTENSION)
    if abort is not None:
        abort()
    return abort is not None
