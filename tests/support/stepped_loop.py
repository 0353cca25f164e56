"""An event loop whose time stands still while there is something to do, and a client to watch.

What runs in it is real: store, hub, connection, carrier. Only the clock and the client's side of
the socket are the test's, so that every order of events can be had again.
"""

from __future__ import annotations

import asyncio
import json
import selectors
import struct
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket

from gateway._internal.counters import Counters
from gateway.auth.permissions import Permissions
from gateway.fanout.hub import Hub
from gateway.model.limits import Limits
from gateway.server.ops.local_leases import LocalLeases
from gateway.server.uvicorn.websocket_protocol import EXTENSION
from gateway.server.websocket.session import WebSocketSession
from gateway.stores.redis.notifications import DEAF_S, Notifications
from gateway.stores.redis.store import RedisStore
from gateway.stores.sqlite.store import SqliteStore

BEGINNING_S = 1_795_352_174.0
HIGH_WATER_BYTES = 300  # of a client's buffer; small, so that a stalled client is soon left behind


class _Selector:
    """Lets time jump to the next timer instead of waiting for it, unless a thread is at work."""

    def __init__(self, loop: SteppedLoop, selector: selectors.BaseSelector) -> None:
        self._loop = loop
        self._selector = selector

    def __getattr__(self, name: str) -> Any:
        return getattr(self._selector, name)

    def select(self, timeout: float | None = None) -> Any:
        events = self._selector.select(0)
        if events or timeout == 0:
            return events
        if self._loop.is_busy():
            return self._selector.select(10)
        assert timeout is not None, "nothing can ever happen any more: a deadlock"
        self._loop.now_s += timeout
        return []


class SteppedLoop(asyncio.SelectorEventLoop):
    """See the module.

    Attributes:
        now_s: Its time.
        is_busy: Whether a thread is still to answer.
    """

    def __init__(self) -> None:
        self.now_s = self.set_by_s = 0.0
        self.is_busy: Callable[[], bool] = lambda: False
        selector: Any = _Selector(self, selectors.DefaultSelector())
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s

    def clock_s(self) -> float:
        """Unix time as the loop has it, by a clock that was set by `set_by_s`."""
        return BEGINNING_S + self.now_s + self.set_by_s

    def pass_time(self, seconds: float = 1e-6) -> None:
        """Let everything happen that is due until then; by default, what needs no time at all."""
        self.run_until_complete(asyncio.sleep(seconds))


class CountedSqlite(SqliteStore):
    """Knows how much its threads still have to do."""

    under_way = 0

    async def _write(self, work: Any) -> Any:
        return await self._counted(super()._write(work))

    async def _read(self, work: Any) -> Any:
        return await self._counted(super()._read(work))

    async def open(self) -> None:
        await self._counted(super().open())

    async def close(self) -> None:
        await self._counted(super().close())

    async def _counted(self, work: Any) -> Any:
        self.under_way += 1
        try:
            return await work
        finally:
            self.under_way -= 1


class CountedRedis(RedisStore):
    """Knows what a server has still to answer, and to publish.

    What an append publishes comes over another connection than its answer. So a beat is sent after
    each write: the server publishes in order, and with the beat all before it has been heard.
    """

    def __init__(self, url: str, loop: SteppedLoop, **options: Any) -> None:
        super().__init__(url, clock_ms=lambda: round(loop.clock_s() * 1000), **options)
        self._bell = _CountedBell(self._servers, DEAF_S, loop.time)
        self._follows = self._bell.follows
        self._unanswered = 0
        self._call = self._servers._call
        self._servers._call = self._counted  # type: ignore[method-assign]

    @property
    def under_way(self) -> int:
        """How much is still to come."""
        return self._unanswered + self._bell.unheard

    def _counted(self, name: str, *arguments: Any) -> Any:
        future = self._call(name, *arguments)
        self._unanswered += 1
        self._bell.unheard += name == "PUBLISH" and self._bell.is_subscribed
        is_write = arguments[-1] == "write"
        future.add_done_callback(lambda _: self._answered(is_write))
        return future

    def _answered(self, is_write: bool) -> None:
        self._unanswered -= 1
        if is_write:
            self._bell.beat_once()


class _CountedBell(Notifications):
    unheard = 0  # beats, and answers to what was subscribed and unsubscribed
    is_subscribed = False  # what was published before is not heard

    def beat_once(self) -> None:
        if self._tasks:
            self._send_beats()

    async def close(self) -> None:
        await super().close()
        self.unheard = 0

    async def _connected(self) -> Any:
        self.is_subscribed, self.unheard = False, 1 + len(self.follows)
        return await super()._connected()

    def _said(self, wanted: dict[str, bool]) -> list[bytes]:
        self.unheard += len(wanted)
        return super()._said(wanted)

    def _take(self, kind: bytes, channel: str, *message: Any) -> None:
        if kind != b"message" or channel == self._beat_channel:
            self.unheard -= 1
            self.is_subscribed = True
        super()._take(kind, channel, *message)


class Sink:
    """A client's socket as the server's transport has it: a buffer that may be full.

    Attributes:
        frames: What the client has taken.
        is_writable: False, so that every time it is asked whether it is open.
    """

    is_writable = False

    def __init__(self, incoming: asyncio.Queue[dict[str, Any]]) -> None:
        self.frames: list[dict[str, Any]] = []
        self.is_stalled = False
        self._incoming = incoming
        self._buffer = b""
        self._buffer_limit = asyncio.Event()
        self._buffer_limit.set()

    @property
    def is_open(self) -> bool:
        return self._buffer_limit.is_set()

    def write(self, data: bytes) -> None:
        self._buffer += data
        self._look()

    def raise_limit(self, max_bytes: int, *, is_known: bool) -> None:
        """Take larger messages; here they come whole, whatever their size."""

    async def receive_batch(self) -> list[str]:
        """Take all that the client has sent."""
        messages = [await self._incoming.get()]
        while not self._incoming.empty():
            messages.append(self._incoming.get_nowait())
        lot = [each["text"] for each in messages if each["type"] == "websocket.receive"]
        if lot and messages[-1]["type"] != "websocket.receive":
            self._incoming.put_nowait(messages[-1])
        return lot

    async def put(self, text: str) -> None:
        """Send as ASGI does."""
        await self._buffer_limit.wait()
        payload = text.encode()
        self.write(struct.pack("!BBQ", 0x81, 127, len(payload)) + payload)

    def stall(self) -> None:
        """Take nothing any more."""
        self.is_stalled = True

    def go_on(self) -> None:
        """Take everything again."""
        self.is_stalled = False
        self._look()

    def abort(self) -> None:
        raise AssertionError("the connection was cut")

    def abort_later(self) -> None:
        raise AssertionError("the connection was closed")

    def _look(self) -> None:
        while self._buffer and not self.is_stalled:
            short = self._buffer[1]
            start = {126: 4, 127: 10}.get(short, 2)
            size = int.from_bytes(self._buffer[2:start]) if start > 2 else short
            self.frames.append(json.loads(self._buffer[start : start + size]))
            self._buffer = self._buffer[start + size :]
        if len(self._buffer) > HIGH_WATER_BYTES:
            self._buffer_limit.clear()
        else:
            self._buffer_limit.set()


class Wired:
    """A client on a real carrier.

    Args:
        loop: Runs it.
        store: The gateway's.
        hub: The gateway's.
        is_direct: The server lends its transport, as the project's own does; else plain ASGI.
    """

    def __init__(self, loop: SteppedLoop, store: Any, hub: Hub, *, is_direct: bool) -> None:
        self._loop = loop
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sink = Sink(self._incoming)
        self.close_code: int | None = None
        extensions = {EXTENSION: self.sink} if is_direct else {}
        scope = {"type": "websocket", "path": "/v1/ws", "headers": [], "extensions": extensions}
        websocket = WebSocket(scope, self._incoming.get, self._send)
        self._task = loop.create_task(self._serve(websocket, store, hub))
        self._incoming.put_nowait({"type": "websocket.connect"})
        self.send(type="hello", protocol=1, token="anything")
        loop.pass_time()
        assert self.sink.frames.pop(0)["type"] == "welcome"

    async def _serve(self, websocket: WebSocket, store: Any, hub: Hub) -> None:
        await websocket.accept()
        carrier = WebSocketSession(
            websocket,
            store=store,
            hub=hub,
            verify=_verify,
            limits=Limits(send_s=1e9),  # a stalled client of these tests comes back
            leases=LocalLeases(store),
            counters=Counters(),
            clock_s=self._loop.clock_s,
        )
        await carrier.run()

    async def _send(self, message: Any) -> None:
        if message["type"] == "websocket.send":
            await self.sink.put(message["text"])
        elif message["type"] == "websocket.close":
            self.close_code = message["code"]
        else:
            assert message["type"] == "websocket.accept", message

    def send(self, **frame: Any) -> None:
        """Send a frame."""
        self._incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(frame)})

    def leave(self) -> None:
        """Go without a word."""
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
        self._loop.run_until_complete(self._task)


def _verify(_token: object, _now_s: float) -> Permissions:
    scopes = frozenset({"read:runs:*", "write:runs:*"})
    return Permissions(scopes, expires_at_s=float("inf"), subject="", id="t")
