"""The subscriptions of one connection: open, pump records in turn, close.

No rule of the protocol is here: the state machine decides what a client may subscribe to and which
frames it gets.
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
    """What the session does for its subscriptions.

    Attributes:
        execute: Executes commands.
        spawn: Runs work in a task; its exception becomes the error frame for an id.
        wait_for_room: Waits until the client has read enough of its results.
        wake_writer: Makes the writer call `pump` while a subscription is ready.
    """

    execute: Callable[[Iterable[Command]], None]
    spawn: Callable[[Work, int], asyncio.Task[None]]
    wait_for_room: Callable[[], Awaitable[None]]
    wake_writer: Callable[[], None]


@dataclass(slots=True)
class ActiveSubscription:
    """A subscription that receives records.

    Attributes:
        id: The client's id for it.
        cursor: Its position.
        throttle_s: At most one frame in this time, seconds.
        opened_set: The command that opened a set of runs. A set that lags too far is sent again.
        quiet_until: End of the throttle window, loop time.
        window_end: End of the log when the window opened; the window sends records up to it.
        timer: Runs until the window ends.
    """

    id: int
    cursor: Cursor | MergedCursor
    throttle_s: float
    opened_set: OpenSet | None = None
    quiet_until: float = 0.0
    window_end: Position | None = None
    timer: asyncio.TimerHandle | None = None

    def is_window_drained(self) -> bool:
        """Whether a throttled client has all records that existed when its window opened."""
        end, at = self.window_end, self.cursor.position
        return self.throttle_s > 0 and end is not None and at.offset >= end.offset

    def is_in_group(self) -> bool:
        """Whether a broadcast group moves its cursor; a pump here would repeat its records.

        The subscription may have been made ready before it joined the group.
        """
        return isinstance(self.cursor, Cursor) and self.cursor.is_member

    def close(self) -> None:
        """Close the cursor and cancel the timer."""
        self.cursor.close()
        if self.timer is not None:
            self.timer.cancel()


class ActiveSubscriptions:
    """The active subscriptions of one connection.

    Args:
        store: Reads sets of runs.
        hub: Opens cursors.
        machine: The state machine; learns which subscriptions opened and which failed.
        wire: Sends frames.
        counters: Counts sent records.
        host: The session's callbacks.
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
        self._outbound = wire
        self._counters = counters
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._by_id: dict[int, ActiveSubscription] = {}
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._ready: dict[int, None] = {}  # may have records to send; in the order of their turns
        self._snapshot_lock = asyncio.Lock()  # snapshots of sets are large: one at a time

    def __len__(self) -> int:
        return len(self._by_id)

    def __getitem__(self, id: int) -> ActiveSubscription:
        return self._by_id[id]

    def lagging(self) -> Iterator[LaggingReader]:
        """Yield the stream subscriptions that have records to send and are not throttled now."""
        for subscription in self._by_id.values():
            cursor, is_resting = subscription.cursor, subscription.timer is not None
            if isinstance(cursor, Cursor) and cursor.lag and not is_resting:
                yield LaggingReader(self._machine.id, cursor.key, cursor.lag)

    # ---- begin and end ----

    def open(self, command: Open) -> None:
        """Start a subscription to a stream."""
        work = partial(self._open, command)
        self._opening[command.id] = self._host.spawn(work, command.id)

    def open_set(self, command: OpenSet) -> None:
        """Start a subscription to a set of runs."""
        work = partial(self._open_set, command)
        self._opening[command.id] = self._host.spawn(work, command.id)

    async def _open(self, command: Open) -> None:
        # Read the run before opening the cursor, and start the cursor on `$run` at the snapshot's
        # own position. In the other order, a patch between the two would be lost.
        has_no_run = belongs_to_no_run(command.key)
        run = None if has_no_run else await self._hub.find_run(command.key.run_id)
        if run is None and not has_no_run:
            del self._opening[command.id]
            self._host.execute(self._machine.opened(command.id, ORIGIN, None))
            return
        await self._hub.open_quota.acquire()
        cursor = await self._hub.cursor(
            command.key,
            partial(_start_position, command, run),
            command.id,
            partial(self._wake, command.id),
        )
        cursor.is_unthrottled = command.throttle_s <= PROMPT_S
        del self._opening[command.id]
        commands = self._machine.opened(command.id, cursor.position, run)
        self._start(ActiveSubscription(command.id, cursor, command.throttle_s), commands)

    async def _open_set(self, command: OpenSet) -> None:
        async with self._snapshot_lock:
            await self._host.wait_for_room()
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
        self._host.execute(commands)

    async def _resync_set(self, command: OpenSet, reason: str) -> None:
        """Send a set's snapshot again: the log no longer has the changes that the client needs."""
        found, cursors = await self._find_set(command)
        subscription = self._by_id.get(command.id)
        if subscription is None or subscription.opened_set is not command:
            cursors.close()
            return  # stopped, or opened again, during the read
        subscription.cursor.close()
        subscription.cursor, subscription.window_end = cursors, None
        self._host.execute(self._machine.opened_set(command.id, found, reason))
        self._make_ready(command.id)

    def skip(self, id: int, fields: frozenset[str]) -> None:
        """Leave out these fields of runs from now on."""
        subscription = self._by_id.get(id)
        if subscription is not None:
            subscription.cursor.exclude_fields(fields)

    def stop(self, id: int) -> None:
        """Stop a subscription; nothing more is sent for it."""
        opening = self._opening.pop(id, None)
        if opening is not None and opening is not asyncio.current_task():
            # Otherwise it would finish opening under this id, which the client may already use for
            # another stream.
            opening.cancel()
        subscription = self._by_id.pop(id, None)
        if subscription is not None:
            subscription.close()

    def close(self) -> None:
        """Close all subscriptions."""
        for subscription in self._by_id.values():
            subscription.close()
        self._by_id.clear()

    def forget_host(self) -> None:
        """Drop the references to the session: a cycle would delay its release until a full GC."""
        del self._host

    # ---- who may take ----

    @property
    def is_any_ready(self) -> bool:
        """Whether a subscription may have records to send."""
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

    async def pump(self) -> None:
        """Send the next frame of the first ready subscription, then move it to the queue's end.

        One frame at a time, so that a subscription with a long backlog does not delay the others.
        """
        id = next(iter(self._ready))
        del self._ready[id]
        subscription = self._by_id.get(id)
        if subscription is None or subscription.is_in_group():
            return
        if subscription.window_end is None:
            subscription.window_end = subscription.cursor.tail_position
        try:
            batch = await subscription.cursor.next()
            if subscription.opened_set and batch and (batch.gap or batch.reset):
                reason = batch.reset or "trimmed"
                await self._resync_set(subscription.opened_set, reason)
                return
        except RealtimeError as error:
            if self._by_id.get(id) is subscription:
                self._host.execute(self._machine.failed(id, error))
            return
        if self._by_id.get(id) is not subscription:
            return  # stopped, or opened again, during the read
        if batch is None:
            subscription.window_end = None
            self._join(subscription)
            return
        self._counters.records_sent += batch.record_count
        for frame in _frames(id, batch):
            await self._outbound.send_shared(frame)
        self._after(subscription, batch)

    def _after(self, subscription: ActiveSubscription, batch: Batch) -> None:
        if self._by_id.get(subscription.id) is not subscription:
            return
        if batch.end is not None:
            self._machine.ended(subscription.id)
            self.stop(subscription.id)
        elif subscription.is_window_drained():
            subscription.window_end = None
            subscription.quiet_until = self._loop.time() + subscription.throttle_s
            if not self._join(subscription):
                self._wake(subscription.id)
        else:
            self._make_ready(subscription.id)  # until the cursor returns None

    def _join(self, subscription: ActiveSubscription) -> bool:
        """Let a broadcast group send from now on, where the server and the cursor allow it."""
        cursor = subscription.cursor
        if self._outbound.sink is None or not isinstance(cursor, Cursor):
            return False
        cursor.join(
            self._outbound.sink, subscription.throttle_s, DIRECT_WIRE, subscription.quiet_until
        )
        return cursor.is_member


def _start_position(command: Open, run: RunState | None, head: Head) -> Position:
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
