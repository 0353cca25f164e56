"""A reader and a writer over a raw WebSocket, written from PROTOCOL.md alone."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.support.faults.history import History, Key, Seen, View

# Section 7 recommends 0.5 s and 30 s. Shorter times are allowed, and make the tests faster.
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 0.6
PING_S = 0.3
STALL_S = 3.0  # without any frame, not even a pong, the connection counts as half open
OPEN_S = 5.0


class PermanentError(Exception):
    """The gateway closed with an error that a retry cannot fix."""


class ReconnectingClient:
    """A client that reconnects (section 7). Subclasses implement what it does on a connection."""

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        *,
        rng: random.Random,
        stall_s: float = STALL_S,
    ) -> None:
        self.url = url if url.endswith("/v1/ws") else f"{url}/v1/ws"
        self.connections = 0
        self.closes: list[int] = []
        self.error: dict[str, Any] = {}  # the last error frame that concerns the connection
        self.is_done = False
        self.outages_s: list[float] = []  # from a lost connection until it works again
        self._lost_s: float | None = None
        self._token = token
        self._rng = rng
        self._stall_s = stall_s
        self._received_at_s = 0.0
        self._socket: ClientConnection | None = None

    async def run(self) -> None:
        """Connect, and reconnect after each loss, until `is_done`."""
        attempt = 0
        while not self.is_done:
            limit_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**attempt)
            advice_s = self.error.pop("retry_after_ms", 0) / 1000
            await asyncio.sleep(advice_s + self._rng.random() * limit_s)
            attempt += 1
            try:
                async with asyncio.timeout(OPEN_S):
                    socket = await connect(
                        self.url, compression=None, max_size=None, ping_interval=None, proxy=None
                    )
            except (OSError, TimeoutError, WebSocketException):
                continue
            self._socket = socket
            try:
                if await self._serve(socket):
                    attempt = 0
            except (OSError, TimeoutError, WebSocketException):
                pass
            finally:
                self._socket = None
                if self._lost_s is None:
                    self._lost_s = asyncio.get_running_loop().time()
                socket.transport.abort() if self.is_stalled() else await socket.close()
            self._record_close(socket.close_code or 1006)

    def abort(self) -> None:
        """Abort the socket without a close frame, and do not reconnect."""
        self.is_done = True
        if self._socket is not None:
            self._socket.transport.abort()

    def disable_stall_timeout(self) -> None:
        """Wait long for frames, for a client whose connection is slow."""
        self._stall_s = 3600.0

    def record_recovery(self) -> None:
        """Record the length of the outage when the client works again."""
        if self._lost_s is not None:
            self.outages_s.append(asyncio.get_running_loop().time() - self._lost_s)
            self._lost_s = None

    def is_stalled(self) -> bool:
        """Return whether no frame was received for too long."""
        return asyncio.get_running_loop().time() - self._received_at_s > self._stall_s

    def _record_close(self, code: int) -> None:
        self.closes.append(code)
        if 4000 <= code < 4500 and code not in (4408, 4429) and not self.is_done:
            raise PermanentError(f"close code {code}: {self.error}")

    async def _serve(self, socket: ClientConnection) -> bool:
        self._received_at_s = asyncio.get_running_loop().time()
        await self._send(socket, type="hello", protocol=1, token=self._token())
        frame = await self._receive(socket)
        if frame["type"] != "welcome":
            self.error = frame
            return False
        self.connections += 1
        pinging = asyncio.create_task(self._ping(socket))
        try:
            await self.on_connected(socket)
            while not self.is_done:
                await self.handle(socket, await self._receive(socket))
        finally:
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)
        return True

    async def _receive(self, socket: ClientConnection) -> dict[str, Any]:
        frame = json.loads(await asyncio.wait_for(socket.recv(), self._stall_s))
        self._received_at_s = asyncio.get_running_loop().time()
        if frame["type"] == "error" and "id" not in frame:
            self.error = frame
        return frame

    async def _ping(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(PING_S)
            await self._send(socket, type="ping")

    async def _send(self, socket: ClientConnection, **frame: Any) -> None:
        await socket.send(json.dumps(frame))

    async def on_connected(self, socket: ClientConnection) -> None:
        """Send the first requests on a new connection."""

    async def handle(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        """Handle a received frame."""


class Reader(ReconnectingClient):
    """Follows one stream to its end, and resumes at its position (sections 4, 5 and 7)."""

    def __init__(self, url: str, token: Callable[[], str], view: View, **more: Any) -> None:
        self.throttle_ms = more.pop("throttle_ms", 0)
        super().__init__(url, token, **more)
        self.view = view
        self.position: str | None = None
        self.arrived: Callable[[list[dict[str, Any]]], None] = lambda records: None

    async def on_connected(self, socket: ClientConnection) -> None:
        self.view.connections += 1
        run, stream = self.view.key
        start = {"position": self.position} if self.position else "beginning"
        await self._send(
            socket,
            type="subscribe",
            id=1,
            run=run,
            stream=stream,
            start=start,
            throttle_ms=self.throttle_ms,
        )

    async def handle(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        if frame.get("id") != 1:
            return
        match frame["type"]:
            case "subscribed":
                self.record_recovery()
                self.position = frame["position"]
            case "records":
                # The history checks for missing offsets; a real client would reconnect.
                self.view.records += [
                    Seen(record["offset"], record["data"]) for record in frame["records"]
                ]
                self.position = frame["position"]
                self.arrived(frame["records"])
            case "gap":
                start, stop = (int(frame[name].split("_")[1]) for name in ("from", "to"))
                self.view.gaps.append((start, stop))
                self.position = frame["to"]
            case "reset":
                self.view.resets += 1
                self.view.records.clear()
                self.position = frame["position"]
            case "end":
                self.view.end = frame["reason"]
                self.is_done = True
            case "error" if frame["retryable"]:
                await self.on_connected(socket)
            case "error":
                raise PermanentError(str(frame))


class Writer(ReconnectingClient):
    """Appends to one stream, one append in flight; repeats unacknowledged ones (section 8)."""

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        history: History,
        key: Key,
        name: str,
        *,
        pause_s: float = 0.02,
        padding: int = 0,
        **more: Any,
    ) -> None:
        super().__init__(url, token, **more)
        self.stopping = asyncio.Event()
        self._history = history
        self._key = key
        self._name = name
        self._pause_s = pause_s
        self._padding = " " * padding  # `int` accepts trailing spaces
        self._count = 0
        self._values: list[str] = []  # of the append in flight
        self._acknowledged = 0

    async def on_connected(self, socket: ClientConnection) -> None:
        if not self._values:
            self._choose()
        await self._append(socket)

    def _choose(self) -> None:
        count = self._rng.randint(1, 5)
        self._values = [f"{self._name}:{self._count + i}{self._padding}" for i in range(count)]
        self._count += count

    async def _append(self, socket: ClientConnection) -> None:
        run, stream = self._key
        writer = {"id": self._name, "epoch": 0, "sequence": self._acknowledged}
        await self._send(
            socket,
            type="append",
            id=2,
            run=run,
            stream=stream,
            records=self._values,
            writer=writer,
        )

    async def handle(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        if frame.get("id") != 2:
            return
        if frame["type"] == "error":
            if not frame["retryable"]:
                raise PermanentError(str(frame))
            await asyncio.sleep(self._rng.random() * FIRST_BACKOFF_S)
            await self._append(socket)
            return
        for index, value in enumerate(self._values):
            offset = None if frame["offset"] is None else frame["offset"] + index
            self._history.acknowledge(self._key, value, offset)
        self._acknowledged += len(self._values)
        self._values = []
        if self.stopping.is_set():
            self.is_done = True
            return
        await asyncio.sleep(self._rng.random() * 2 * self._pause_s)
        self._choose()
        await self._append(socket)
