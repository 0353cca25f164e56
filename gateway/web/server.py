"""The gateway's own server: uvicorn, with the settings that a WebSocket gateway wants."""

from __future__ import annotations

import uvicorn

from gateway.protocol import MAX_FRAME_BYTES
from gateway.settings import Settings
from gateway.web.app import create_app

SHUTDOWN_S = 10  # for open connections and running tasks, once asked to stop


def serve(settings: Settings, *, host: str, port: int, log_level: str = "info") -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: What the gateway runs with.
        host: Address to listen on.
        port: Port to listen on.
        log_level: uvicorn's.
    """
    uvicorn.run(
        create_app(settings),
        host=host,
        port=port,
        log_level=log_level,
        # The gateway refuses what is over its own limit with an error that says so; this is only
        # the bound on what the server will gather before.
        ws_max_size=4 * MAX_FRAME_BYTES,
        ws_per_message_deflate=False,  # halves throughput and costs 40 to 100 KB a connection
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
