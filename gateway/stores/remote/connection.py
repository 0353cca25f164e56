"""One WebSocket of the remote store: its calls, its subscriptions and its reconnects.

Source:
    PROTOCOL.md, section 4 (requests of workers) and section 7.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.frames import CloseCode

from gateway import protocol
from gateway.errors import (
    ConfigurationError,
    ConnectionAged,
    ConnectionLost,
    FrameTooLarge,
    InvalidToken,
    RealtimeError,
    ShuttingDown,
    from_wire,
)
from gateway.model.log import Page
from gateway.stores.remote.pending import PendingRequest, RemoteSubscription

OPEN_TIMEOUT_S = 10.0
GOODBYE_S = 1.0  # time for the closing handshake after a refusal
MAX_BACKOFF_S = 5.0
FIRST_BACKOFF_S = 0.1
# Largest message from the gateway; a larger one fails its request. 8 MiB are enough for values
# within the current limits. The rest is for runs that an earlier version stored with a large
# output.
MAX_MESSAGE_BYTES = 64 << 20
MAX_ADVICE_S = 60.0  # a longer `retry_after` of a gateway is cut to this

_LEAVING = (ShuttingDown.code, ConnectionAged.code)
# Close codes that reject a message itself: the peer would reject it again.
_REFUSING = (CloseCode.UNSUPPORTED_DATA, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG)

_log = logging.getLogger("realtime.remote")
# At debug level the library logs every frame, including tokens.
_socket_log = logging.getLogger("realtime.remote.socket")
_socket_log.setLevel(logging.INFO)


@dataclass(slots=True)
class GatewayPeer:
    """The gateway, and the state that all connections to it share.

    Attributes:
        url: URL of the gateway's WebSocket.
        token: Returns a fresh access token for each connection.
        jitter: Returns a random number from 0 to 1.
        ids: Ids of requests and subscriptions, unique over all connections.
        was_welcomed: Whether the gateway has accepted a token of this process.
    """

    url: str
    token: Callable[[], str]
    jitter: Callable[[], float]
    ids: Iterator[int]
    was_welcomed: bool = False

    @property
    def shown_url(self) -> str:
        """The URL for messages and logs, without user and password."""
        return without_login(self.url)


def without_login(url: str) -> str:
    """Remove the user and the password from a URL."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


class GatewayConnection:
    """A connection that reconnects whenever its socket breaks, from `start` to `close`.

    Args:
        peer: The gateway.
        owner: Name under which this process executes runs; set on one connection only.
        schemas: JSON Schemas of the inputs defined here; set on one connection only.
    """

    def __init__(
        self,
        peer: GatewayPeer,
        *,
        owner: str | None = None,
        schemas: Callable[[], dict[str, dict[str, Any]]] = dict,
    ) -> None:
        self._peer = peer
        self._owner = owner
        self._schemas = schemas
        self._calls: dict[int, PendingRequest] = {}
        self._follows: dict[int, RemoteSubscription] = {}
        self._socket: ClientConnection | None = None
        self._limits: protocol.LimitFields | None = None  # None before the first welcome
        self._refused_token = ""
        self._ping_s = 0.0
        self._retry_after_s = 0.0  # delay that the gateway requested when it closed
        self._is_heard = False  # a message arrived since the last ping
        self._task: asyncio.Task[None] | None = None
        self.refused: RealtimeError | None = None  # permanent: no reconnect
        self.away_because: Exception | None = None  # last error; None while connected
        self.welcomed = asyncio.Event()  # set when welcomed or refused

    def start(self) -> None:
        """Connect, and reconnect until `close`."""
        self._task = asyncio.create_task(
            self._stay_connected(), name=f"gateway {self._peer.shown_url}"
        )
        self._task.add_done_callback(self._start_again)

    def _start_again(self, ended: asyncio.Task[None]) -> None:
        if ended.cancelled() and ended is self._task:  # canceled by code that cancels all tasks
            self._disconnected()
            self.start()

    async def close(self, error: RealtimeError) -> None:
        """Disconnect; unfinished calls and subscriptions fail with the error."""
        task, self._task = self._task, None
        if task is not None:
            if self.refused is not None:  # finish the closing handshake, or the socket stays open
                await asyncio.wait({task}, timeout=GOODBYE_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._fail_all(error)

    @property
    def is_connected(self) -> bool:
        """Whether a message sent now goes to the gateway immediately."""
        return self._socket is not None

    @property
    def is_started(self) -> bool:
        """Whether it is connected or tries to connect."""
        return self._task is not None

    @property
    def subscription_limit(self) -> int | None:
        """Largest number of subscriptions on one connection; None before the first welcome."""
        return self._limits.subscriptions if self._limits is not None else None

    @property
    def record_bytes(self) -> int | None:
        """Largest record that the gateway accepts, in bytes; None before the first welcome."""
        return self._limits.record_bytes if self._limits is not None else None

    @property
    def follow_count(self) -> int:
        """Number of subscriptions on this connection."""
        return len(self._follows)

    # ---- calls ----

    async def answer(self, call: PendingRequest) -> Any:
        """Send a request and return its answer; resend it after each reconnection."""
        self._calls[call.frame.id] = call
        try:
            if self._socket is not None:
                await self._send_call(call)
            return await call.answer
        finally:
            self._calls.pop(call.frame.id, None)

    async def _send_call(self, call: PendingRequest) -> None:
        assert self._limits is not None
        try:
            protocol.check_sent(call.frame, call.text, self._limits)
        except FrameTooLarge as error:
            call.fail(error)
            return
        call.was_repeated = call.was_sent
        call.was_sent = True
        await self._try_send_text(call.text)

    async def _try_send(self, frame: protocol.ClientFrame) -> None:
        await self._try_send_text(protocol.encode(frame))

    async def _try_send_text(self, text: str) -> None:
        """Send if connected; the next connection resends calls and subscriptions."""
        if self._socket is not None:
            try:
                await self._socket.send(text)
            except WebSocketException:
                pass

    # ---- subscriptions ----

    async def add(self, follow: RemoteSubscription) -> None:
        """Subscribe to a stream; resume at its position after each reconnection."""
        self._follows[follow.id] = follow
        if self.refused is not None:
            follow.fail(self.refused)
        await self._try_send(follow.frame())

    async def remove(self, follow: RemoteSubscription) -> None:
        """Unsubscribe from a stream."""
        if self._follows.pop(follow.id, None) is not None and not follow.is_over:
            await self._try_send(protocol.Unsubscribe(follow.id))

    async def next_page(self, follow: RemoteSubscription) -> Page:
        """Wait for a subscription's next page and return it."""
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

    async def _resume(self, follow: RemoteSubscription) -> None:
        # Under a new id: late messages for the old id must not be taken for the new subscription.
        del self._follows[follow.id]
        follow.id, follow.is_paused = next(self._peer.ids), False
        self._follows[follow.id] = follow
        await self._try_send(follow.frame())

    # ---- the connection ----

    async def _stay_connected(self) -> None:
        attempt = 0
        clock_s = asyncio.get_running_loop().time
        while True:
            began_s = clock_s()
            try:
                async with connect(
                    self._peer.url,
                    max_size=None,  # read large messages too, to fail their requests
                    compression=None,
                    logger=_socket_log,
                    open_timeout=OPEN_TIMEOUT_S,
                ) as socket:
                    if await self._greet(socket):
                        await self._receive(socket)
            except InvalidURI as error:
                self._refuse(ConfigurationError(f"REALTIME_URL: {error.msg}"))
            except (OSError, TimeoutError, WebSocketException, RealtimeError) as error:
                self._note_away(error)
            except Exception as error:  # without this, reconnects would stop
                self._note_away(error)
                _log.exception("gateway %s: the connection failed", self._peer.shown_url)
            self._disconnected()
            if self.refused is not None:
                return
            # The backoff is reset only after a connection that lasted: one that breaks immediately
            # must not be retried without a delay.
            if clock_s() - began_s > MAX_BACKOFF_S:
                attempt = 0
            limit_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**attempt)
            # The delay requested by the gateway, plus full jitter, also on the first attempt.
            await asyncio.sleep(self._take_advice() + self._peer.jitter() * limit_s)
            attempt = min(attempt + 1, 16)

    def _note_away(self, error: Exception) -> None:
        self.away_because = error
        _log.warning("gateway %s: %s; trying again", self._peer.shown_url, error)
        close = error.rcvd if isinstance(error, ConnectionClosed) else None
        if close is not None and close.code in _REFUSING:
            self._give_up_largest(close.code)

    def _give_up_largest(self, code: int) -> None:
        """Fail the largest unanswered request, the likely cause of the peer's refusal.

        The peer does not name the message. If the guess is wrong, the next connection is refused
        too, and the next largest request fails.
        """
        unanswered = [call for call in self._calls.values() if call.is_unanswered]
        if unanswered:
            call = max(unanswered, key=lambda each: len(each.text))
            size = protocol.size_of(call.text)
            call.fail(
                FrameTooLarge(
                    f"{call.name}: the frame is {size} bytes; the gateway {self._peer.shown_url}, "
                    f"or a proxy before it, refused it (close code {code}): raise its limit, or "
                    "send less"
                )
            )

    async def _greet(self, socket: ClientConnection) -> bool:
        token = self._peer.token()
        await socket.send(protocol.encode(protocol.Hello(protocol.VERSION, token, self._owner)))
        frame = await self._hear(socket)
        if isinstance(frame, protocol.ErrorFrame):
            self._heed(frame)
            error = from_wire(frame.code, f"gateway {self._peer.shown_url}: {frame.message}")
            if not (frame.retryable or self._may_show_another(error, token)):
                self._refuse(error)
                return False
            raise error
        if not isinstance(frame, protocol.Welcome):
            return False
        self._limits = frame.limits
        if not await self._register(socket):
            return False
        self._socket = socket
        self._peer.was_welcomed = True
        self._refused_token, self.away_because = "", None
        self._ping_s = frame.ping_ms / 1000
        self._is_heard = True
        self.welcomed.set()
        await self._send_again()
        return True

    def _may_show_another(self, error: RealtimeError, token: str) -> bool:
        """Whether a new token may be accepted after this one was rejected.

        The gateway's clock may have been wrong, or its keys are being rotated. Before the first
        welcome the cause is a wrong secret, and an unchanged token stays rejected: neither is
        retried.
        """
        is_another, self._refused_token = token != self._refused_token, token
        is_token = error.http_status == InvalidToken.http_status
        return is_token and self._peer.was_welcomed and is_another

    async def _hear(self, socket: ClientConnection) -> Any:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            return protocol.decode_gateway(await socket.recv())

    def _heed(self, frame: protocol.ErrorFrame) -> None:
        """Handle an error of the whole connection."""
        self._retry_after_s = frame.to_error().retry_after_s or 0.0
        if frame.code in _LEAVING:
            self._socket = None  # messages sent now would be lost; answers still arrive

    def _take_advice(self) -> float:
        advice_s, self._retry_after_s = self._retry_after_s, 0.0
        return min(advice_s, MAX_ADVICE_S)

    async def _register(self, socket: ClientConnection) -> bool:
        """Register the input schemas with the gateway; False if it does not accept them."""
        if not (schemas := self._schemas()):
            return True
        assert self._limits is not None
        frame = protocol.Register(next(self._peer.ids), schemas)
        text = protocol.encode(frame)
        try:
            protocol.check_sent(frame, text, self._limits)
        except FrameTooLarge as error:
            self._refuse(error)
            return False
        await socket.send(text)
        answer = await self._hear(socket)
        if isinstance(answer, protocol.ErrorFrame) and not answer.retryable:
            self._refuse(
                from_wire(answer.code, f"gateway {self._peer.shown_url}: {answer.message}")
            )
        return isinstance(answer, protocol.ResultFrame)

    async def _send_again(self) -> None:
        # Copies: calls and subscriptions added during these sends send themselves.
        follows, calls = list(self._follows.values()), list(self._calls.values())
        for follow in follows:
            if not follow.is_over and not follow.is_paused:
                await self._try_send(follow.frame())
        for call in calls:
            await self._send_call(call)

    async def _receive(self, socket: ClientConnection) -> None:
        ping = asyncio.create_task(self._ping(socket))
        try:
            async for text in socket:
                self._is_heard = True
                if (size := protocol.size_of(text)) > MAX_MESSAGE_BYTES:
                    await self._refuse_message(protocol.id_of(text), size)
                elif (frame := protocol.decode_gateway(text)) is not None:
                    await self._take(frame)
        finally:
            ping.cancel()

    async def _ping(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(self._ping_s)
            if not self._is_heard:
                _log.warning(
                    "gateway %s: nothing was heard since the last ping", self._peer.shown_url
                )
                socket.transport.abort()  # the peer is gone: a closing handshake would time out
                return
            self._is_heard = False
            await socket.send(protocol.encode(protocol.Ping()))
            await socket.send(protocol.encode(protocol.Token(self._peer.token())))

    async def _refuse_message(self, id: Any, size: int) -> None:
        """Fail the request or the subscription whose message is too large."""
        call, follow = self._calls.get(id), self._follows.get(id)
        name = call.name if call is not None else follow.key if follow is not None else id
        error = FrameTooLarge(
            f"{name}: the gateway's message is {size} bytes; the limit of a worker is "
            f"{MAX_MESSAGE_BYTES}: ask for less at a time"
        )
        _log.warning("gateway %s: %s", self._peer.shown_url, error)
        if call is not None:
            call.fail(error)
        if follow is not None:
            follow.fail(error)
            await self._try_send(protocol.Unsubscribe(follow.id))

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
            if call.is_unanswered and not call.may_repeat:
                call.fail(
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
            call.fail(error)
        for follow in self._follows.values():
            follow.fail(error)
