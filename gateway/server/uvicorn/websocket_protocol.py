"""uvicorn's WebSocket protocol with a way for the application to write whole frames at once.

An ASGI `send` costs a message, a coroutine and the framing for each connection. A frame that many
connections get is framed once here and handed to their transports as it is. It leans on uvicorn's
internals, which is why its version is bounded; `tests/server/uvicorn/test_websocket_protocol.py`
fails loudly when they move.
"""

from __future__ import annotations

import math
from asyncio.transports import BaseTransport, Transport
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from typing import Any, cast

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from gateway._internal.wakeup import Mailbox
from gateway.server.uvicorn.frame_splitter import FrameSplitter
from gateway.server.uvicorn.unauthenticated_memory import BufferShare

EXTENSION = "realtime.direct"
KEPT_BYTES = 64 << 10  # of frames that wait to be taken; over it the client is not read
FRAME_BYTES = 64  # what a frame takes in memory besides its payload, however short that is
PIECES = 256  # read in one pass of the loop: at most about 5 ms, then other clients are served
HIGH_WATER_BYTES = 64 << 10  # of a connection's buffer; over it nothing more is handed over
GOODBYE_S = 5.0  # for a client to answer a close frame

_END = b"\r\n\r\n"  # of the handshake's request


@dataclass
class WritabilityVersion:
    """Counts changes of writability: a connection's buffer began to fill, or it closed.

    One counter for the process. A batch compares it to notice in O(1) that none of its thousands of
    sockets changed. Changes are rare, so a false alarm by another connection costs little.
    """

    count: int = 0


writability = WritabilityVersion()


class DirectWebSocketProtocol(WebSocketsSansIOProtocol):
    """The protocol; itself the sink that it puts into the scope.

    It begins with the limit of a client that has not said hello, and reads one message at a time:
    the next one when the application asks for it, which by then has raised the limit, or has not.

    Attributes:
        is_clear: It is open, and nothing waits to be taken by the system.
        write: The transport's.
        socket: File descriptor to write to while it is clear; -1 if only the transport may.
    """

    is_clear = False
    write: Callable[[bytes], None]
    socket = -1
    _is_accepted = False
    _room: float = 0  # for frames that nobody has taken yet; when there are more it is not read
    _splitter: FrameSplitter | None = None  # from the handshake on
    _pieces: Iterator[list[bytes] | bytes] | None = None  # came, and are yet to be read
    _kept_bytes = 0  # of frames that nobody has taken yet
    _pong = b""  # the latest, which waits until the client takes what is before it

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._inbox: Mailbox[Any] = Mailbox()  # only the application takes from it
        self.queue = cast(Any, self._inbox)
        self._share = BufferShare(self.config.ws_max_size)
        self.close_timeout = GOODBYE_S
        # Else a server at debug level writes every frame into its log, tokens and all.
        self.conn.debug = False

    def connection_made(self, transport: BaseTransport) -> None:
        """See asyncio."""
        super().connection_made(transport)
        transport = cast(Transport, transport)
        transport.set_write_buffer_limits(high=0)  # tells when anything waits, however little
        self.write = transport.write
        if transport.get_extra_info("sslcontext") is None:
            self.socket = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        """See asyncio. Text frames that are whole go past the library's parser."""
        if self._splitter is None:
            self._receive_handshake(data)
            return
        pieces = self._splitter.split(data)
        self._pieces = pieces if self._pieces is None else chain(self._pieces, pieces)
        self._read_pieces()

    def _receive_handshake(self, data: bytes) -> None:
        is_first = not self.handshake_initiated
        super().data_received(data)
        if not self.handshake_initiated:
            self._refuse_handshake()
        elif is_first and data.find(_END) == len(data) - len(_END):
            self._splitter = FrameSplitter(self.config.ws_max_size)

    def _refuse_handshake(self) -> None:
        """Answer a request that the library takes for no handshake; uvicorn leaves it waiting."""
        answer = b"".join(self.conn.data_to_send())
        if not answer:
            reason = self.conn.handshake_exc and self.conn.handshake_exc.__cause__
            text = f"Failed to open a WebSocket connection: {reason}.\n"
            response = self.conn.reject(HTTPStatus.BAD_REQUEST, text)
            answer = response.serialize()
        self.transport.write(answer)
        self.transport.close()

    def _read_pieces(self) -> None:
        """Read some of what has come; the rest in the next pass, or when there is room for it."""
        pieces = self._pieces or iter(())
        for count, piece in enumerate(pieces, 1):
            if isinstance(piece, list):
                self._keep_texts(piece)
            elif not self.transport.is_closing():  # else all was said
                super().data_received(piece)
                self._hold_unfinished()
            if self._kept_bytes > self._room or count == PIECES:
                self._pause_reading()
                return
        self._pieces = None
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    def _pause_reading(self) -> None:
        if not (self.read_paused or self.transport.is_closing()):
            self.read_paused = True
            self.transport.pause_reading()
        if self._kept_bytes <= self._room:
            self.loop.call_soon(self._read_pieces)

    def raise_limit(self, max_bytes: int, *, is_known: bool) -> None:
        """Take messages of another size from now on: the client has said hello.

        Args:
            max_bytes: Of a message.
            is_known: It has shown a good token. If not, what is over the former limit counts
                against what all such clients have together.
        """
        if not self._room:
            self._room = KEPT_BYTES
        self.conn.max_message_size = max_bytes
        if self._splitter is not None:
            self._splitter.max_bytes = max_bytes
        if is_known:
            self._share.end()

    def _hold_unfinished(self) -> None:
        """Account for a message of which a part is here; cut it short where there is no room."""
        size = len(self.conn.reader.buffer) + sum(map(len, self.frames))
        if not self._share.hold(size):
            self.conn.fail(1013, "too much is under way from clients without a token; come back")
            self.handle_parser_exception()

    def _forget_unfinished(self) -> None:
        self._share.hold(0)
        self.frames = []
        self.conn.reader.discard()

    def handle_cont(self, event: Any) -> None:
        """Join a message's pieces as they come: many empty ones would else take memory."""
        if isinstance(self.frames[0], bytes):
            self.frames = [cast(bytes, bytearray(self.frames[0]))]
        self.frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answer, unless the client takes nothing: then only the latest is answered.

        Source:
            RFC 6455, section 5.5.3.
        """
        self._pong = b"".join(self.conn.data_to_send())
        if self.writable.is_set():
            self._send_pong()

    def _send_pong(self) -> None:
        pong, self._pong = self._pong, b""
        if pong and not self.transport.is_closing():
            self.transport.write(pong)

    async def run_asgi(self) -> None:
        """Run the application, with the sink in its scope."""
        scope: dict[str, Any] = cast(Any, self.scope)
        scope["extensions"] = {**scope["extensions"], EXTENSION: self}
        try:
            await super().run_asgi()
        finally:
            # A cycle, which the garbage collector would find with a full pass only, hours later.
            del scope["extensions"][EXTENSION]

    async def send(self, message: Any) -> None:
        """Send as ASGI does; the frame that closes is the last."""
        type_ = message["type"]
        if type_ == "websocket.close":
            self._shut()
        await super().send(message)
        if self._pieces is not None and self.close_sent:
            self._read_pieces()  # the client's goodbye may be among them
        if type_ == "websocket.accept" and not self.transport.is_closing():
            self._is_accepted = True
            self.is_clear = self.writable.is_set()
            self._forget_greeting()

    @property
    def is_open(self) -> bool:
        """Accepted, not closing, and its buffer is not full."""
        return self._is_accepted and (
            self.is_clear or self.transport.get_write_buffer_size() <= HIGH_WATER_BYTES
        )

    def abort(self) -> None:
        """Cut the connection now: what the client has not taken is dropped."""
        self.transport.abort()

    def abort_later(self) -> None:
        """Cut it, if it is still there, when the client has had time to answer the goodbye."""
        self.loop.call_later(GOODBYE_S, self.transport.abort)

    def _forget_greeting(self) -> None:
        """Let go of what only the greeting needed: 5 KB for as long as the connection lives.

        The parser and the application hold the same objects on: so they are emptied, not replaced.
        """
        cast(list[Any], self.scope["headers"]).clear()
        self.request.headers.clear()
        self.response.headers.clear()
        del self.request, self.response

    def _shut(self) -> None:
        self.is_clear = self._is_accepted = False
        self._room = math.inf  # the client's goodbye is to be read, and nothing else is kept
        if self._splitter is not None:
            self._splitter.is_closing = True
        writability.count += 1

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self.is_clear = False
        writability.count += 1

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        self.is_clear = self._is_accepted
        self._send_pong()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio. The system may give the descriptor away as soon as this is over."""
        self._shut()
        self.socket = -1
        self._pieces = None
        self._forget_unfinished()
        super().connection_lost(exc)
        # The library's parser holds the library, and so all that it had read: a cycle.
        self.conn.parser.close()
        self.conn.parser_exc = self.conn.handshake_exc = None

    def shutdown(self) -> None:
        """Close with the server."""
        self._shut()
        super().shutdown()

    def handle_close(self, event: Any) -> None:
        """Answer the client's close."""
        self._shut()
        super().handle_close(event)
        if self.transport.get_write_buffer_size():
            self.abort_later()

    def send_receive_event_to_app(self) -> None:
        """Keep a message for who takes them; the client is read on while there is room for more."""
        data = self.frames[0]
        self.frames = []
        if self.close_sent:
            return  # the application has closed, and waits for the client's goodbye
        try:
            self._keep([bytes(data) if self.curr_msg_data_type == "bytes" else data.decode()])
        except UnicodeDecodeError:
            self._refuse_text()

    def _keep_texts(self, texts: list[bytes]) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        frames: list[str | bytes] = []
        try:
            for text in texts:
                frames.append(text.decode())
        except UnicodeDecodeError:
            self._keep(frames)
            self._refuse_text()
        else:
            self._keep(frames)

    def _keep(self, frames: list[str | bytes]) -> None:
        self._inbox.put_all(frames)
        self._kept_bytes += sum(map(len, frames)) + FRAME_BYTES * len(frames)

    def _refuse_text(self) -> None:
        """Close on a text that is no UTF-8; while the client is already closing, cut it."""
        try:
            self.conn.send_close(1007)
        except InvalidState:
            self.transport.abort()
        else:
            self.handle_parser_exception()

    async def receive_lot(self) -> list[str | bytes]:
        """Take all frames that have come, once there is one; none when the client is gone."""
        self._ask()
        lot: list[str | bytes] = []
        for frame in await self._inbox.get_all():
            if isinstance(frame, dict):  # it has closed
                if lot:
                    self._inbox.put_nowait(frame)  # which is said when these are done
                break
            lot.append(frame)
        return lot

    async def receive(self) -> Any:
        """Receive as ASGI does."""
        self._ask()
        frame = await self._inbox.get()
        if isinstance(frame, dict):
            return frame
        return {"type": "websocket.receive", "text" if isinstance(frame, str) else "bytes": frame}

    def _ask(self) -> None:
        """Make room: the application has done with what it was given."""
        if self._kept_bytes and self._inbox.empty():
            self._kept_bytes = 0
            if self.read_paused:
                self._read_pieces()

    def handle_parser_exception(self) -> None:
        """Close on what is no WebSocket."""
        self._shut()
        self._forget_unfinished()
        super().handle_parser_exception()
        if self.transport.get_write_buffer_size():
            self.abort_later()

    def keepalive_timeout(self) -> None:
        """Close a connection that answers no ping."""
        self._shut()
        super().keepalive_timeout()


def direct_sink(websocket: WebSocket) -> DirectWebSocketProtocol | None:
    """Return the connection's sink; None on a server that has none."""
    sink: DirectWebSocketProtocol | None = websocket.scope.get("extensions", {}).get(EXTENSION)
    return sink
