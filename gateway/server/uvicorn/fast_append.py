"""Serves plain appends past h11; uvicorn serves every other request.

h11 costs more than the rest of an append. A plain request head is parsed here instead; h11 parses
every other form. An append that only waits for its commit also saves a task and ASGI. Every other
append, and every rejected one, goes through the application, as on any server. This relies on
uvicorn's internals, so its version is bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import h11
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

from gateway.server.fast_path import STREAM_PREFIX, Respond
from gateway.server.uvicorn.http_protocol import EXTENSION, AbortableHttpProtocol
from gateway.server.uvicorn.request_head import RequestHead, read_head

FAST_PATH_PREFIX = b"POST " + STREAM_PREFIX.encode()
CACHED_HEAD_BYTES = 2 << 10  # largest head that is cached, for as long as its connection
PARTIAL_TIMEOUT_S = 1.0  # a head waits this long for its body before h11 gets both

_STATUS_LINES = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, phrase) for status, phrase in STATUS_PHRASES.items()
}
_WITHOUT_BODY = frozenset({204, 304})
_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})

_Header = tuple[bytes, bytes]


Begin = Callable[[Scope, bytes, Respond], bool]


class FastAppendProtocol(AbortableHttpProtocol):
    """The HTTP protocol of the gateway's own server.

    Args:
        begin: Starts a response, given the scope and the body, or returns False so that the
            application makes it. None: the application makes every response.
        options: uvicorn's options.
    """

    _pipelined = b""  # bytes that arrived while an append was in progress (HTTP pipelining)
    _cached_head: RequestHead | None = None  # the latest head: most clients repeat it byte for byte
    _head: RequestHead | None = None  # the head of an append whose body is incomplete
    _partial = bytearray()  # the bytes of that append so far
    _partial_timer: asyncio.TimerHandle | None = None

    def __init__(self, *, begin: Begin | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._begin = begin

    def data_received(self, data: bytes) -> None:
        """Receive bytes. See `asyncio.Protocol`."""
        cycle = self.cycle
        if isinstance(cycle, _Cycle) and not cycle.response_complete:
            # Responses go out in the order of requests, so the next request waits. Reading pauses,
            # which bounds `_pipelined` by one read of the socket.
            self._pipelined += data
            self.flow.pause_reading()
            return
        head, data = self._match_head(data, cycle)
        if head is None or len(data) > head.size:
            super().data_received(data)
            return
        self._unset_keepalive_if_required()
        if len(data) < head.size:
            self._buffer_partial(head, data)
        else:
            self._answer(head, data[len(head.data) :])

    def _match_head(self, data: bytes, cycle: Any) -> tuple[RequestHead | None, bytes]:
        """Return the head of the current request, and all bytes of it that have arrived."""
        head = self._head
        if head is None:
            return (self._read(data) if self._is_between_requests(cycle) else None), data
        self._partial += data
        return (
            (head, bytes(self._take_partial())) if len(self._partial) >= head.size else (head, b"")
        )

    def _read(self, data: bytes) -> RequestHead | None:
        known = self._cached_head
        if known is not None and data.startswith(known.data):
            return known
        head = read_head(data, FAST_PATH_PREFIX)
        self._cached_head = (
            head if head is not None and len(head.data) <= CACHED_HEAD_BYTES else None
        )
        return head

    def _buffer_partial(self, head: RequestHead, data: bytes) -> None:
        if self._head is None:
            self._head, self._partial = head, bytearray(data)
            self._partial_timer = self.loop.call_later(PARTIAL_TIMEOUT_S, self._fall_back_to_h11)

    def _take_partial(self) -> bytearray:
        held, self._head, self._partial = self._partial, None, bytearray()
        if self._partial_timer is not None:
            self._partial_timer.cancel()
            self._partial_timer = None
        return held

    def _fall_back_to_h11(self) -> None:
        """Give h11 an append whose body is slow to arrive; it has its own deadlines."""
        if self._head is not None:
            super().data_received(bytes(self._take_partial()))

    def shutdown(self) -> None:
        """Shut down. See uvicorn. A partial append is still answered, by h11."""
        self._fall_back_to_h11()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop a partial append. See `asyncio.Protocol`."""
        self._take_partial()
        super().connection_lost(exc)

    def _is_between_requests(self, cycle: Any) -> bool:
        conn = self.conn
        return (
            (cycle is None or cycle.response_complete)
            and conn.their_state is h11.IDLE
            and conn.our_state is h11.IDLE
            and not conn.trailing_data[0]
            and self.limit_concurrency is None
        )

    def _answer(self, head: RequestHead, body: bytes) -> None:
        self._on_head()
        path = head.path.decode("ascii")
        self.headers = list(head.headers)
        scope: Any = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "method": "POST",
            "root_path": self.root_path,
            "path": self.root_path + path,
            "raw_path": self.root_path.encode("ascii") + head.path,
            "query_string": b"",
            "headers": self.headers,
            "state": self.app_state.copy(),
            "extensions": {EXTENSION: self.transport.abort},
        }
        self.scope = scope
        self.cycle = cycle = _Cycle(self, body)
        if not self._starts_without_asgi(cycle, body):
            self._run_asgi(cycle, self.config.loaded_app)

    def _starts_without_asgi(self, cycle: _Cycle, body: bytes) -> bool:
        if self._begin is None or self.flow.write_paused:
            return False
        if cycle.access_log and any(name in _FORWARDED for name, _ in self.headers):
            # the application's middleware finds the client behind a proxy, for the log
            return False
        scope: Any = cycle.scope
        return self._begin(scope, body, cycle.answer)

    def _run_asgi(self, cycle: _Cycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_response_complete(self) -> None:
        """Continue with the bytes that arrived during the response."""
        super().on_response_complete()
        later, self._pipelined = self._pipelined, b""
        if later and not self.transport.is_closing():
            self.data_received(later)


class _Cycle(RequestResponseCycle):
    """A complete request and its response, which is written in one piece."""

    def __init__(self, protocol: FastAppendProtocol, body: bytes) -> None:
        self._run_asgi = protocol._run_asgi
        self.scope = protocol.scope
        self.transport = protocol.transport
        self.flow = protocol.flow
        self.logger = protocol.logger
        self.access_logger = protocol.access_logger
        self.access_log = protocol.access_log and protocol.access_logger.isEnabledFor(logging.INFO)
        self.default_headers = protocol.server_state.default_headers
        self.message_event = asyncio.Event()
        self.message_event.set()
        self.on_response = protocol.on_response_complete
        self.disconnected = False
        self.keep_alive = True
        self.waiting_for_100_continue = False
        self.body: Any = body
        self.more_body = False
        self.response_started = False
        self.response_complete = False
        self._head: Any = None

    def answer(self, response: Response | Awaitable[Response]) -> None:
        """Write a response that was made without ASGI, or run the awaitable that makes it."""
        if not isinstance(response, Response):
            self._run_asgi(self, _answering(response))
            return
        if self.disconnected:
            return
        self.response_started = True
        self._log(response.status_code)
        try:
            self._write(response.status_code, response.raw_headers, bytes(response.body))
        except Exception as error:  # the caller completes other appends too: do not fail them
            self.logger.error("Exception in an answer\n", exc_info=error)
            self.transport.close()

    async def send(self, message: Any) -> None:
        """Send an ASGI message."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if message["type"] != expected or self.response_complete:
            raise RuntimeError(f"{message['type']} was sent where {expected} was to come")
        if not self.response_started:
            self.response_started = True
            self._head = message
            self._log(message["status"])
            return
        if message.get("more_body", False):
            raise RuntimeError("the answer to an append comes in one piece")
        self._write(self._head["status"], self._head.get("headers", ()), message.get("body", b""))

    def _write(self, status: int, headers: Iterable[_Header], body: bytes) -> None:
        self.transport.write(self._serialize(status, headers, body))
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _log(self, status: int) -> None:
        if self.access_log:
            self.access_logger.info(
                '%s - "%s %s HTTP/%s" %d',
                get_client_addr(self.scope),
                self.scope["method"],
                get_path_with_query_string(self.scope),
                self.scope["http_version"],
                status,
            )

    def _serialize(self, status: int, more: Iterable[_Header], body: bytes) -> bytes:
        length, headers = None, [*self.default_headers, *more]
        lines = [_STATUS_LINES[status]]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
            lower = name.lower()
            if lower == b"content-length":
                length = value
            elif lower == b"connection" and b"close" in value.lower():
                self.keep_alive = False
        if status in _WITHOUT_BODY:
            if body:
                raise RuntimeError(f"an answer {status} has no body")
        elif length is None:
            headers.append((b"content-length", b"%d" % len(body)))
            lines += (b"content-length: ", headers[-1][1], b"\r\n")
        elif length != b"%d" % len(body):
            raise RuntimeError(f"the answer has {len(body)} bytes and says {length!r}")
        head = b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(headers) + 1 or b"\0" in head:
            raise RuntimeError("a header of the answer has more than one line")
        return head + b"\r\n" + body


def _answering(answer: Awaitable[Response]) -> ASGIApp:
    """Wrap a response that is still being made in an ASGI application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer
        await response(scope, receive, send)

    return app
