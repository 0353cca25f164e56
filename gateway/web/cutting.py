"""uvicorn's HTTP protocol with a way to cut a connection off, and a deadline for its first request.

A connection that sends nothing, or a header now and then, would stay for as long as it likes. A
reader that takes nothing holds what was sent to it until the system gives up, for closing a
connection waits for what is in its buffer. Under another server there is no way: there its own
deadlines have to do.
"""

from __future__ import annotations

import asyncio
from asyncio.transports import Transport
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

EXTENSION = "realtime.cut"
REQUEST_S = 10.0  # for the headers of a connection's first request


class CuttingProtocol(H11Protocol):
    """The protocol; puts `transport.abort` into the scope of every request.

    Attributes:
        request_s: For the headers of the first request.
    """

    request_s = REQUEST_S
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loaded_app: ASGIApp = self.app
        self.app: ASGIApp = self._run

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.request_s, self._cut_if_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._forget_deadline()
        super().connection_lost(exc)
        self.cycle: Any = None
        self._break_cycle()

    def handle_websocket_upgrade(self, *args: Any) -> None:
        """Hand the connection over to the other protocol; nothing keeps this one then."""
        self._forget_deadline()
        super().handle_websocket_upgrade(*args)
        self._break_cycle()

    def _break_cycle(self) -> None:
        """Let the protocol be freed at once, and not by the garbage collector, hours later."""
        self.app = self._loaded_app  # `_run` holds the protocol

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cut_if_silent(self) -> None:
        self._deadline = None
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {**scope.get("extensions", {}), EXTENSION: self.transport.abort}
        await self._loaded_app(scope, receive, send)


def cut(scope: Scope) -> bool:
    """End a request's connection at once; false where the server has no way to."""
    abort = scope.get("extensions", {}).get(EXTENSION)
    if abort is not None:
        abort()
    return abort is not None
