"""`ws:`: the store contract spoken over a WebSocket to a gateway, for workers in other processes.

While the gateway is away, calls wait: they are sent again after the reconnection, for up to
`patience_s`. A repeat is harmless, because appends name their writer; an append without one is not
sent twice.

Source:
    PROTOCOL.md, section 4 (requests of workers) and section 7.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidURI, WebSocketException

from gateway import protocol
from gateway.errors import (
    ConfigurationError,
    ConnectionLost,
    IllegalTransition,
    InvalidToken,
    MalformedFrame,
    RealtimeError,
    RunExists,
    RunNotFound,
    StoreUnavailable,
    TokenExpired,
    from_wire,
)
from gateway.patches import Operation
from gateway.records import ORIGIN, EndReason, Gap, Position, RunSet, StreamKey, Writer
from gateway.runs import Run
from gateway.stores.base import PAGE_BYTES, Appended, Head, Page, RunQuery, RunState, SetState
from gateway.stores.retention import Swept

PATIENCE_S = 120.0  # how long a call waits for a gateway that is away
OPEN_TIMEOUT_S = 10.0
MAX_BACKOFF_S = 5.0
FIRST_BACKOFF_S = 0.1
FOLLOW_BYTES = (
    4 << 20
)  # per followed stream: received but not yet taken; over it the subscription pauses
MAX_MESSAGE_BYTES = 8 << 20

_log = logging.getLogger("realtime.remote")


class RemoteStore:
    """The store contract over a gateway's WebSocket.

    Args:
        url: The gateway: `ws://host:port` or `wss://…`; `/v1/ws` is added to a bare host.
        token: Gives a fresh access token for each connection.
        owner: Name under which this process executes runs: they are marked crashed when it is gone.
        schemas: JSON Schemas of the input streams defined here, for the gateway to check.
        patience_s: How long a call waits for a gateway that is away.
        jitter: Gives a number from 0 to 1.
    """

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        *,
        owner: str | None = None,
        schemas: Callable[[], dict[str, dict[str, Any]]] = dict,
        patience_s: float = PATIENCE_S,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.url = gateway_url(url)
        self._token = token
        self._owner = owner
        self._schemas = schemas
        self._patience_s = patience_s
        self._jitter = jitter
        self._ids = itertools.count()
        self._pending: dict[int, _Pending] = {}
        self._follows: dict[int, _Follow] = {}
        self._socket: ClientConnection | None = None
        self._refused: RealtimeError | None = None
        self._welcomed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See `Store.open`."""
        self._task = asyncio.create_task(self._stay_connected(), name=f"gateway {self.url}")
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await self._welcomed.wait()
        except TimeoutError:
            await self.close()
            raise StoreUnavailable(
                f"no gateway answered at {self.url} within {OPEN_TIMEOUT_S:g} s"
            ) from None
        if self._refused is not None:
            await self.close()
            raise self._refused

    async def close(self) -> None:
        """See `Store.close`."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._fail_all(StoreUnavailable(f"the connection to {self.url} was closed"))

    # ---- the contract ----

    async def append(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        *,
        source: str | None = None,
        writer: Writer | None = None,
        end: EndReason | None = None,
        order: str | None = None,
    ) -> Appended:
        """See `Store.append`."""
        frame = protocol.Append(
            next(self._ids),
            key.run_id,
            key.stream_id,
            [msgspec.Raw(record) for record in records],
            writer=protocol.WriterFields(*writer) if writer else None,
            end=end,  # type: ignore[arg-type]
            source=source,
            order=order,
        )
        answer = await self._call(frame, may_repeat=writer is not None)
        position = Position.parse(answer.position)
        next_sequence = answer.next_sequence or None  # after an append it is 1 or more
        return Appended(answer.offset, position, answer.duplicate, next_sequence)

    async def read(
        self, key: StreamKey, after: Position | None = None, max_bytes: int = PAGE_BYTES
    ) -> Page:
        """See `Store.read`."""
        place = str(after) if after is not None else None
        frame = protocol.Read(next(self._ids), *key, place, max_bytes)
        page = await self._value(frame, protocol.PageFields)
        gap = page.gap
        return Page(
            [record.to_record(key.run_id) for record in page.records],
            Position.parse(page.position),
            page.end,
            gap and Gap(Position.parse(gap["from"]), Position.parse(gap["to"]), gap["reason"]),
            page.reset,
        )

    async def head(self, key: StreamKey) -> Head:
        """See `Store.head`."""
        value = await self._value(protocol.Head(next(self._ids), *key))
        return Head(
            Position.parse(value["position"]), Position.parse(value["earliest"]), value["end"]
        )

    async def delete(self, key: StreamKey) -> None:
        """See `Store.delete`."""
        await self._value(protocol.Delete(next(self._ids), *key))

    async def follow(
        self, key: StreamKey, after: Position | None = None
    ) -> AsyncGenerator[Page, None]:
        """See `Store.follow`."""
        follow = _Follow(next(self._ids), key, after)
        self._follows[follow.id] = follow
        try:
            await self._subscribe(follow)
            while True:
                page = await self._next_page(follow)
                yield page
                if page.end is not None:
                    return
        finally:
            if self._follows.pop(follow.id, None) is not None and not follow.is_over:
                await self._try_send(protocol.Unsubscribe(follow.id))

    async def create_run(self, run: Run) -> Run:
        """See `Store.create_run`."""
        frame = protocol.RunCreate(next(self._ids), run.to_wire())
        try:
            return Run.from_wire(await self._value(frame))
        except RunExists:
            # Ids are unguessable: the same run under this id is this call's own first try.
            stored = (await self.get_run(run.id)).run
            if stored.created_at == run.created_at and stored.payload == run.payload:
                return stored
            raise

    async def patch_run(
        self,
        run_id: str,
        patch: Mapping[str, Any],
        *,
        operations: Sequence[Operation] = (),
        writer: Writer | None = None,
    ) -> Run:
        """See `Store.patch_run`."""
        frame = protocol.RunPatch(
            next(self._ids),
            run_id,
            dict(patch),
            operations=[*operations],
            writer=protocol.WriterFields(*writer) if writer else None,
        )
        # Without a writer operations could be carried out twice by a repeat.
        pending = _Pending(frame, may_repeat=writer is not None or not operations)
        try:
            return Run.from_wire(msgspec.json.decode((await self._answer(pending)).value))
        except IllegalTransition:
            stored = (await self.get_run(run_id)).run
            if pending.was_repeated and stored.status == patch.get("status"):
                return stored  # the first try's answer was lost on the way
            raise

    async def get_run(self, run_id: str) -> RunState:
        """See `Store.get_run`."""
        value = await self._value(protocol.RunGet(next(self._ids), run_id))
        return RunState(Run.from_wire(value["run"]), Position.parse(value["position"]))

    async def delete_run(self, run_id: str) -> bool:
        """See `Store.delete_run`; of a repeat after a lost answer it says that there was none."""
        return bool(await self._value(protocol.RunDelete(next(self._ids), run_id)))

    async def sweep(self) -> Swept:
        """See `Store.sweep`: the gateway does it."""
        return Swept()

    async def spend(self, token_id: str, uses: int, expires_at_ms: int) -> bool:
        """See `Store.spend`; not sent twice, since a repeat would take another use."""
        frame = protocol.Spend(next(self._ids), token_id, uses, expires_at_ms)
        answer = await self._call(frame, may_repeat=False)
        return bool(msgspec.json.decode(answer.value))

    async def list_runs(self, query: RunQuery) -> list[Run]:
        """See `Store.list_runs`."""
        frame = protocol.RunList(
            next(self._ids),
            status=[*query.status] or None,
            tag=query.tag,
            parent=query.parent_id,
            batch=query.batch_id,
            owner=query.owner,
            before=query.before,
            limit=query.limit,
        )
        return [Run.from_wire(run) for run in await self._value(frame)]

    async def get_set(self, sets: Sequence[RunSet], limit: int) -> SetState:
        """See `Store.get_set`."""
        kind, id = sets[0]
        which = {"tags": [each.id for each in sets]} if kind == "tag" else {kind: id}
        fields = msgspec.convert(which, protocol.RunSetFields)
        value = await self._value(protocol.RunsGet(next(self._ids), fields, limit))
        return SetState(
            [Run.from_wire(run) for run in value["runs"]],
            value["has_more"],
            tuple(Position.parse(position) for position in value["positions"]),
        )

    # ---- calls ----

    async def _value(self, frame: protocol.Request, shape: Any = Any) -> Any:
        answer = await self._call(frame, may_repeat=True)
        return msgspec.json.decode(answer.value, type=shape)

    async def _call(self, frame: protocol.Request, *, may_repeat: bool) -> Any:
        return await self._answer(_Pending(frame, may_repeat))

    async def _answer(self, pending: _Pending) -> Any:
        if self._task is None:
            raise StoreUnavailable(f"the connection to {self.url} is not open")
        if self._refused is not None:
            raise self._refused
        self._pending[pending.frame.id] = pending
        try:
            async with asyncio.timeout(self._patience_s):
                if self._socket is not None:
                    pending.was_sent = True
                    await self._try_send(pending.frame)
                return await pending.answer
        except TimeoutError:
            raise ConnectionLost(
                f"the gateway {self.url} did not answer within {self._patience_s:g} s"
            ) from None
        finally:
            self._pending.pop(pending.frame.id, None)

    async def _try_send(self, frame: protocol.ClientFrame) -> None:
        """Send if there is a connection; what is lost with it is sent again with the next."""
        if self._socket is not None:
            try:
                await self._socket.send(protocol.encode(frame))
            except WebSocketException:
                pass

    # ---- follows ----

    async def _subscribe(self, follow: _Follow) -> None:
        await self._try_send(follow.frame())

    async def _next_page(self, follow: _Follow) -> Page:
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

    async def _resume(self, follow: _Follow) -> None:
        # Under a new id, so that what is still on its way under the old one is not taken for it.
        del self._follows[follow.id]
        follow.id, follow.is_paused = next(self._ids), False
        self._follows[follow.id] = follow
        await self._subscribe(follow)

    # ---- the connection ----

    async def _stay_connected(self) -> None:
        attempt = 0
        while True:
            try:
                async with connect(
                    self.url,
                    max_size=MAX_MESSAGE_BYTES,
                    compression=None,
                    open_timeout=OPEN_TIMEOUT_S,
                ) as socket:
                    if await self._greet(socket):
                        attempt = 0
                        await self._receive(socket)
            except InvalidURI as error:
                self._refuse(ConfigurationError(f"REALTIME_URL: {error}"))
            except (OSError, TimeoutError, WebSocketException, RealtimeError) as error:
                _log.warning("gateway %s: %s; trying again", self.url, error)
            self._disconnected()
            if self._refused is not None:
                return
            limit_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2**attempt)
            await asyncio.sleep(self._jitter() * limit_s)  # full jitter, also the first time
            attempt = min(attempt + 1, 16)

    async def _greet(self, socket: ClientConnection) -> bool:
        await socket.send(
            protocol.encode(protocol.Hello(protocol.VERSION, self._token(), self._owner))
        )
        frame = protocol.decode_gateway(await socket.recv())
        if isinstance(frame, protocol.ErrorFrame):
            error = from_wire(frame.code, f"gateway {self.url}: {frame.message}")
            if isinstance(error, InvalidToken | TokenExpired) or not frame.retryable:
                self._refuse(error)
            return False
        if not isinstance(frame, protocol.Welcome) or not await self._register(socket):
            return False
        self._socket = socket
        self._ping_s = frame.ping_ms / 1000
        self._welcomed.set()
        await self._send_again()
        return True

    async def _register(self, socket: ClientConnection) -> bool:
        """Make the gateway check the inputs that are defined here; false if it refuses."""
        if not (schemas := self._schemas()):
            return True
        await socket.send(protocol.encode(protocol.Register(next(self._ids), schemas)))
        answer = protocol.decode_gateway(await socket.recv())
        if isinstance(answer, protocol.ErrorFrame) and not answer.retryable:
            self._refuse(from_wire(answer.code, f"gateway {self.url}: {answer.message}"))
        return isinstance(answer, protocol.ResultFrame)

    async def _send_again(self) -> None:
        # Both as they are now: what comes while these are sent is sent by itself.
        follows, calls = list(self._follows.values()), list(self._pending.values())
        for follow in follows:
            if not follow.is_over and not follow.is_paused:
                await self._subscribe(follow)
        for pending in calls:
            pending.was_repeated = pending.was_sent
            pending.was_sent = True
            await self._try_send(pending.frame)

    async def _receive(self, socket: ClientConnection) -> None:
        ping = asyncio.create_task(self._ping(socket))
        try:
            async for text in socket:
                frame = protocol.decode_gateway(text)
                if frame is not None:
                    await self._take(frame)
        finally:
            ping.cancel()

    async def _ping(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(self._ping_s)
            await socket.send(protocol.encode(protocol.Ping()))
            await socket.send(protocol.encode(protocol.Token(self._token())))

    async def _take(self, frame: Any) -> None:
        id: Any = getattr(frame, "id", None)
        if (follow := self._follows.get(id)) is not None:
            if follow.take(frame):
                await self._try_send(protocol.Unsubscribe(follow.id))
        elif (pending := self._pending.get(id)) is not None and not pending.answer.done():
            if isinstance(frame, protocol.ErrorFrame):
                pending.answer.set_exception(from_wire(frame.code, frame.message))
            else:
                pending.answer.set_result(frame)

    def _disconnected(self) -> None:
        self._socket = None
        for pending in self._pending.values():
            if pending.was_sent and not pending.may_repeat and not pending.answer.done():
                pending.answer.set_exception(
                    ConnectionLost(
                        "the connection broke before the answer; the append may have happened"
                    )
                )

    def _refuse(self, error: RealtimeError) -> None:
        self._refused = error
        self._welcomed.set()
        self._fail_all(error)

    def _fail_all(self, error: RealtimeError) -> None:
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(error)
        for follow in self._follows.values():
            follow.fail(error)


@dataclass(eq=False, slots=True)
class _Pending:
    frame: protocol.Request
    may_repeat: bool
    answer: asyncio.Future[Any] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    was_sent: bool = False
    was_repeated: bool = False


@dataclass(eq=False, slots=True)
class _Follow:
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


def gateway_url(url: str) -> str:
    """Complete a gateway's address.

    Raises:
        ConfigurationError: it is no WebSocket address.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc or parts.query:
        raise ConfigurationError(f"{url!r} is no gateway's address; it looks like ws://host:port")
    path = parts.path if parts.path.strip("/") else "/v1/ws"
    return urlunsplit((scheme, parts.netloc, path, "", ""))
