"""The gateway's own server: uvicorn with the settings that a WebSocket gateway needs."""

from __future__ import annotations

import gc
import logging
import os
import socket
import threading
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from gateway.model.limits import arriving_bytes
from gateway.server.app import make_app
from gateway.server.fast_path import STREAM_PREFIX, Respond
from gateway.server.gateway import WEBSOCKET_PATH, Gateway
from gateway.server.ops.log_format import log_config
from gateway.server.uvicorn.fast_append import FastAppendProtocol
from gateway.server.uvicorn.sockets import is_loopback, listen
from gateway.server.uvicorn.websocket_protocol import DirectWebSocketProtocol
from gateway.settings import Settings

HTTP_SHARE = 0.2  # share of the drain time for HTTP requests, after the WebSockets have closed

# uvicorn's logger: operators look there for the server's messages
_log = logging.getLogger("uvicorn.error")


def serve(settings: Settings, *, host: str, port: int, log_level: str = "info") -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: The gateway's settings.
        host: Address to listen on.
        port: Port to listen on; 0 for a free one.
        log_level: uvicorn's log level.

    Raises:
        ConfigurationError: the gateway cannot listen there.
    """
    gateway = Gateway(settings)
    app = FastPathRouter(make_app(gateway), gateway)
    logs = log_config(settings.log_format, log_level)
    config = configure(app, settings, log_config=logs, log_level=log_level, lifespan="off")
    for name in ("uvicorn.access", "uvicorn.error"):
        logging.getLogger(name).addFilter(_without_queries)
    sockets = listen(host, port)
    _log.info("Realtime gateway on http://%s:%d", host, sockets[0].getsockname()[1])
    if not is_loopback(host):
        _log.warning(
            "Tokens travel unencrypted to %s: put a proxy with TLS in front of the gateway", host
        )
    _Server(config, gateway).run(sockets)


class FastPathRouter:
    """Routes hot requests to the gateway past the application's middleware.

    That saves 4 KB for each WebSocket and a fifth of the time of an append over HTTP. The
    middleware would do nothing for either: there is no other route, the endpoints handle their own
    errors, and requests of other origins, which need CORS headers, have an `Origin` header.

    Args:
        app: The gateway's application, which serves everything else.
        gateway: Serves WebSockets and appends.
    """

    def __init__(self, app: Starlette, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection. See ASGI."""
        if scope["type"] == "websocket" and scope["path"] == WEBSOCKET_PATH:
            await self._gateway.serve_websocket(WebSocket(scope, receive, send))
        elif is_append(scope):
            await self._gateway.streams.serve_asgi(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def begin(self, scope: Scope, body: bytes, answer: Respond) -> bool:
        """Start the response to a complete request without ASGI.

        Args:
            scope: The request's ASGI scope.
            body: The whole body.
            answer: Called once with the response, or with an awaitable of it.

        Returns:
            False if the application has to serve the request instead.
        """
        return is_append(scope) and self._gateway.streams.begin_append(scope, body, answer)


def is_append(scope: Scope) -> bool:
    """Whether a request appends to a stream and does not come from a page in a browser."""
    return (
        scope["type"] == "http"
        and scope["method"] == "POST"
        and scope["path"].startswith(STREAM_PREFIX)
        and not any(name == b"origin" for name, _ in scope["headers"])
    )


def tune_gc() -> None:
    """Freeze the objects that live as long as the process, and collect less often.

    With thousands of connections, a full collection would pause the process noticeably.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


def configure(app: Any, settings: Settings, **options: Any) -> uvicorn.Config:
    """Make uvicorn's configuration.

    Args:
        app: The gateway's application.
        settings: The gateway's settings.
        options: Further options of `uvicorn.Config`.
    """
    limits = settings.limits
    ws = options.setdefault("ws", DirectWebSocketProtocol)
    begin = app.begin if isinstance(app, FastPathRouter) else None
    options.setdefault("http", partial(FastAppendProtocol, begin=begin))
    return uvicorn.Config(
        app,
        # Our protocol starts with the limit of an unauthenticated client and raises it later.
        ws_max_size=limits.frame_bytes if ws is DirectWebSocketProtocol else arriving_bytes(limits),
        ws_per_message_deflate=False,  # halves throughput and costs 40 to 100 KB a connection
        # Clients ping in frames of the protocol. The server's ping would close clients
        # that are alive
        # but do not read, and would not unblock a blocked send.
        ws_ping_interval=None,
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=max(1, round(HTTP_SHARE * limits.drain_s)),
        **options,
    )


def _without_queries(record: logging.LogRecord) -> bool:
    """Remove queries from the paths that uvicorn logs: a query may hold a token."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            each.partition("?")[0] if isinstance(each, str) and each.startswith("/") else each
            for each in record.args
        )
    return True


class _Server(uvicorn.Server):
    """Runs the gateway around uvicorn's server: clients are notified before sockets close."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._running = AsyncExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._running.enter_async_context(self._gateway.run())
        try:
            await super().startup(sockets)
            tune_gc()
        except BaseException:  # SystemExit too
            await self._running.aclose()
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._arm_exit_deadline(self._gateway.settings.limits.drain_s)
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()  # so that reconnecting clients reach another gateway, or none
        try:
            await self._gateway.drain()
            await super().shutdown(sockets)
        finally:
            await self._running.aclose()

    def _arm_exit_deadline(self, time_s: float) -> None:
        """End the process after a deadline in any case.

        Acknowledged appends are durable, and clients repeat the others.
        """
        alarm = threading.Timer(time_s, self._exit_now, [time_s])
        alarm.daemon = True
        alarm.start()

    def _exit_now(self, time_s: float) -> None:
        _log.error("Shutdown took longer than %g s; the process exits now", time_s)
        os._exit(1)
