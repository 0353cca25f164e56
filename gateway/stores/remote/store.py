"""`ws:`: the store contract over WebSockets to a gateway, for workers in other processes.

While the gateway is unreachable, calls wait for up to `patience_s`, and are resent after the
reconnection. A repeat is harmless, because appends name their writer. An append without a writer
is not resent. All calls go over one connection, so they keep their order. Subscriptions use the
same connection, and further connections when they exceed the gateway's limit for one.

Source:
    PROTOCOL.md, section 4 (requests of workers) and section 7.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from gateway import protocol
from gateway.errors import (
    ConfigurationError,
    ConnectionLost,
    IllegalTransition,
    InvalidValue,
    MalformedFrame,
    RunExists,
    StoreUnavailable,
)
from gateway.model.limits import DEFAULT_LIMITS
from gateway.model.log import Appended, Head, Page, RunQuery, RunState, SetState
from gateway.model.patches import Operation
from gateway.model.records import EndReason, Gap, Position, RunSet, StreamKey, Writer, split_source
from gateway.model.retention import SweepResult
from gateway.model.runs import Run
from gateway.stores.append_tasks import Begun
from gateway.stores.base import PAGE_BYTES, OnAppended, OnPage
from gateway.stores.remote.connection import (
    OPEN_TIMEOUT_S,
    GatewayConnection,
    GatewayPeer,
    without_login,
)
from gateway.stores.remote.pending import PendingRequest, RemoteSubscription
from gateway.stores.run_lists import from_list

PATIENCE_S = 120.0  # how long a call waits for an unreachable gateway
IDLE_S = 30.0  # how long a further connection without subscriptions stays open


class RemoteStore:
    """The store contract over a gateway's WebSocket.

    Args:
        url: The gateway: `ws://host:port` or `wss://…`; `/v1/ws` is added to a bare host.
        token: Returns a fresh access token for each connection.
        owner: Name under which this process executes runs; they are marked crashed when the process
            is gone.
        schemas: JSON Schemas of the input streams defined here, which the gateway checks.
        patience_s: Seconds for which a call waits for an unreachable gateway.
        open_s: Seconds for which `open` waits for the gateway, by default 10. With 0 `open` does
            not wait, and calls wait instead.
        jitter: Returns a random number from 0 to 1.
    """

    def __init__(
        self,
        url: str,
        token: Callable[[], str],
        *,
        owner: str | None = None,
        schemas: Callable[[], dict[str, dict[str, Any]]] = dict,
        patience_s: float = PATIENCE_S,
        open_s: float | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._patience_s = patience_s
        self._open_s = OPEN_TIMEOUT_S if open_s is None else open_s
        self._ids = itertools.count()
        self._begun = Begun()
        self._peer = GatewayPeer(gateway_url(url), token, jitter, self._ids)
        self.url = self._peer.shown_url
        self._owner = owner
        self._schemas = schemas
        self._main = self._main_link()
        self._further: list[GatewayConnection] = []
        self._idle: dict[GatewayConnection, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def _main_link(self) -> GatewayConnection:
        return GatewayConnection(self._peer, owner=self._owner, schemas=self._schemas)

    async def open(self) -> None:
        """See `Store.open`."""
        self._main = self._main_link()
        self._main.start()
        if self._open_s == 0:
            return
        try:
            async with asyncio.timeout(self._open_s):
                await self.reach()
        except TimeoutError:
            why = f": {away}" if (away := self._main.away_because) is not None else ""
            await self.close()
            raise StoreUnavailable(
                f"no gateway answered at {self.url} within {self._open_s:g} s{why}"
            ) from None
        except BaseException:
            await self.close()
            raise

    async def reach(self) -> None:
        """Wait until the gateway has answered.

        Raises:
            RealtimeError: the gateway rejects this process.
        """
        await self._main.welcomed.wait()
        if self._main.refused is not None:
            raise self._main.refused

    async def close(self) -> None:
        """See `Store.close`."""
        for timer in self._idle.values():
            timer.cancel()
        self._idle.clear()
        links, self._further = [self._main, *self._further], []
        closed = StoreUnavailable(f"the connection to {self.url} was closed")
        await asyncio.gather(*(link.close(closed) for link in links), *self._closing)

    # ---- the contract ----

    @property
    def is_ready(self) -> bool:
        """See `Store.is_ready`: whether the gateway is connected."""
        return self._main.is_connected

    @property
    def was_reached(self) -> bool:
        """Whether the gateway has ever accepted this process."""
        return self._peer.was_welcomed

    @property
    def record_bytes(self) -> int | None:
        """Largest record that the gateway accepts, in bytes; None before the first welcome."""
        return self._main.record_bytes

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
        run_id, attempt = split_source(source)
        frame = protocol.Append(
            next(self._ids),
            key.run_id,
            key.stream_id,
            [msgspec.Raw(record) for record in records],
            writer=protocol.WriterFields(*writer) if writer else None,
            end=end,  # type: ignore[arg-type]
            source=run_id,
            attempt=attempt if attempt > 1 else msgspec.UNSET,
            order=order,
        )
        answer = await self._call(frame, may_repeat=writer is not None)
        position = Position.parse(answer.position)
        next_sequence = answer.next_sequence or None  # 1 or more after an append
        return Appended(answer.offset, position, answer.duplicate, next_sequence)

    def begin_append(
        self,
        key: StreamKey,
        records: Sequence[bytes],
        done: OnAppended,
        *,
        source: str | None = None,
        writer: Writer | None = None,
        end: EndReason | None = None,
        order: str | None = None,
    ) -> None:
        """See `Store.begin_append`."""
        append = self.append(key, records, source=source, writer=writer, end=end, order=order)
        self._begun.begin(append, done)

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
        self, key: StreamKey, after: Position | None = None, on_page: OnPage | None = None
    ) -> AsyncGenerator[Page, None]:
        """See `Store.follow`."""
        follow = RemoteSubscription(next(self._ids), key, after)
        link = self._link_with_room()
        try:
            await link.add(follow)
            while True:
                page = await link.next_page(follow)
                yield page
                if page.end is not None:
                    return
        finally:
            await link.remove(follow)
            self._close_if_idle_later(link)

    async def create_run(self, run: Run) -> Run:
        """See `Store.create_run`."""
        frame = protocol.RunCreate(next(self._ids), run.to_wire())
        try:
            return Run.from_wire(await self._value(frame))
        except RunExists:
            # Ids are unguessable: this call's first attempt created an equal run with this id.
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
        # Without a writer, a repeat could apply the operations twice.
        call = PendingRequest(frame, may_repeat=writer is not None or not operations)
        try:
            return Run.from_wire(msgspec.json.decode((await self._answer(call)).value))
        except MalformedFrame as error:
            raise InvalidValue(f"run {run_id}: the patch is refused: {error}") from None
        except IllegalTransition:
            stored = (await self.get_run(run_id)).run
            names = {"status", *(name for name in ("attempt", "owner") if name in patch)}
            is_there = all(getattr(stored, name) == patch.get(name) for name in names)
            if call.was_repeated and is_there:
                return stored  # the answer to the first attempt was lost
            raise

    async def get_run(self, run_id: str) -> RunState:
        """See `Store.get_run`."""
        value = await self._value(protocol.RunGet(next(self._ids), run_id))
        return RunState(Run.from_wire(value["run"]), Position.parse(value["position"]))

    async def delete_run(self, run_id: str) -> bool:
        """See `Store.delete_run`; False also if the answer to a successful attempt was lost."""
        return bool(await self._value(protocol.RunDelete(next(self._ids), run_id)))

    async def sweep(self) -> SweepResult:
        """See `Store.sweep`; does nothing, because the gateway sweeps."""
        return SweepResult()

    async def consume_token_use(self, token_id: str, uses: int, expires_at_ms: int) -> bool:
        """See `Store.consume_token_use`; never resent, since a repeat would consume another use."""
        frame = protocol.Spend(next(self._ids), token_id, uses, expires_at_ms)
        answer = await self._call(frame, may_repeat=False)
        return bool(msgspec.json.decode(answer.value))

    async def list_runs(self, query: RunQuery) -> list[Run]:
        """See `Store.list_runs`."""
        frame = protocol.RunList(
            next(self._ids),
            status=[*query.status] or None,  # type: ignore[list-item]
            tag=query.tag,
            parent=query.parent_id,
            batch=query.batch_id,
            owner=query.owner,
            before=query.before,
            limit=query.limit,
        )
        return [from_list(run) for run in await self._value(frame)]

    async def list_set_runs(self, sets: Sequence[RunSet], limit: int) -> SetState:
        """See `Store.list_set_runs`."""
        kind, id = sets[0]
        which = {"tags": [each.id for each in sets]} if kind == "tag" else {kind: id}
        fields = msgspec.convert(which, protocol.RunSetFields)
        value = await self._value(protocol.RunsGet(next(self._ids), fields, limit))
        return SetState(
            [from_list(run) for run in value["runs"]],
            value["has_more"],
            tuple(Position.parse(position) for position in value["positions"]),
        )

    # ---- calls ----

    async def _value(self, frame: protocol.Request, shape: Any = Any) -> Any:
        answer = await self._call(frame, may_repeat=True)
        return msgspec.json.decode(answer.value, type=shape)

    async def _call(self, frame: protocol.Request, *, may_repeat: bool) -> Any:
        return await self._answer(PendingRequest(frame, may_repeat))

    async def _answer(self, call: PendingRequest) -> Any:
        if not self._main.is_started:
            raise StoreUnavailable(f"the connection to {self.url} is not open")
        if self._main.refused is not None:
            raise self._main.refused
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._main.answer(call)
        except TimeoutError:
            why = f": {away}" if (away := self._main.away_because) is not None else ""
            raise ConnectionLost(
                f"the gateway {self.url} did not answer within {self._patience_s:g} s{why}"
            ) from None

    # ---- connections ----

    def _link_with_room(self) -> GatewayConnection:
        """Return a connection that can take another subscription; open one if needed."""
        limit = self._main.subscription_limit or DEFAULT_LIMITS.subscriptions
        for link in (self._main, *self._further):
            if link.follow_count < limit:
                if (timer := self._idle.pop(link, None)) is not None:
                    timer.cancel()
                return link
        link = GatewayConnection(self._peer)
        link.start()
        self._further.append(link)
        return link

    def _close_if_idle_later(self, link: GatewayConnection) -> None:
        if link in self._further and link.follow_count == 0 and link not in self._idle:
            loop = asyncio.get_running_loop()
            self._idle[link] = loop.call_later(IDLE_S, self._close_idle, link)

    def _close_idle(self, link: GatewayConnection) -> None:
        del self._idle[link]
        self._further.remove(link)
        closed = StoreUnavailable(f"the connection to {self.url} was closed")
        task = asyncio.create_task(link.close(closed))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def gateway_url(url: str) -> str:
    """Return the WebSocket URL of a gateway's address, which may have a path: `https://host/live`.

    Raises:
        ConfigurationError: the address is not a WebSocket or HTTP address.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its text may contain part of a password
        raise ConfigurationError(
            "the host or the port in the gateway's address is none; it looks like ws://host:port"
        ) from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.netloc or parts.query:
        # The message must not contain a password, or a token in a query.
        said = without_login(urlunsplit((parts.scheme, parts.netloc, parts.path, "", "")))
        raise ConfigurationError(
            f"{said!r}{' with a query' if parts.query else ''} is no gateway's address; it looks "
            "like ws://host:port"
        )
    prefix = parts.path.rstrip("/").removesuffix("/v1/ws")
    return urlunsplit((scheme, parts.netloc, f"{prefix}/v1/ws", "", ""))
