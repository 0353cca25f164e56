"""Checks that precede every request: its origin, its address, its URL."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway import protocol
from gateway.errors import OriginForbidden, RealtimeError, TokenInUrl
from gateway.model.network import Proxies, may_connect
from gateway.protocol import ErrorFrame
from gateway.settings import Settings

_SECRETS = re.compile(r"token|jwt|secret|password|authorization|bearer|api[-_]?key", re.IGNORECASE)
_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.")  # a JWT anywhere in the text


def client_address(request: HTTPConnection, proxies: Proxies) -> str:
    """Return the client's address, through trusted proxies; "" for a local socket."""
    if request.client is None:
        return ""
    return proxies.client(request.client.host, ",".join(request.headers.getlist("x-forwarded-for")))


def require_origin(request: HTTPConnection, proxies: Proxies, settings: Settings) -> None:
    """Reject pages of origins other than the gateway's own and those of the settings.

    Raises:
        OriginForbidden: names the origin and the setting.
    """
    origin = request.headers.get("origin")
    hosts = [request.headers.get("host", "")]
    if request.client is not None and proxies.trusts(request.client.host):
        hosts += request.headers.getlist("x-forwarded-host")
    if not may_connect(origin, hosts, settings.origins):
        raise OriginForbidden(
            f"pages of {(origin or '')[:200]} may not connect; REALTIME_ORIGINS has to name it"
        )


def reject_token_in_url(scope: MutableMapping[str, Any]) -> None:
    """Reject a URL that contains a token, and remove the query before a server logs it.

    Raises:
        TokenInUrl: names the parameter, unless its name is the token.
    """
    raw = scope.get("query_string", b"")
    if not raw:
        return
    query = raw.decode("latin-1")
    for name, value in parse_qsl(query, keep_blank_values=True):
        is_token = _TOKEN.search(name) is not None
        if is_token or _SECRETS.search(name) or _TOKEN.search(value):
            scope["query_string"] = b""
            what = "a token" if is_token else f"a parameter {name[:40]!r}"
            raise TokenInUrl(
                f"the URL has {what}; a token never travels in a URL, which "
                "logs and histories keep: send it in a frame, or in `Authorization`"
            )


async def reject(websocket: WebSocket, error: RealtimeError) -> None:
    """Accept a WebSocket only to send an error: a browser shows no failed handshake's reason."""
    try:
        await websocket.accept()
        await websocket.send_text(protocol.encode(ErrorFrame.of(error)))
        await websocket.close(error.close_code or 1008, error.code)
    except (WebSocketDisconnect, RuntimeError, OSError):
        pass  # the client has already disconnected
