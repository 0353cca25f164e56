"""A server with python-socketio on uvicorn: one event to all clients; no store."""

import sys
from typing import Any

import socketio
import uvicorn

server: Any = socketio.AsyncServer(async_mode="asgi")


@server.event
async def publish(_: str, text: str) -> None:
    """Emit a client's text to all clients."""
    await server.emit("record", text)


if __name__ == "__main__":
    uvicorn.run(
        socketio.ASGIApp(server),
        port=int(sys.argv[1]),
        log_level="error",
        ws_per_message_deflate=False,
    )
