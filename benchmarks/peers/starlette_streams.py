"""A typical server with many streams, on Starlette and uvicorn: queues by name; no store."""

import asyncio
import contextlib
import sys
from collections import defaultdict

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

queues: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)


async def subscribe(websocket: WebSocket) -> None:
    """Send each text from this connection's queue."""
    await websocket.accept()
    name = websocket.path_params["name"]
    queue: asyncio.Queue[str] = asyncio.Queue()
    queues[name].add(queue)

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
        queues[name].discard(queue)
        sender.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await sender


async def publish(websocket: WebSocket) -> None:
    """Add each received text to the queues of the stream that its first word names."""
    await websocket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            name, _, text = (await websocket.receive_text()).partition(" ")
            for queue in queues[name]:
                queue.put_nowait(text)


app = Starlette(routes=[WebSocketRoute("/sub/{name}", subscribe), WebSocketRoute("/pub", publish)])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error", ws_per_message_deflate=False)
