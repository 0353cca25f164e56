"""A TCP proxy that can stop forwarding without closing, limit its rate, or break connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK_BYTES = 16 << 10


class Proxy:
    """A proxy between clients and a server on this machine.

    Attributes:
        bytes_per_s: Rate limit towards the clients; None for no limit.
        taken: Number of bytes read from the server.
        lost: Number of dropped responses; see `drop_response_to`.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.bytes_per_s: float | None = None
        self.taken = self.lost = 0
        self._needle: bytes | None = None
        self._target = (host, port)
        self._forwarding = asyncio.Event()
        self._forwarding.set()
        self._pairs: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def set_target(self, port: int) -> None:
        """Connect new clients to another port of this machine from now on."""
        self._target = (self._target[0], port)

    def stop_forwarding(self) -> None:
        """Stop forwarding bytes and closes, and keep every socket open."""
        self._forwarding.clear()

    def resume_forwarding(self) -> None:
        """Forward again."""
        self._forwarding.set()

    def drop_response_to(self, needle: bytes) -> None:
        """Forward the next request that contains `needle`, and break its connection before the
        response.
        """
        self._needle = needle

    def cut(self, every: int = 1) -> None:
        """Abort all connections, or every n-th of them."""
        for writers in list(self._pairs)[::every]:
            for writer in writers:
                writer.transport.abort()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[str]:
        """Serve on a free port. Yields the URL for clients."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=CHUNK_BYTES)
        try:
            yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self.cut()
            await server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._forwarding.wait()
        upstream = socket.socket()
        upstream.setblocking(False)
        if self.bytes_per_s is not None:  # otherwise the kernel would buffer much
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await asyncio.get_running_loop().sock_connect(upstream, self._target)
            limit = CHUNK_BYTES if self.bytes_per_s is None else 1024
            there, back = await asyncio.open_connection(sock=upstream, limit=limit)
        except OSError:
            upstream.close()
            writer.transport.abort()
            return
        self._pairs.append((writer, back))
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        losing = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back, losing, is_slow=False))
                group.create_task(self._pump(there, writer, losing, is_slow=True))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._pairs.remove((writer, back))
            writer.transport.abort()
            back.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        losing: asyncio.Event,
        *,
        is_slow: bool,
    ) -> None:
        while True:
            size = CHUNK_BYTES
            if is_slow and self.bytes_per_s is not None:
                size = max(1, int(self.bytes_per_s / 4))
            chunk = await reader.read(size)
            await self._forwarding.wait()
            if not chunk:
                raise ConnectionResetError("one side has closed")
            if not is_slow and self._needle is not None and self._needle in chunk:
                self._needle = None
                losing.set()
            if is_slow and losing.is_set():
                self.lost += 1
                raise ConnectionResetError("the response is dropped")
            if is_slow:
                self.taken += len(chunk)
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(chunk) / self.bytes_per_s)
            writer.write(chunk)
            await writer.drain()
