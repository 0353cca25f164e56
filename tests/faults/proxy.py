"""A TCP proxy that can fall silent without closing, let bytes through slowly, or cut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PIECE_BYTES = 16 << 10


class Proxy:
    """Stands between clients and a gateway on this machine.

    Attributes:
        bytes_per_s: How fast the gateway's bytes reach the clients; None: as fast as they come.
        taken: How many bytes were taken from the gateway.
        lost: How many answers were lost; see `lose_answer_to`.
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

    def lead_to(self, port: int) -> None:
        """Lead connections that are made from now on to another port of this machine."""
        self._target = (self._target[0], port)

    def fall_silent(self) -> None:
        """Forward nothing any more, neither bytes nor closes, and keep every socket open."""
        self._forwarding.clear()

    def speak(self) -> None:
        """Forward again."""
        self._forwarding.set()

    def lose_answer_to(self, needle: bytes) -> None:
        """Forward the next request with these bytes, and break its connection before the answer."""
        self._needle = needle

    def cut(self, every: int = 1) -> None:
        """Break every connection, or every second, third… of them, at once."""
        for writers in list(self._pairs)[::every]:
            for writer in writers:
                writer.transport.abort()

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[str]:
        """Serve on a free port; gives the URL for clients."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=PIECE_BYTES)
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
        if self.bytes_per_s is not None:  # or the kernel would take a lot for a slow client
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await asyncio.get_running_loop().sock_connect(upstream, self._target)
            limit = PIECE_BYTES if self.bytes_per_s is None else 1024
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
            size = PIECE_BYTES
            if is_slow and self.bytes_per_s is not None:
                size = max(1, int(self.bytes_per_s / 4))
            piece = await reader.read(size)
            await self._forwarding.wait()
            if not piece:
                raise ConnectionResetError("one side has closed")
            if not is_slow and self._needle is not None and self._needle in piece:
                self._needle = None
                losing.set()
            if is_slow and losing.is_set():
                self.lost += 1
                raise ConnectionResetError("the answer is lost")
            if is_slow:
                self.taken += len(piece)
                if self.bytes_per_s is not None:
                    await asyncio.sleep(len(piece) / self.bytes_per_s)
            writer.write(piece)
            await writer.drain()
