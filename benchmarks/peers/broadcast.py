"""A server with `websockets.broadcast`, the library's function for fan-out; no store."""

import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve

subscribers: set[ServerConnection] = set()


async def handle(connection: ServerConnection) -> None:
    """Serve a publisher or a subscriber."""
    if connection.request is not None and connection.request.path == "/pub":
        async for text in connection:
            broadcast(subscribers, text)
        return
    subscribers.add(connection)
    try:
        await connection.wait_closed()
    finally:
        subscribers.discard(connection)


async def main() -> None:
    """Serve until the process ends."""
    async with serve(handle, "127.0.0.1", int(sys.argv[1]), compression=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
