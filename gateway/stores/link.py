"""One WebSocket of the remote store: its calls and follows, and how it comes back when it breaks.

Source:
    PROTOCOL.md, section 4 (requests of workers) and section 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidURI, WebSocketException

from gateway import protocol
from gateway.errors import (
    ConfigurationError,
    ConnectionAged,
    ConnectionLost,
    InvalidToken,
    RealtimeError,
    ShuttingDown,
    TokenExpired,
    from_wire,
)
from gateway.stores.base import Page
from gateway.stores.under_way import Call, Follow

OPEN_TIMEOUT_S = 10.0
MAX_BACKOFF_S = 5.0
FIRST_BACKOFF_S = 0.1
MAX_MESSAGE_BYTES = 8 << 20
MAX_ADVICE_S = 60.0  # nobody may send a worker away for longer

_LEAVING = (ShuttingDown.code, ConnectionAged.code)

_log = logging.getLogger("realtime.remote")
# The library writes every frame, tokens and all, into a log at debug level.
_socket_log = logging.getLogger("realtime.remote.socket")
_socket_log.setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class Peer:
    """The gateway that links lead to, and what they say to it.

    Attributes:
        url: Of its WebSocket.
        token: Gives a fresh access token for each connection.
        jitter: Gives a number from 0 to 1.
        ids: Name subscriptions and requests, of all links.
    """

    url: str
    token: Callable[[], str]
    jitter: Callable[[], float]
    ids: Iterator[int]


class Link:
    """A connection that is there from `start` to `close`, however often its socket breaks.

    Args:
        peer: Where it leads.
        owner: Name under which this process executes runs, on one link only.
        schemas: JSON Schemas of the inputs defined here, on one link only.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        owner: str | None = None,
        schemas: Callable[[], dict[str, dict[str, Any]]] = dict,
    ) -> None:
        self._peer = peer
        self._owner = owner
        self._schemas = schemas
        self._calls: dict[int, Call] = {}
        self._follows: dict[int, Follow] = {}
        self._socket: ClientConnection | None = None
        self._limit: int | None = None  # of subscriptions; None before the first welcome
        self._ping_s = 0.0
        self._retry_after_s = 0.0  # what the gateway asked for when it closed
        self._is_heard = False  # something came since the last ping
        self._task: asyncio.Task[None] | None = None
        self.refused: RealtimeError | None = None
        self.welcomed = asyncio.Event()  # or refused

    def start(self) -> None:
        """Connect, and stay connected."""
        self._task = asyncio.create_task(self._stay_connected(), name=f"gateway {self._peer.url}")

    async def close(self, error: RealtimeError) -> None:
        """Disconnect; what is under way fails with the error."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._fail_all(error)

    @property
    def is_connected(self) -> bool:
        """Whether what is sent now goes to the gateway at once."""
        return self._socket is not None

    @property
    def is_started(self) -> bool:
        """Whether it is, or tries to be, connected."""
        return self._task is not None

    @property
    def subscription_limit(self) -> int | None:
        """How many streams the gateway lets one link follow; None while it has not said so."""
        return self._limit

    @property
    def follow_count(self) -> int:
        """How many streams are followed over it."""
        return len(self._follows)

    # ---- calls ----

    async def answer(self, call: Call) -> Any:
        """Send a request, again after each reconnection, and return its answer."""
        self._calls[call.frame.id] = call
        try:
            if self._socket is not None:
                call.was_sent = True
                await self._try_send(call.frame)
            return await call.answer
        finally:
            self._calls.pop(call.frame.id, None)

    async def _try_send(self, frame: protocol.ClientFrame) -> None:
        """Send if there is a connection; what is lost with it is sent again with the next."""
        if self._socket is not None:
            try:
                await self._socket.send(protocol.encode(frame))
            except WebSocketException:
                pass

    # ---- follows ----

    async def add(self, follow: Follow) -> None:
        """Follow a stream, from its place on, after each reconnection too."""
        self._follows[follow.id] = follow
        if self.refused is not None:
            follow.fail(self.refused)
        await self._try_send(follow.frame())

    async def remove(self, follow: Follow) -> None:
        """Follow it no more."""
        if self._follows.pop(follow.id, None) is not None and not follow.is_over:
            await self._try_send(protocol.Unsubscribe(follow.id))

    async def next_page(self, follow: Follow) -> Page:
        """Return a stream's next page when it is there."""
        while not follow.pages:
            if follow.is_paused:
                await self._resume(follow)
            follow.grown.clear()
            if follow.error is not None:
                raise follow.error
            await follow.grown.wait()
        page = follow.pages.popleft()
        follow.bytes -= sum(len(record.data) for record in page.records)
        return page

    async def _resume(self, follow: Follow) -> None:
        # Under a new id, so that what is still on its way under the old one is not taken for it.
        del self._follows[follow.id]
        follow.id, follow.is_paused = next(self._peer.ids), False
        self._follows[follow.id] = follow
        await self._try_send(follow.frame())

    # ---- the connection ----

    async def _stay_connected(self) -> None:
        attempt = 0
        while True:
            try:
                async with connect(
                    self._peer.url,
                    max_size=MAX_MESSAGE_BYTES,
                    compression=None,
                    logger=_socket_log,
                    open_timeout=OPEN_TIMEOUT_S,
                ) as socket:
                    if await self._greet(socket):
                        attempt = 0
                        await self._receive(socket)
            except InvalidURI as error:
                self._refuse(ConfigurationError(f"REALTIME_URL: {error}"))
            except (OSError, TimeoutError, WebSocketException, RealtimeError) as error:
                _log.warning("gateway %s: %s; trying again", self._peer.url, error)
            self._disconnected()
            if self.refused is not None:
                return
            limit_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**attempt)
            # Full jitter, also the first time, after what the gateway asked for.
            await asyncio.sleep(self._take_advice() + self._peer.jitter() * limit_s)
            attempt = min(attempt + 1, 16)

    async def _greet(self, socket: ClientConnection) -> bool:
        await socket.send(
            protocol.encode(protocol.Hello(protocol.VERSION, self._peer.token(), self._owner))
        )
        frame = await self._hear(socket)
        if isinstance(frame, protocol.ErrorFrame):
            self._heed(frame)
            error = from_wire(frame.code, f"gateway {self._peer.url}: {frame.message}")
            if isinstance(error, InvalidToken | TokenExpired) or not frame.retryable:
                self._refuse(error)
            return False
        if not isinstance(frame, protocol.Welcome) or not await self._register(socket):
            return False
        self._socket = socket
        self._ping_s = frame.ping_ms / 1000
        self._is_heard = True
        self._limit = frame.limits.subscriptions
        self.welcomed.set()
        await self._send_again()
        return True

    async def _hear(self, socket: ClientConnection) -> Any:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            return protocol.decode_gateway(await socket.recv())

    def _heed(self, frame: protocol.ErrorFrame) -> None:
        """Take note of an error that concerns the connection as a whole."""
        self._retry_after_s = frame.to_error().retry_after_s or 0.0
        if frame.code in _LEAVING:
            self._socket = None  # what is sent now would be lost; answers still come

    def _take_advice(self) -> float:
        advice_s, self._retry_after_s = self._retry_after_s, 0.0
        return min(advice_s, MAX_ADVICE_S)

    async def _register(self, socket: ClientConnection) -> bool:
        """Make the gateway check the inputs that are defined here; false if it refuses."""
        if not (schemas := self._schemas()):
            return True
        await socket.send(protocol.encode(protocol.Register(next(self._peer.ids), schemas)))
        answer = await self._hear(socket)
        if isinstance(answer, protocol.ErrorFrame) and not answer.retryable:
            self._refuse(from_wire(answer.code, f"gateway {self._peer.url}: {answer.message}"))
        return isinstance(answer, protocol.ResultFrame)

    async def _send_again(self) -> None:
        # Both as they are now: what comes while these are sent is sent by itself.
        follows, calls = list(self._follows.values()), list(self._calls.values())
        for follow in follows:
            if not follow.is_over and not follow.is_paused:
                await self._try_send(follow.frame())
        for call in calls:
            call.was_repeated = call.was_sent
            call.was_sent = True
            await self._try_send(call.frame)

    async def _receive(self, socket: ClientConnection) -> None:
        ping = asyncio.create_task(self._ping(socket))
        try:
            async for text in socket:
                self._is_heard = True
                frame = protocol.decode_gateway(text)
                if frame is not None:
                    await self._take(frame)
        finally:
            ping.cancel()

    async def _ping(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(self._ping_s)
            if not self._is_heard:
                _log.warning("gateway %s: nothing was heard since the last ping", self._peer.url)
                socket.transport.abort()  # a goodbye would be waited for, and nobody is there
                return
            self._is_heard = False
            await socket.send(protocol.encode(protocol.Ping()))
            await socket.send(protocol.encode(protocol.Token(self._peer.token())))

    async def _take(self, frame: Any) -> None:
        id: Any = getattr(frame, "id", None)
        if isinstance(frame, protocol.ErrorFrame) and frame.id is msgspec.UNSET:
            self._heed(frame)
            return
        if (follow := self._follows.get(id)) is not None:
            if follow.take(frame):
                await self._try_send(protocol.Unsubscribe(follow.id))
        elif (call := self._calls.get(id)) is not None and not call.answer.done():
            if isinstance(frame, protocol.ErrorFrame):
                call.answer.set_exception(from_wire(frame.code, frame.message))
            else:
                call.answer.set_result(frame)

    def _disconnected(self) -> None:
        self._socket = None
        for call in self._calls.values():
            if call.was_sent and not call.may_repeat and not call.answer.done():
                call.answer.set_exception(
                    ConnectionLost(
                        "the connection broke before the answer; the append may have happened"
                    )
                )

    def _refuse(self, error: RealtimeError) -> None:
        self.refused = error
        self.welcomed.set()
        self._fail_all(error)

    def _fail_all(self, error: RealtimeError) -> None:
        for call in self._calls.values():
            if not call.answer.done():
                call.answer.set_exception(error)
        for follow in self._follows.values():
            follow.fail(error)
