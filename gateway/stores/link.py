"""One WebSocket of the remote store: its calls and follows, and how it comes back when it breaks.

Source:
    PROTOCOL.md, section 4 (requests of workers) and section 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
    MalformedFrame,
    RealtimeError,
    RunNotFound,
    ShuttingDown,
    TokenExpired,
    from_wire,
)
from gateway.records import ORIGIN, Gap, Position, StreamKey
from gateway.stores.base import Page

OPEN_TIMEOUT_S = 10.0
MAX_BACKOFF_S = 5.0
FIRST_BACKOFF_S = 0.1
# Per followed stream: received but not yet taken; over it the subscription pauses.
FOLLOW_BYTES = 4 << 20
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


@dataclass(eq=False, slots=True)
class Call:
    """A request under way."""

    frame: protocol.Request
    may_repeat: bool
    answer: asyncio.Future[Any] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    was_sent: bool = False
    was_repeated: bool = False


@dataclass(eq=False, slots=True)
class Follow:
    """A stream that is followed, and what came of it and was not taken yet."""

    id: int
    key: StreamKey
    after: Position | None
    pages: deque[Page] = field(default_factory=deque)
    bytes: int = 0
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    is_paused: bool = False
    is_over: bool = False
    is_known: bool = False  # the gateway has found it
    error: RealtimeError | None = None

    def frame(self) -> protocol.Subscribe:
        """Make the frame that subscribes from where it stands."""
        start = {"position": str(self.after)} if self.after is not None else "beginning"
        run_id, stream_id = self.key
        return protocol.Subscribe(self.id, run_id, stream=stream_id, start=start)

    def take(self, frame: Any) -> bool:
        """Take a frame; true when so much waits that the subscription has to pause."""
        if isinstance(frame, protocol.ErrorFrame):
            if frame.code != RunNotFound.code or not self.is_known:
                self.fail(from_wire(frame.code, frame.message))
                return False
            frame = protocol.End(self.id, "deleted", str(self.after or ORIGIN))  # meanwhile
        self.is_known = True
        page = self._page(frame)
        if page is None or self.is_paused:
            return False
        expected = self.after.offset if self.after is not None else 0
        if page.records and page.records[0].offset != expected:
            raise MalformedFrame(
                f"stream {self.key}: record {page.records[0].offset} came where {expected} was next"
            )
        self.pages.append(page)
        self.after = page.position
        self.is_over = page.end is not None
        self.bytes += sum(len(record.data) for record in page.records)
        self.is_paused = self.bytes > FOLLOW_BYTES and not self.is_over
        self.grown.set()
        return self.is_paused

    def _page(self, frame: Any) -> Page | None:
        match frame:
            case protocol.RecordsFrame(records=records, position=position):
                run_id = self.key.run_id
                return Page([r.to_record(run_id) for r in records], Position.parse(position))
            case protocol.End(reason=reason, position=position):
                return Page([], Position.parse(position), reason)  # type: ignore[arg-type]
            case protocol.GapFrame(start=start, stop=stop, reason=reason):
                end = Position.parse(stop)
                return Page([], end, gap=Gap(Position.parse(start), end, reason))  # type: ignore[arg-type]
            case protocol.Reset(position=position, reason=reason):
                return Page([], Position.parse(position), reset=reason)  # type: ignore[arg-type]
        return None

    def fail(self, error: RealtimeError) -> None:
        """End the follow; what was received is still yielded before the error."""
        self.error, self.is_over = error, True
        self.grown.set()
