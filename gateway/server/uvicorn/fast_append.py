"""Serves plain appends past uvicorn's parser; any other request is uvicorn's.

What is saved is h11, which costs more than all else of an append: it is for the other forms, and
for heads that come in pieces. An append that has to wait for its commit alone is saved a task
and ASGI too; any other, and any that is refused, is the application's, asked as by every server. It
leans on uvicorn's internals, which is why its version is bounded.
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

BEGINS = b"POST " + STREAM_PREFIX.encode()
KNOWN_BYTES = 2 << 10  # of a head that is kept for as long as its connection
HELD_S = 1.0  # a head waits so long for its body before the application hears of it

_STATUS_LINES = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, phrase) for status, phrase in STATUS_PHRASES.items()
}
_WITHOUT_BODY = frozenset({204, 304})
_FORWARDED = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})

_Header = tuple[bytes, bytes]


Begin = Callable[[Scope, bytes, Respond], bool]


class FastAppendProtocol(AbortableHttpProtocol):
    """The protocol of the gateway's own server for HTTP.

    Args:
        begin: Begins to answer a request, of which it gets the scope and the body, or says that
            the application has to; None: it always has to.
        options: uvicorn's.
    """

    _later = b""  # what came while an append was being answered
    _known: RequestHead | None = None  # the last: most clients send the same one again and again
    _head: RequestHead | None = None  # of an append whose body is not all there
    _held = bytearray()  # what is there of it
    _holding: asyncio.TimerHandle | None = None

    def __init__(self, *, begin: Begin | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._begin = begin

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        cycle = self.cycle
        if isinstance(cycle, _Cycle) and not cycle.response_complete:
            # It waits for its turn, and the client with more of it.
            self._later += data
            self.flow.pause_reading()
            return
        head, data = self._taken(data, cycle)
        if head is None or len(data) > head.size:
            super().data_received(data)
            return
        self._unset_keepalive_if_required()
        if len(data) < head.size:
            self._hold(head, data)
        else:
            self._answer(head, data[len(head.data) :])

    def _taken(self, data: bytes, cycle: Any) -> tuple[RequestHead | None, bytes]:
        """Return the head of the request that is coming, and all that is there of it."""
        head = self._head
        if head is None:
            return (self._read(data) if self._is_between_requests(cycle) else None), data
        self._held += data
        return (head, bytes(self._let_go())) if len(self._held) >= head.size else (head, b"")

    def _read(self, data: bytes) -> RequestHead | None:
        known = self._known
        if known is not None and data.startswith(known.data):
            return known
        head = read_head(data, BEGINS)
        self._known = head if head is not None and len(head.data) <= KNOWN_BYTES else None
        return head

    def _hold(self, head: RequestHead, data: bytes) -> None:
        if self._head is None:
            self._head, self._held = head, bytearray(data)
            self._holding = self.loop.call_later(HELD_S, self._leave_to_h11)

    def _let_go(self) -> bytearray:
        held, self._head, self._held = self._held, None, bytearray()
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        return held

    def _leave_to_h11(self) -> None:
        """Have an append whose body is long in coming answered as far as it is there."""
        if self._head is not None:
            super().data_received(bytes(self._let_go()))

    def shutdown(self) -> None:
        """See uvicorn. What has begun to come is answered."""
        self._leave_to_h11()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._let_go()
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
        self._note_head()
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
        if not self._is_begun(cycle, body):
            self._run_asgi(cycle, self.config.loaded_app)

    def _is_begun(self, cycle: _Cycle, body: bytes) -> bool:
        if self._begin is None or self.flow.write_paused:
            return False
        if cycle.access_log and any(name in _FORWARDED for name, _ in self.headers):
            return False  # for whom a proxy speaks, uvicorn finds out on the other way
        scope: Any = cycle.scope
        return self._begin(scope, body, cycle.answer)

    def _run_asgi(self, cycle: _Cycle, app: Any) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_response_complete(self) -> None:
        """Go on with what came meanwhile."""
        super().on_response_complete()
        later, self._later = self._later, b""
        if later and not self.transport.is_closing():
            self.data_received(later)


class _Cycle(RequestResponseCycle):
    """A request that is there, and its answer, which is written in one piece."""

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
        """Write an answer that was made without ASGI, or run what will make it."""
        if not isinstance(response, Response):
            self._run_asgi(self, _answering(response))
            return
        if self.disconnected:
            return
        self.response_started = True
        self._log(response.status_code)
        try:
            self._write(response.status_code, response.raw_headers, bytes(response.body))
        except Exception as error:  # whoever calls this has others to tell
            self.logger.error("Exception in an answer\n", exc_info=error)
            self.transport.close()

    async def send(self, message: Any) -> None:
        """See ASGI."""
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
        self.transport.write(self._written(status, headers, body))
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

    def _written(self, status: int, more: Iterable[_Header], body: bytes) -> bytes:
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
    """Make an application of an answer that is being made."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = await answer
        await response(scope, receive, send)

    return app
