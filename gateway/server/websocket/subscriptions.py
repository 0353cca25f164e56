"""The subscriptions of one connection: they are opened, take what is new in turn, and are closed.

No rule of the protocol lives here either: what a client may follow, and what it is told of it, is
for the state machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from gateway import protocol
from gateway._internal.counters import Counters
from gateway.errors import RealtimeError
from gateway.fanout.cursor import Cursor, MergedCursor
from gateway.fanout.frame import Frame
from gateway.fanout.group import PROMPT_S
from gateway.fanout.hub import Hub
from gateway.fanout.lag import LaggingReader
from gateway.fanout.tail import Batch
from gateway.model.log import Head, RunState, SetState, belongs_to_no_run
from gateway.model.records import ORIGIN, Position
from gateway.protocol import FromLast
from gateway.protocol.commands import Command, Open, OpenSet
from gateway.protocol.connection import Connection
from gateway.server.uvicorn.socket_batch import DIRECT_WIRE
from gateway.server.websocket.outbound import Outbound
from gateway.stores.base import Store

Work = Callable[[], Coroutine[Any, Any, None]]


class Host(NamedTuple):
    """What a connection does for its subscriptions.

    Attributes:
        carry: Carries commands out.
        spawn: Does some work beside; its failure is the answer for this id.
        room: Waits until the client has taken enough of its answers.
        wake_writer: Has `step` be called while there is something to take.
    """

    carry: Callable[[Iterable[Command]], None]
    spawn: Callable[[Work, int], asyncio.Task[None]]
    room: Callable[[], Awaitable[None]]
    wake_writer: Callable[[], None]


@dataclass(slots=True)
class ActiveSubscription:
    """A subscription that goes on.

    Attributes:
        id: The client's.
        cursor: Where it stands.
        throttle_s: At most one frame in this time.
        opened_set: Of runs; one that lags too far begins anew.
        quiet_until: The throttle's window, in the loop's time.
        burst_end: What was new when the window opened, and is being sent.
        timer: Runs until the window is over.
    """

    id: int
    cursor: Cursor | MergedCursor
    throttle_s: float
    opened_set: OpenSet | None = None
    quiet_until: float = 0.0
    burst_end: Position | None = None
    timer: asyncio.TimerHandle | None = None

    def is_burst_over(self) -> bool:
        """Whether a throttled client has what was new when its window opened."""
        end, at = self.burst_end, self.cursor.position
        return self.throttle_s > 0 and end is not None and at.offset >= end.offset

    def is_handed_frames(self) -> bool:
        """Whether its cursor is moved by others, so that a step here would repeat what they send.

        It may have been woken before it joined them.
        """
        return isinstance(self.cursor, Cursor) and self.cursor.is_member

    def close(self) -> None:
        """Leave the hub."""
        self.cursor.close()
        if self.timer is not None:
            self.timer.cancel()


class ActiveSubscriptions:
    """Those of one connection.

    Args:
        store: Where runs are looked up.
        hub: Where cursors come from.
        machine: Told what was opened, and what failed.
        wire: Takes what they bring.
        counters: Of what is sent.
        host: The connection.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        machine: Connection,
        wire: Outbound,
        counters: Counters,
        host: Host,
    ) -> None:
        self._store = store
        self._hub = hub
        self._machine = machine
        self._wire = wire
        self._counters = counters
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._by_id: dict[int, ActiveSubscription] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._ready: dict[int, None] = {}  # those that may have something to take
        self._sets_turn = asyncio.Lock()  # snapshots of sets are large: one after the other

    def __len__(self) -> int:
        return len(self._by_id)

    def __getitem__(self, id: int) -> ActiveSubscription:
        return self._by_id[id]

    def lagging(self) -> Iterator[LaggingReader]:
        """Yield those to streams that have records yet to take, and do not rest."""
        for subscription in self._by_id.values():
            cursor, is_resting = subscription.cursor, subscription.timer is not None
            if isinstance(cursor, Cursor) and cursor.lag and not is_resting:
                yield LaggingReader(self._machine.id, cursor.key, cursor.lag)

    # ---- begin and end ----

    def open(self, command: Open) -> None:
        """Begin to follow a stream."""
        work = partial(self._open, command)
        self._opening[command.id] = self._host.spawn(work, command.id)

    def open_set(self, command: OpenSet) -> None:
        """Begin to follow a set of runs."""
        work = partial(self._open_set, command)
        self._opening[command.id] = self._host.spawn(work, command.id)

    async def _open(self, command: Open) -> None:
        # The run first: a cursor on `$run` placed later may not miss a patch, so it is placed at
        # the snapshot's own position.
        has_no_run = belongs_to_no_run(command.key)
        run = None if has_no_run else await self._hub.find_run(command.key.run_id)
        if run is None and not has_no_run:
            del self._opening[command.id]
            self._host.carry(self._machine.opened(command.id, ORIGIN, None))
            return
        await self._hub.open_quota.acquire()
        cursor = await self._hub.cursor(
            command.key, partial(_place, command, run), command.id, partial(self._wake, command.id)
        )
        cursor.is_unthrottled = command.throttle_s <= PROMPT_S
        del self._opening[command.id]
        commands = self._machine.opened(command.id, cursor.position, run)
        self._start(ActiveSubscription(command.id, cursor, command.throttle_s), commands)

    async def _open_set(self, command: OpenSet) -> None:
        async with self._sets_turn:
            await self._host.room()
            found, cursors = await self._find_set(command)
        del self._opening[command.id]
        commands = self._machine.opened_set(command.id, found)
        self._start(ActiveSubscription(command.id, cursors, command.throttle_s, command), commands)

    async def _find_set(self, command: OpenSet) -> tuple[SetState, MergedCursor]:
        found = await self._store.list_set_runs(command.sets, command.limit)
        wake = partial(self._wake, command.id)
        return found, await self._hub.set_cursors(command.sets, found, command.id, wake)

    def _start(self, subscription: ActiveSubscription, commands: list[Command]) -> None:
        id = subscription.id
        if not self._machine.is_live(id):
            subscription.close()
        else:
            self._by_id[id] = subscription
            self._ready[id] = None
        self._host.carry(commands)

    async def _renew_set(self, command: OpenSet, reason: str) -> None:
        """Begin anew with a set whose changes are no longer kept where the client stands."""
        found, cursors = await self._find_set(command)
        subscription = self._by_id.get(command.id)
        if subscription is None or subscription.opened_set is not command:
            cursors.close()
            return  # stopped while the store was read
        subscription.cursor.close()
        subscription.cursor, subscription.burst_end = cursors, None
        self._host.carry(self._machine.opened_set(command.id, found, reason))
        self._make_ready(command.id)

    def skip(self, id: int, fields: frozenset[str]) -> None:
        """Leave these fields of runs out from now on."""
        subscription = self._by_id.get(id)
        if subscription is not None:
            subscription.cursor.exclude_fields(fields)

    def stop(self, id: int) -> None:
        """Send nothing more for this one."""
        opening = self._opening.pop(id, None)
        if opening is not None and opening is not asyncio.current_task():
            # Else it would go on under this id, which the client may use for another stream now.
            opening.cancel()
        subscription = self._by_id.pop(id, None)
        if subscription is not None:
            subscription.close()

    def close(self) -> None:
        """End all of them."""
        for subscription in self._by_id.values():
            subscription.close()
        self._by_id.clear()

    def forget_host(self) -> None:
        """Let go of the connection, so that both are freed at once and not by the collector."""
        del self._host

    # ---- who may take ----

    @property
    def is_any_ready(self) -> bool:
        """Whether one may have something to take."""
        return bool(self._ready)

    def _wake(self, id: int) -> None:
        subscription = self._by_id.get(id)
        if subscription is None or subscription.timer is not None:
            return
        if subscription.throttle_s:
            wait_s = subscription.quiet_until - self._loop.time()
            if wait_s > 0:
                subscription.timer = self._loop.call_later(wait_s, self._window_over, subscription)
                return
        self._make_ready(id)

    def _window_over(self, subscription: ActiveSubscription) -> None:
        subscription.timer = None
        self._make_ready(subscription.id)

    def _make_ready(self, id: int) -> None:
        self._ready[id] = None
        self._host.wake_writer()

    # ---- what they take ----

    async def step(self) -> None:
        """Send the next frame of the one whose turn it is; then it goes to the back of the row."""
        id = next(iter(self._ready))
        del self._ready[id]
        subscription = self._by_id.get(id)
        if subscription is None or subscription.is_handed_frames():
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
            if self._by_id.get(id) is subscription:
                self._host.carry(self._machine.failed(id, error))
            return
        if self._by_id.get(id) is not subscription:
            return  # stopped while the store was read
        if batch is None:
            subscription.burst_end = None
            self._join(subscription)
            return
        self._counters.records_sent += batch.record_count
        for frame in _frames(id, batch):
            await self._wire.send_shared(frame)
        self._after(subscription, batch)

    def _after(self, subscription: ActiveSubscription, batch: Batch) -> None:
        if self._by_id.get(subscription.id) is not subscription:
            return
        if batch.end is not None:
            self._machine.ended(subscription.id)
            self.stop(subscription.id)
        elif subscription.is_burst_over():
            subscription.burst_end = None
            subscription.quiet_until = self._loop.time() + subscription.throttle_s
            if not self._join(subscription):
                self._wake(subscription.id)
        else:
            self._make_ready(subscription.id)  # until there is nothing to take

    def _join(self, subscription: ActiveSubscription) -> bool:
        """Let frames be handed to the connection from now on, if it is of the kind that can."""
        cursor = subscription.cursor
        if self._wire.sink is None or not isinstance(cursor, Cursor):
            return False
        cursor.join(self._wire.sink, subscription.throttle_s, DIRECT_WIRE, subscription.quiet_until)
        return cursor.is_member


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


def _frames(id: int, batch: Batch) -> list[Frame]:
    frames = []
    if batch.reset is not None:
        start = Position(batch.position.epoch, 0)
        frames.append(Frame(protocol.encode(protocol.Reset(id, batch.reset, str(start)))))
    if batch.gap is not None:
        start, stop, reason = batch.gap
        frames.append(Frame(protocol.encode(protocol.GapFrame(id, str(start), str(stop), reason))))
    if batch.frame is not None:
        frames.append(batch.frame)
    if batch.end is not None:
        frames.append(Frame(protocol.encode(protocol.End(id, batch.end, str(batch.position)))))
    return frames
