"""uvicorn's HTTP protocol with a way to cut a connection off.

A reader that takes nothing holds what was sent to it until the system gives up, for closing a
connection waits for what is in its buffer. Under another server there is no way: there its own
deadlines have to do.
"""

from __future__ import annotations

from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

EXTENSION = "realtime.cut"


class CuttingProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """The protocol; puts `transport.abort` into the scope of every request."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._loaded_app: ASGIApp = self.app
        self.app: ASGIApp = self._run

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {**scope.get("extensions", {}), EXTENSION: self.transport.abort}
        await self._loaded_app(scope, receive, send)


def cut(scope: Scope) -> bool:
    """End a request's connection at once; false where the server has no way to."""
    abort = scope.get("extensions", {}).get(EXTENSION)
    if abort is not None:
        abort()
    return abort is not None
