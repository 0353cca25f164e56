"""uvicorn's WebSocket protocol with direct writes of encoded frames.

An ASGI `send` costs a message, a coroutine and the framing for each connection. Here, a frame for
many connections is encoded once, and its bytes go directly to their transports. This relies on
uvicorn's internals, so its version is bounded; `tests/server/uvicorn/test_websocket_protocol.py`
fails loudly when they change.
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
BUFFERED_BYTES = 64 << 10  # of frames that the application has not read; above it, reading pauses
FRAME_BYTES = 64  # memory of a frame in addition to its payload
PIECES_PER_TICK = (
    256  # read in one iteration of the loop: at most about 5 ms, then other clients are served
)
HIGH_WATER_BYTES = 64 << 10  # of a connection's write buffer; above it, nothing more is written
CLOSE_TIMEOUT_S = 5.0  # for a client to answer a close frame

_END = b"\r\n\r\n"  # end of the handshake's request


@dataclass
class WritabilityVersion:
    """Counts changes of writability: a connection's buffer began to fill, or it closed.

    One counter for the process. A batch compares it to notice in O(1) that none of its thousands of
    sockets changed. Changes are rare, so a false alarm by another connection costs little.
    """

    count: int = 0


writability = WritabilityVersion()


class DirectWebSocketProtocol(WebSocketsSansIOProtocol):
    """The protocol; it puts itself into the scope as the connection's sink.

    The size limit starts at that of a client without `hello`, and the protocol reads one message
    at a time: the next one when the application asks for it. By then the application has raised
    the limit, or rejected the client.

    Attributes:
        is_writable: Open, and the transport's buffer is empty.
        write: The transport's method.
        socket: File descriptor for direct writes while `is_writable`; -1 if only the transport may
            write, as with TLS.
    """

    is_writable = False
    write: Callable[[bytes], None]
    socket = -1
    _is_accepted = False
    _buffer_limit: float = (
        0  # bytes of unread frames above which reading pauses; 0: one message at a time
    )
    _splitter: FrameSplitter | None = None  # set after the handshake
    _pieces: Iterator[list[bytes] | bytes] | None = None  # received, not processed
    _buffered_bytes = 0  # of frames that the application has not read
    _pong = b""  # the latest unsent pong; it waits until the transport's buffer is empty

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._inbox: Mailbox[Any] = Mailbox()  # read by the application only
        self.queue = cast(Any, self._inbox)
        self._share = BufferShare(self.config.ws_max_size)
        self.close_timeout = CLOSE_TIMEOUT_S
        # At debug level, the library would log every frame, tokens included.
        self.conn.debug = False

    def connection_made(self, transport: BaseTransport) -> None:
        """Set up direct writes. See `asyncio.Protocol`."""
        super().connection_made(transport)
        transport = cast(Transport, transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` reports any buffered byte
        self.write = transport.write
        if transport.get_extra_info("sslcontext") is None:
            self.socket = transport.get_extra_info("socket").fileno()

    def data_received(self, data: bytes) -> None:
        """Receive bytes. See `asyncio.Protocol`. Whole text frames bypass the library's parser."""
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
            self._reject_handshake()
        elif is_first and data.find(_END) == len(data) - len(_END):
            self._splitter = FrameSplitter(self.config.ws_max_size)

    def _reject_handshake(self) -> None:
        """Reject a request that is not a handshake; uvicorn would leave the client waiting."""
        answer = b"".join(self.conn.data_to_send())
        if not answer:
            reason = self.conn.handshake_exc and self.conn.handshake_exc.__cause__
            text = f"Failed to open a WebSocket connection: {reason}.\n"
            response = self.conn.reject(HTTPStatus.BAD_REQUEST, text)
            answer = response.serialize()
        self.transport.write(answer)
        self.transport.close()

    def _read_pieces(self) -> None:
        """Process received pieces; some wait for the next iteration, or for room in the buffer."""
        pieces = self._pieces or iter(())
        for count, piece in enumerate(pieces, 1):
            if isinstance(piece, list):
                self._enqueue_texts(piece)
            elif not self.transport.is_closing():  # a closing connection ignores them
                super().data_received(piece)
                self._account_unfinished()
            if self._buffered_bytes > self._buffer_limit or count == PIECES_PER_TICK:
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
        if self._buffered_bytes <= self._buffer_limit:
            self.loop.call_soon(self._read_pieces)

    def raise_limit(self, max_bytes: int, *, is_known: bool) -> None:
        """Set the size limit of messages, after the client's `hello`.

        Args:
            max_bytes: The new limit.
            is_known: The client has presented a valid token. Without one, a message over the former
                limit counts against the memory that all such clients share.
        """
        if not self._buffer_limit:
            self._buffer_limit = BUFFERED_BYTES
        self.conn.max_message_size = max_bytes
        if self._splitter is not None:
            self._splitter.max_bytes = max_bytes
        if is_known:
            self._share.end()

    def _account_unfinished(self) -> None:
        """Count the memory of an unfinished message; close the connection if none is left."""
        size = len(self.conn.reader.buffer) + sum(map(len, self.frames))
        if not self._share.hold(size):
            self.conn.fail(1013, "unauthenticated clients use too much memory; try again later")
            self.handle_parser_exception()

    def _discard_unfinished(self) -> None:
        self._share.hold(0)
        self.frames = []
        self.conn.reader.discard()

    def handle_cont(self, event: Any) -> None:
        """Join the fragments of a message as they arrive: many empty ones would use memory."""
        if isinstance(self.frames[0], bytes):
            self.frames = [cast(bytes, bytearray(self.frames[0]))]
        self.frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Send a pong. While the client reads nothing, only the latest ping is answered.

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
            # A reference cycle, which only a full GC would free, perhaps hours later.
            del scope["extensions"][EXTENSION]

    async def send(self, message: Any) -> None:
        """Send an ASGI message. Nothing follows a close frame."""
        type_ = message["type"]
        if type_ == "websocket.close":
            self._mark_closed()
        await super().send(message)
        if self._pieces is not None and self.close_sent:
            self._read_pieces()  # the client's close frame may be among them
        if type_ == "websocket.accept" and not self.transport.is_closing():
            self._is_accepted = True
            self.is_writable = self.writable.is_set()
            self._free_handshake()

    @property
    def is_open(self) -> bool:
        """Whether it is accepted, not closing, and its write buffer is not full."""
        return self._is_accepted and (
            self.is_writable or self.transport.get_write_buffer_size() <= HIGH_WATER_BYTES
        )

    def abort(self) -> None:
        """Abort the connection; buffered bytes are dropped."""
        self.transport.abort()

    def abort_later(self) -> None:
        """Abort the connection unless the client closes it within `CLOSE_TIMEOUT_S`."""
        self.loop.call_later(CLOSE_TIMEOUT_S, self.transport.abort)

    def _free_handshake(self) -> None:
        """Free the memory of the handshake: 5 KB for as long as the connection lives.

        The parser and the application refer to the same objects, so they are emptied, not replaced.
        """
        cast(list[Any], self.scope["headers"]).clear()
        self.request.headers.clear()
        self.response.headers.clear()
        del self.request, self.response

    def _mark_closed(self) -> None:
        self.is_writable = self._is_accepted = False
        self._buffer_limit = (
            math.inf
        )  # read on until the client's close frame; nothing else is buffered
        if self._splitter is not None:
            self._splitter.is_closing = True
        writability.count += 1

    def pause_writing(self) -> None:
        """Record that the transport buffers bytes. See `asyncio.Protocol`."""
        super().pause_writing()
        self.is_writable = False
        writability.count += 1

    def resume_writing(self) -> None:
        """Record that the buffer is empty again. See `asyncio.Protocol`."""
        super().resume_writing()
        self.is_writable = self._is_accepted
        self._send_pong()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop direct writes. See `asyncio.Protocol`.

        The system may reuse the file descriptor as soon as this returns, so `socket` is cleared.
        """
        self._mark_closed()
        self.socket = -1
        self._pieces = None
        self._discard_unfinished()
        super().connection_lost(exc)
        # The library's parser refers to the library, and so to everything it has read: a cycle.
        self.conn.parser.close()
        self.conn.parser_exc = self.conn.handshake_exc = None

    def shutdown(self) -> None:
        """Close with the server."""
        self._mark_closed()
        super().shutdown()

    def handle_close(self, event: Any) -> None:
        """Answer the client's close frame."""
        self._mark_closed()
        super().handle_close(event)
        if self.transport.get_write_buffer_size():
            self.abort_later()

    def send_receive_event_to_app(self) -> None:
        """Buffer a message for the application."""
        data = self.frames[0]
        self.frames = []
        if self.close_sent:
            return  # only the client's close frame still matters
        try:
            self._enqueue([bytes(data) if self.curr_msg_data_type == "bytes" else data.decode()])
        except UnicodeDecodeError:
            self._reject_text()

    def _enqueue_texts(self, texts: list[bytes]) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        frames: list[str | bytes] = []
        try:
            for text in texts:
                frames.append(text.decode())
        except UnicodeDecodeError:
            self._enqueue(frames)
            self._reject_text()
        else:
            self._enqueue(frames)

    def _enqueue(self, frames: list[str | bytes]) -> None:
        self._inbox.put_all(frames)
        self._buffered_bytes += sum(map(len, frames)) + FRAME_BYTES * len(frames)

    def _reject_text(self) -> None:
        """Close the connection after text that is not UTF-8; abort it if it is already closing."""
        try:
            self.conn.send_close(1007)
        except InvalidState:
            self.transport.abort()
        else:
            self.handle_parser_exception()

    async def receive_batch(self) -> list[str | bytes]:
        """Wait for frames, and return all that have arrived; an empty list after a disconnect."""
        self._drained()
        batch: list[str | bytes] = []
        for frame in await self._inbox.get_all():
            if isinstance(frame, dict):  # the disconnect event
                if batch:
                    self._inbox.put_nowait(frame)  # the next call returns the disconnect
                break
            batch.append(frame)
        return batch

    async def receive(self) -> Any:
        """Receive an ASGI message."""
        self._drained()
        frame = await self._inbox.get()
        if isinstance(frame, dict):
            return frame
        return {"type": "websocket.receive", "text" if isinstance(frame, str) else "bytes": frame}

    def _drained(self) -> None:
        """Resume reading: the application has processed all buffered frames."""
        if self._buffered_bytes and self._inbox.empty():
            self._buffered_bytes = 0
            if self.read_paused:
                self._read_pieces()

    def handle_parser_exception(self) -> None:
        """Close the connection after a protocol error."""
        self._mark_closed()
        self._discard_unfinished()
        super().handle_parser_exception()
        if self.transport.get_write_buffer_size():
            self.abort_later()

    def keepalive_timeout(self) -> None:
        """Close a connection that does not answer pings."""
        self._mark_closed()
        super().keepalive_timeout()


def direct_sink(websocket: WebSocket) -> DirectWebSocketProtocol | None:
    """Return the connection's sink, or None on a server without one."""
    sink: DirectWebSocketProtocol | None = websocket.scope.get("extensions", {}).get(EXTENSION)
    return sink
