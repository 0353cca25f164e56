"""A typical server with Starlette on uvicorn: a queue and a task per connection; no store."""

import asyncio
import contextlib
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

queues: set[asyncio.Queue[str]] = set()


async def subscribe(websocket: WebSocket) -> None:
    """Send each text from this connection's queue."""
    await websocket.accept()
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues.add(queue)

    async def send() -> None:
        while True:
            await websocket.send_text(await queue.get())

    sender = asyncio.create_task(send())
    try:
        while True:
            await websocket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        queues.discard(queue)
        sender.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await sender


async def publish(websocket: WebSocket) -> None:
    """Add each received text to every queue."""
    await websocket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            text = await websocket.receive_text()
            for queue in queues:
                queue.put_nowait(text)


app = Starlette(routes=[WebSocketRoute("/sub", subscribe), WebSocketRoute("/pub", publish)])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", ws_per_message_deflate=False)
