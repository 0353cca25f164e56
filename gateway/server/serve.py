"""The gateway's own server: uvicorn, with the settings that a WebSocket gateway wants."""

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

HTTP_SHARE = 0.2  # of the time to go down: for requests over HTTP, after the clients were told

_log = logging.getLogger("uvicorn.error")  # where those who look for the server's words find them


def serve(settings: Settings, *, host: str, port: int, log_level: str = "info") -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: What the gateway runs with.
        host: Address to listen on.
        port: Port to listen on; 0 for any that is free.
        log_level: uvicorn's.

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
            "Tokens travel unencrypted to %s: let a proxy with TLS stand before the gateway", host
        )
    _Server(config, gateway).run(sockets)


class FastPathRouter:
    """Leads what is hot to the gateway past the application's layers.

    For a WebSocket that is 4 KB less, for an append over HTTP a fifth of its time. Those layers
    would do nothing for either: there is no other route, errors are answered where they are made,
    and pages of other origins, which have to be told what they may, say where they are from.

    Args:
        app: The gateway's application, which serves everything else.
        gateway: Serves them.
    """

    def __init__(self, app: Starlette, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "websocket" and scope["path"] == WEBSOCKET_PATH:
            await self._gateway.serve_websocket(WebSocket(scope, receive, send))
        elif is_append(scope):
            await self._gateway.streams.serve_straight(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def begin(self, scope: Scope, body: bytes, answer: Respond) -> bool:
        """Begin to answer a whole request without ASGI; false if it has to be asked.

        Args:
            scope: The request's, as ASGI has it.
            body: All of its body.
            answer: Called once with the answer, or with what will return it.
        """
        return is_append(scope) and self._gateway.streams.begin_append(scope, body, answer)


def is_append(scope: Scope) -> bool:
    """Whether a request appends to a stream, and no browser says that it is a page's."""
    return (
        scope["type"] == "http"
        and scope["method"] == "POST"
        and scope["path"].startswith(STREAM_PREFIX)
        and not any(name == b"origin" for name, _ in scope["headers"])
    )


def calm_collector() -> None:
    """Have the garbage collector pass over what stays, and look less often at what comes.

    With thousands of connections each of its full passes would be a pause of its own.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


def configure(app: Any, settings: Settings, **options: Any) -> uvicorn.Config:
    """Make uvicorn's configuration.

    Args:
        app: The gateway's application.
        settings: What the gateway runs with.
        options: Further ones of uvicorn's own.
    """
    limits = settings.limits
    ws = options.setdefault("ws", DirectWebSocketProtocol)
    begin = app.begin if isinstance(app, FastPathRouter) else None
    options.setdefault("http", partial(FastAppendProtocol, begin=begin))
    return uvicorn.Config(
        app,
        # Ours begins with what a stranger may send, and each connection raises it later.
        ws_max_size=limits.frame_bytes if ws is DirectWebSocketProtocol else arriving_bytes(limits),
        ws_per_message_deflate=False,  # halves throughput and costs 40 to 100 KB a connection
        # Clients ping in frames of their own. The server's ping would end those that are alive
        # but do not read, and would not free a send that is blocked.
        ws_ping_interval=None,
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=max(1, round(HTTP_SHARE * limits.drain_s)),
        **options,
    )


def _without_queries(record: logging.LogRecord) -> bool:
    """Take queries out of the paths that uvicorn logs: somebody may have put a token there."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            each.partition("?")[0] if isinstance(each, str) and each.startswith("/") else each
            for each in record.args
        )
    return True


class _Server(uvicorn.Server):
    """Runs the gateway around the server: clients hear of the end before sockets are closed."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._running = AsyncExitStack()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._running.enter_async_context(self._gateway.run())
        try:
            await super().startup(sockets)
            calm_collector()
        except BaseException:  # also SystemExit
            await self._running.aclose()
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_within(self._gateway.settings.limits.drain_s)
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()  # so that clients that come back find another gateway, or none
        try:
            await self._gateway.drain()
            await super().shutdown(sockets)
        finally:
            await self._running.aclose()

    def _end_within(self, time_s: float) -> None:
        """End the process in any case: what is acknowledged is durable, the rest comes again."""
        alarm = threading.Timer(time_s, self._end_now, [time_s])
        alarm.daemon = True
        alarm.start()

    def _end_now(self, time_s: float) -> None:
        _log.error("Not all that was running has ended within %g s; the process ends", time_s)
        os._exit(1)
