"""A proxy that forwards HTTP and refuses WebSockets, as some networks have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class BlockingProxy:
    """A proxy between pages and a gateway on this machine.

    Attributes:
        is_blocking: Whether it refuses WebSockets and drops the data of open ones.
        port: Its port.
        requests: The first lines of forwarded requests.
        refused: The number of refused WebSockets.
    """

    def __init__(self, target: int) -> None:
        self.is_blocking = True
        self.port = 0
        self.requests: list[str] = []
        self.refused = 0
        self._target = target
        self._websockets: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Break open WebSockets, and refuse new ones."""
        self.is_blocking = True
        for writer in self._websockets:
            writer.transport.abort()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[BlockingProxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled at the end of the test
        finally:
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        is_websocket = b"upgrade: websocket" in head.lower()
        if is_websocket and self.is_blocking:
            self.refused += 1
            writer.write(REFUSAL)
            await writer.drain()
            return
        self.requests.append(head.partition(b"\r\n")[0].decode())
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        back.write(head)
        if is_websocket:
            self._websockets.add(writer)
        try:
            pumps = [
                asyncio.create_task(_pump(*ends)) for ends in ((reader, back), (there, writer))
            ]
            _, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pending:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            self._websockets.discard(writer)
            back.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(1 << 16):
        writer.write(piece)
        await writer.drain()
