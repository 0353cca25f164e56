"""The gateway's own server: uvicorn, with the settings that a WebSocket gateway wants."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

import uvicorn

from gateway.settings import Settings
from gateway.web.app import Gateway, make_app
from gateway.web.direct import DirectProtocol

SHUTDOWN_S = 10  # for open connections and running tasks, once asked to stop


def serve(settings: Settings, *, host: str, port: int, log_level: str = "info") -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: What the gateway runs with.
        host: Address to listen on.
        port: Port to listen on.
        log_level: uvicorn's.
    """
    gateway = Gateway(settings)
    config = uvicorn.Config(
        make_app(gateway),
        host=host,
        port=port,
        log_level=log_level,
        lifespan="off",  # run by `_Server`, whose failure is one line and not a traceback
        ws=DirectProtocol,
        # The gateway refuses what is over its own limit with an error that says so; this is only
        # the bound on what the server will gather before.
        ws_max_size=2 * settings.limits.data_frame_bytes,
        ws_per_message_deflate=False,  # halves throughput and costs 40 to 100 KB a connection
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    _Server(config, gateway).run()


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
        except BaseException:  # also SystemExit, when the port is taken
            await self._running.aclose()
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self._gateway.drain()
            await super().shutdown(sockets)
        finally:
            await self._running.aclose()
