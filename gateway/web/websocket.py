"""Carries one WebSocket: frames to the state machine, its commands to the store and the socket.

No rule of the protocol lives here. One task reads, one writes, one timer; requests have a task
each.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway import protocol
from gateway.commands import Close, Command, Open, OpenSet, Own, Perform, Send, Skip, Stop
from gateway.connection import Connection, Verify
from gateway.errors import Internal, RealtimeError, RunNotFound, ShuttingDown
from gateway.hub import Batch, Cursor, Cursors, Hub
from gateway.limits import Limits
from gateway.protocol import FromLast
from gateway.records import ORIGIN, Position
from gateway.sdk import schemas
from gateway.stores.base import Head, RunState, SetState, Store, belongs_to_no_run
from gateway.web.direct import frame_of, sink_of
from gateway.web.leases import Leases
from gateway.web.requests import perform

MAX_REQUESTS = 64  # under way on one connection; a client that sends more is not read meanwhile
MAX_OUTBOX = 256  # answers that wait to be sent; likewise
MAX_OUTBOX_BYTES = 1 << 20  # of them; likewise
SEND_DEADLINE_S = 60.0  # a client that takes nothing for so long is gone

Work = Callable[[], Coroutine[Any, Any, None]]

_log = logging.getLogger("realtime.websocket")


@dataclass(slots=True)
class _Subscription:
    id: int
    cursor: Cursor | Cursors
    throttle_s: float
    opened_set: OpenSet | None = None  # of runs; one that lags too far begins anew
    quiet_until: float = 0.0  # the throttle's window, in the loop's time
    burst_end: Position | None = None  # what was new when the window opened, and is being sent
    timer: asyncio.TimerHandle | None = None

    def is_burst_over(self) -> bool:
        """Whether a throttled client has what was new when its window opened."""
        end, at = self.burst_end, self.cursor.position
        return self.throttle_s > 0 and end is not None and at.offset >= end.offset

    def close(self) -> None:
        self.cursor.close()
        if self.timer is not None:
            self.timer.cancel()


class Carrier:
    """One open WebSocket.

    Args:
        websocket: Accepted.
        store: Where requests are carried out.
        hub: Where cursors come from.
        verify: Checks tokens.
        limits: What the client must stay below.
        leases: Told which worker is connected.
        clock_s: Unix time.
    """

    def __init__(
        self,
        websocket: WebSocket,
        *,
        store: Store,
        hub: Hub,
        verify: Verify,
        limits: Limits,
        leases: Leases,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._websocket = websocket
        self._store = store
        self._hub = hub
        self._leases = leases
        self._owner: str | None = None
        self._sink = sink_of(websocket)
        self._clock_s = clock_s
        self._loop = asyncio.get_running_loop()
        self._machine = Connection(f"c_{secrets.token_hex(8)}", verify, limits, clock_s())
        self._subscriptions: dict[int, _Subscription] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._ready: deque[int] = deque()  # subscriptions that may have something to take
        self._outbox: deque[str] = deque()
        self._outbox_size = 0  # in characters
        self._under_way = 0  # requests
        self._close: Close | None = None
        self._woken = asyncio.Event()
        self._drained = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at_s = float("inf")

    async def run(self) -> None:
        """Serve until either side closes."""
        reader = asyncio.create_task(self._read(), name="realtime reader")
        writer = asyncio.create_task(self._write(), name="realtime writer")
        try:
            self._arm()
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self._finish([reader, writer])

    def shut_down(self) -> None:
        """Tell the client that the gateway is going down."""
        self._carry(self._machine.close(ShuttingDown("the gateway is going down; come back")))

    @property
    def _name(self) -> str:
        return f"{self._owner or 'a client'} ({self._machine.id})"

    async def _finish(self, tasks: list[asyncio.Task[None]]) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._owner is not None:
            self._leases.release(self._owner)
        schemas.release(self._name)
        for subscription in self._subscriptions.values():
            subscription.close()
        self._subscriptions.clear()
        everyone = [*tasks, *self._tasks]
        for task in everyone:
            task.cancel()
        for outcome in await asyncio.gather(*everyone, return_exceptions=True):
            if isinstance(outcome, Exception) and not _is_gone(outcome):
                _log.error("connection %s failed", self._machine.id, exc_info=outcome)

    # ---- in ----

    async def _read(self) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] != "websocket.receive":
                return
            text = message.get("text")
            self._carry(
                self._machine.receive(message["bytes"] if text is None else text, self._clock_s())
            )
            while self._is_full():
                self._drained.clear()
                await self._drained.wait()

    def _is_full(self) -> bool:
        return (
            self._under_way >= MAX_REQUESTS
            or len(self._outbox) > MAX_OUTBOX
            or self._outbox_size > MAX_OUTBOX_BYTES
        )

    def _carry(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Send(text):
                    self._outbox.append(text)
                    self._outbox_size += len(text)
                case Open(id):
                    self._opening[id] = self._spawn(partial(self._open, command), id)
                case OpenSet(id):
                    self._opening[id] = self._spawn(partial(self._open_set, command), id)
                case Skip(id, fields):
                    self._skip(id, fields)
                case Stop(id):
                    self._stop(id)
                case Perform(request, skip):
                    self._under_way += 1
                    self._spawn(partial(self._perform, request, skip), request.id)
                case Own(owner):
                    self._owner = owner
                    self._leases.acquire(owner)
                case Close():
                    self._close = command
        self._woken.set()
        self._arm()

    def _spawn(self, work: Work, id: int) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guard(work, id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, work: Work, id: int) -> None:
        """Turn a failure into the answer for this id; the connection goes on."""
        try:
            await work()
        except RealtimeError as error:
            self._carry(self._machine.failed(id, error))
        except Exception:
            _log.exception("connection %s: request %s failed", self._machine.id, id)
            self._carry(self._machine.failed(id, Internal("the gateway failed; its log has more")))

    async def _perform(self, request: protocol.Request, skip: frozenset[str]) -> None:
        try:
            answer = await perform(self._store, request, skip, self._name)
        finally:
            self._under_way -= 1
            self._drained.set()
        self._carry(self._machine.answered(request.id, answer))

    # ---- subscriptions ----

    async def _open(self, command: Open) -> None:
        # The run first: a cursor on `$run` placed later may not miss a patch, so it is placed at
        # the snapshot's own position.
        has_no_run = belongs_to_no_run(command.key)
        run = None if has_no_run else await self._find_run(command.key.run_id)
        if run is None and not has_no_run:
            del self._opening[command.id]
            self._carry(self._machine.opened(command.id, ORIGIN, None))
            return
        cursor = await self._hub.cursor(
            command.key, partial(_place, command, run), command.id, partial(self._wake, command.id)
        )
        del self._opening[command.id]
        commands = self._machine.opened(command.id, cursor.position, run)
        self._start(_Subscription(command.id, cursor, command.throttle_s), commands)

    async def _open_set(self, command: OpenSet) -> None:
        found, cursors = await self._find_set(command)
        del self._opening[command.id]
        commands = self._machine.opened_set(command.id, found)
        self._start(_Subscription(command.id, cursors, command.throttle_s, command), commands)

    async def _find_set(self, command: OpenSet) -> tuple[SetState, Cursors]:
        found = await self._store.get_set(command.sets, command.limit)
        wake = partial(self._wake, command.id)
        return found, await self._hub.set_cursors(command.sets, found, command.id, wake)

    def _start(self, subscription: _Subscription, commands: list[Command]) -> None:
        id = subscription.id
        if not self._machine.is_live(id):
            subscription.close()
        else:
            self._subscriptions[id] = subscription
            self._ready.append(id)
        self._carry(commands)

    async def _renew_set(self, command: OpenSet, reason: str) -> None:
        """Begin anew with a set whose changes are no longer kept where the client stands."""
        found, cursors = await self._find_set(command)
        subscription = self._subscriptions.get(command.id)
        if subscription is None or subscription.opened_set is not command:
            cursors.close()
            return  # stopped while the store was read
        subscription.cursor.close()
        subscription.cursor, subscription.burst_end = cursors, None
        self._carry(self._machine.opened_set(command.id, found, reason))
        self._make_ready(command.id)

    async def _find_run(self, run_id: str) -> RunState | None:
        try:
            return await self._store.get_run(run_id)
        except RunNotFound:
            return None

    def _skip(self, id: int, fields: frozenset[str]) -> None:
        subscription = self._subscriptions.get(id)
        if subscription is not None:
            subscription.cursor.skip(fields)

    def _stop(self, id: int) -> None:
        opening = self._opening.pop(id, None)
        if opening is not None and opening is not asyncio.current_task():
            # Else it would go on under this id, which the client may use for another stream now.
            opening.cancel()
        subscription = self._subscriptions.pop(id, None)
        if subscription is not None:
            subscription.close()

    def _wake(self, id: int) -> None:
        subscription = self._subscriptions.get(id)
        if subscription is None or subscription.timer is not None:
            return
        if subscription.throttle_s:
            wait_s = subscription.quiet_until - self._loop.time()
            if wait_s > 0:
                subscription.timer = self._loop.call_later(wait_s, self._window_over, subscription)
                return
        self._make_ready(id)

    def _window_over(self, subscription: _Subscription) -> None:
        subscription.timer = None
        self._make_ready(subscription.id)

    def _make_ready(self, id: int) -> None:
        if id not in self._ready:
            self._ready.append(id)
        self._woken.set()

    # ---- out ----

    async def _write(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._outbox or (self._ready and self._close is None):
                await self._send_answers()
                if self._ready and self._close is None:
                    await self._step(self._ready.popleft())
            if self._close is not None:
                await self._websocket.close(self._close.code, self._close.reason)
                return

    async def _send_answers(self) -> None:
        while self._outbox:
            text = self._outbox.popleft()
            self._outbox_size -= len(text)
            await self._send(text)
            self._drained.set()

    async def _send(self, text: str) -> None:
        async with asyncio.timeout(SEND_DEADLINE_S):
            await self._websocket.send_text(text)

    async def _step(self, id: int) -> None:
        """Send a subscription's next frame; then it goes to the back of the row."""
        subscription = self._subscriptions.get(id)
        if subscription is None:
            return
        if subscription.burst_end is None:
            subscription.burst_end = subscription.cursor.tail_position
        try:
            batch = await subscription.cursor.next()
            if subscription.opened_set and batch and (batch.gap or batch.reset):
                reason = batch.reset or "trimmed"
                await self._renew_set(subscription.opened_set, reason)
                return
        except RealtimeError as error:
            if self._subscriptions.get(id) is subscription:
                self._carry(self._machine.failed(id, error))
            return
        if self._subscriptions.get(id) is not subscription:
            return  # stopped while the store was read
        if batch is None:
            subscription.burst_end = None
            self._join(subscription)
            return
        for text in _texts(id, batch):
            await self._send(text)
        self._after(subscription, batch)

    def _after(self, subscription: _Subscription, batch: Batch) -> None:
        if self._subscriptions.get(subscription.id) is not subscription:
            return
        if batch.end is not None:
            self._machine.ended(subscription.id)
            self._stop(subscription.id)
        elif subscription.is_burst_over():
            subscription.burst_end = None
            subscription.quiet_until = self._loop.time() + subscription.throttle_s
            if not self._join(subscription):
                self._wake(subscription.id)
        else:
            self._make_ready(subscription.id)  # until there is nothing to take

    def _join(self, subscription: _Subscription) -> bool:
        """Let frames be handed to the connection from now on, if it is of the kind that can."""
        cursor = subscription.cursor
        if self._sink is None or not isinstance(cursor, Cursor):
            return False
        cursor.join(self._sink, subscription.throttle_s, frame_of, subscription.quiet_until)
        return cursor.is_member

    # ---- time ----

    def _arm(self) -> None:
        at_s = self._machine.deadline_s()
        if self._alarm is not None and self._alarm_at_s <= at_s:
            return  # fires no later than needed, and then looks again
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at_s = at_s
        self._alarm = self._loop.call_later(max(0.0, at_s - self._clock_s()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._carry(self._machine.tick(self._clock_s()))


def _place(command: Open, run: RunState | None, head: Head) -> Position:
    if command.as_run and run is not None:
        return run.position
    match command.start:
        case "beginning":
            return ORIGIN if head.position == ORIGIN else Position(head.position.epoch, 0)
        case "latest":
            return head.position
        case FromLast(last=count):
            return Position(
                head.position.epoch, max(head.position.offset - count, head.earliest.offset)
            )
        case Position() as position:
            return position


def _texts(id: int, batch: Batch) -> list[str]:
    texts = []
    if batch.reset is not None:
        start = Position(batch.position.epoch, 0)
        texts.append(protocol.encode(protocol.Reset(id, batch.reset, str(start))))
    if batch.gap is not None:
        start, stop, reason = batch.gap
        texts.append(protocol.encode(protocol.GapFrame(id, str(start), str(stop), reason)))
    if batch.text is not None:
        texts.append(batch.text)
    if batch.end is not None:
        texts.append(protocol.encode(protocol.End(id, batch.end, str(batch.position))))
    return texts


def _is_gone(error: Exception) -> bool:
    """Whether the client is simply not there any more."""
    return isinstance(error, WebSocketDisconnect | TimeoutError | RuntimeError | OSError)
