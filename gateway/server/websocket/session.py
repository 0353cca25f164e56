"""Carries one WebSocket: frames to the state machine, its commands to the store and the socket.

No rule of the protocol lives here. One task reads; another writes while there is something to
write; there is one timer; requests have a task each, but for appends, which are many: those are
begun at the store and answered when they are done. An idle connection is one task.

Frames that come together are one lot: each is judged by itself, and what comes of all of them is
written together, and asked of the timer once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway import protocol
from gateway._internal.counters import Counters
from gateway.auth.permissions import Permissions
from gateway.errors import Internal, RealtimeError, ShuttingDown
from gateway.fanout.hub import Hub
from gateway.fanout.lag import LaggingReader
from gateway.model.limits import Limits, arriving_bytes
from gateway.model.log import Appended
from gateway.protocol.authorization import read_key, require_read
from gateway.protocol.commands import (
    Close,
    Command,
    ExcludeFields,
    Execute,
    Open,
    OpenSet,
    RegisterOwner,
    Send,
    Stop,
)
from gateway.protocol.connection import Connection
from gateway.protocol.credentials import Admit, Verify
from gateway.sdk.values import input_schemas
from gateway.server.ops.cluster_leases import ClusterLeases
from gateway.server.ops.local_leases import LocalLeases
from gateway.server.websocket.backpressure import Backpressure, cost_of
from gateway.server.websocket.outbound import Outbound
from gateway.server.websocket.requests import appended, begin_append, perform
from gateway.server.websocket.subscriptions import ActiveSubscriptions, Host, Work
from gateway.stores.base import Store, find_run

CLOSE_S = 5.0  # for a client to take the goodbye, and for its last requests
LOT = 256  # frames that are judged in one pass of the event loop: about 3 ms

_log = logging.getLogger("realtime.websocket")


class WebSocketSession:
    """One open WebSocket.

    Args:
        websocket: Accepted.
        store: Where requests are carried out.
        hub: Where cursors come from.
        verify: Checks tokens.
        limits: What the client must stay below.
        leases: Told which worker is connected.
        name: Of the gateway; the connection's id begins with it.
        counters: Of what happens here.
        admit: Lets the subjects of its tokens in.
        ages_at_s: Time of the event loop at which it has to come back anew.
        clock_s: Unix time, for tokens; the time of the event loop, which nobody sets, is for
            liveness.
    """

    def __init__(
        self,
        websocket: WebSocket,
        *,
        store: Store,
        hub: Hub,
        verify: Verify,
        limits: Limits,
        leases: LocalLeases | ClusterLeases,
        counters: Counters,
        name: str = "",
        admit: Admit = lambda _: None,
        ages_at_s: float = math.inf,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._websocket = websocket
        self._store = store
        self._leases = leases
        self._counters = counters
        self._ended_by = "client"
        self._owner: str | None = None
        self._clock_s = clock_s
        self._loop = asyncio.get_running_loop()
        self._steady_s = self._loop.time
        self._limits = limits
        self._machine = Connection(
            f"{name or 'c'}_{secrets.token_hex(8)}",
            verify,
            limits,
            self._steady_s(),
            ages_at_s=ages_at_s,
            admit=admit,
        )
        self._hub = hub
        self._is_new = True  # has asked for nothing yet
        self._is_known = False  # has shown a good token
        self._wire = Outbound(websocket, self._steady_s, counters)
        self._flight = Backpressure(limits)
        host = Host(self._carry, self._spawn, self._flight.room, self._wake_writer)
        self._subscriptions = ActiveSubscriptions(
            store, hub, self._machine, self._wire, counters, host
        )
        self._is_deaf = False  # the client is not being read
        self._is_to_arm = False  # something may have brought the next deadline nearer
        self._waiting = 0  # requests whose tasks have yet to begin
        self._is_settling = False  # what is done will be settled in this pass of the loop
        self._close: Close | None = None
        self._cut_at_s = math.inf  # unless it is closed by then
        self._reader: asyncio.Task[Any] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._is_ended = False  # from this side
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at_s = math.inf
        self._is_closed = False  # nothing is sent any more but the goodbye
        self._is_over = False

    async def run(self) -> None:
        """Serve until either side closes."""
        self._reader = reader = asyncio.current_task()
        assert reader is not None
        try:
            self._arm()
            await self._read()
        except asyncio.CancelledError:
            if not self._is_ended:
                raise
            reader.uncancel()
            await self._say_goodbye()
        finally:
            await self._finish()

    async def _say_goodbye(self) -> None:
        # Not by the writer: granian drops the close frame of a connection that is still being read.
        if self._close is None or not self._is_closed:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._wire.close(self._close)
        except Exception as error:
            if not _is_gone(error):
                raise

    def _end(self) -> None:
        if self._reader is not None and not (self._is_ended or self._is_over):
            self._is_ended = True
            self._reader.cancel()

    @property
    def subjects(self) -> frozenset[str]:
        """Whom `admit` has let in here."""
        return self._machine.subjects

    def shut_down(self, retry_after_s: float = 0.0) -> None:
        """Tell the client that the gateway is going down.

        Its requests that are under way are still answered.

        Args:
            retry_after_s: When the client is to come back.
        """
        error = ShuttingDown("the gateway is going down; come back", retry_after_s)
        self._carry(self._machine.close(error))

    def cut(self, why: str) -> None:
        """End the connection without waiting for the client."""
        _log.info("connection %s is cut: %s", self._machine.id, why, extra=self._named())
        self._ended_by = "cut"
        self._wire.abort()
        self._end()

    def revoked(self, is_revoked: Callable[[Permissions], bool]) -> None:
        """Tell the client which of its tokens are good no more."""
        self._carry(self._machine.revoked(is_revoked))

    @property
    def _name(self) -> str:
        return f"{self._owner or 'a client'} ({self._machine.id})"

    def _named(self) -> dict[str, str]:
        """Name it, for the log."""
        return {"connection": self._machine.id, "worker": self._owner or ""}

    @property
    def subscriptions(self) -> int:
        """How many go on."""
        return len(self._subscriptions)

    def lagging(self) -> Iterator[LaggingReader]:
        """Yield those subscriptions to streams that have records yet to take."""
        return self._subscriptions.lagging()

    async def _finish(self) -> None:
        self._is_over = True
        self._counters.connections_closed[self._ended_by] += 1
        if self._alarm is not None:
            self._alarm.cancel()
        if self._owner is not None:
            self._leases.release(self._owner)
        input_schemas.release(self._name)
        self._subscriptions.close()
        everyone = [*self._tasks, *([self._writer] if self._writer is not None else [])]
        for task in everyone:
            task.cancel()
        for outcome in await asyncio.gather(*everyone, return_exceptions=True):
            if isinstance(outcome, Exception) and not _is_gone(outcome):
                id = self._machine.id
                _log.error("connection %s failed", id, exc_info=outcome, extra=self._named())
        self._subscriptions.forget_host()
        # A cancelled task holds its traceback, which holds the carrier: without these cycles all of
        # it goes now, and not with the garbage collector's next full pass, hours later.
        self._reader = self._writer = None
        self._tasks.clear()

    # ---- in ----

    async def _read(self) -> None:
        while lot := await self._wire.receive():
            if self._is_new:  # a thousand who come at once let those go before who are at work
                await self._hub.handshake_quota.acquire()
            now_s, steady_s = self._clock_s(), self._steady_s()
            for count, frame in enumerate(lot, 1):
                if not count % LOT:
                    self._settle()
                    await asyncio.sleep(0)
                self._take(self._machine.receive(frame, now_s, steady_s), len(frame))
                if self._flight.is_full:
                    self._settle()
                    self._is_deaf = self._flight.is_full
                    await self._flight.room()
                    self._is_deaf = False
                    now_s, steady_s = self._clock_s(), self._steady_s()
            if not self._is_known:
                self._raise_limit()
            self._settle()

    def _raise_limit(self) -> None:
        if self._machine.state == "ready":
            self._is_known = self._machine.is_known
            self._wire.raise_limit(arriving_bytes(self._limits), is_known=self._is_known)

    def _carry(self, commands: Iterable[Command]) -> None:
        self._is_to_arm = True
        self._take(commands)
        self._settle()

    def _settle(self) -> None:
        """Do what is to be done once for many commands."""
        self._wake_writer()
        if self._is_to_arm:
            self._is_to_arm = False
            self._arm()

    def _take(self, commands: Iterable[Command], frame_size: int = 0) -> None:
        for command in commands:
            # A request that is under way can only put the next deadline off.
            self._is_to_arm = self._is_to_arm or not isinstance(command, Execute)
            match command:
                case Send(text, refused):
                    self._flight.put(text)
                    if refused is not None:
                        self._counters.refusals[refused] += 1
                case Open():
                    self._is_new = False
                    self._subscriptions.open(command)
                case OpenSet():
                    self._is_new = False
                    self._subscriptions.open_set(command)
                case ExcludeFields(id, fields):
                    self._subscriptions.skip(id, fields)
                case Stop(id):
                    self._subscriptions.stop(id)
                case Execute():
                    self._begin(command, frame_size)
                case RegisterOwner(owner):
                    self._owner = owner
                    self._leases.acquire(owner)
                case Close():
                    self._close = command
                    self._ended_by = command.reason
                    self._cut_at_s = self._steady_s() + CLOSE_S

    def _begin(self, command: Execute, frame_size: int) -> None:
        request = command.request
        self._is_new = False
        cost = cost_of(request, frame_size)
        self._flight.begin(cost)
        # Behind requests whose tasks have yet to begin, it has to wait for its turn in one too.
        if isinstance(request, protocol.Append) and not self._waiting:
            self._begin_append(request, cost)
        else:
            self._waiting += 1
            self._spawn(partial(self._perform, command, cost), request.id)

    def _begin_append(self, request: protocol.Append, cost: int) -> None:
        done = partial(self._appended, request.id, cost)
        try:
            begin_append(self._store, request, done)
        except Exception as error:
            done(error)

    def _appended(self, id: int, cost: int, outcome: Appended | Exception) -> None:
        self._flight.end(cost)
        if self._is_over:
            return
        if isinstance(outcome, Exception):
            self._take(self._failed(id, outcome))
        else:
            self._take(self._machine.answered(id, appended(id, outcome)))
        if not self._is_settling:  # many are done with one commit
            self._is_settling = True
            self._loop.call_soon(self._settle_lot)

    def _settle_lot(self) -> None:
        self._is_settling = False
        self._settle()

    def _spawn(self, work: Work, id: int) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guard(work, id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guard(self, work: Work, id: int) -> None:
        """Turn a failure into the answer for this id; the connection goes on."""
        try:
            await work()
        except Exception as error:
            self._carry(self._failed(id, error))

    def _failed(self, id: int, error: Exception) -> list[Command]:
        if not isinstance(error, RealtimeError):
            where, named = self._machine.id, self._named()
            _log.error("connection %s: request %s failed", where, id, exc_info=error, extra=named)
            error = Internal("the gateway failed; its log has more")
        return self._machine.failed(id, error)

    async def _perform(self, command: Execute, cost: int) -> None:
        self._waiting -= 1
        request = command.request
        try:
            if command.judged_by is not None:
                await self._judge(request, command.judged_by)
            answer = await perform(self._store, request, command.skip, self._name)
        finally:
            self._flight.end(cost)
        self._carry(self._machine.answered(request.id, answer))

    async def _judge(self, request: protocol.Request, access: Permissions) -> None:
        if isinstance(request, protocol.Head | protocol.Read | protocol.RunGet):
            key = read_key(request)
            require_read(access, key, await find_run(self._store, key.run_id))

    # ---- out ----

    def _wake_writer(self) -> None:
        if self._writer is not None or self._is_over:
            return
        while self._close is None and self._flight.answers and self._wire.is_open:
            self._wire.hand_over(self._flight.take_lot())  # a task would cost more than this
        if self._has_work():
            self._writer = asyncio.create_task(self._write(), name="realtime writer")
            self._writer.add_done_callback(self._written)

    def _written(self, writer: asyncio.Task[None]) -> None:
        if self._is_over or writer.cancelled():
            return
        if writer.exception() is not None or self._is_closed:
            self._end()  # `_finish` looks at what it came to
            return
        self._writer = None
        if self._has_work():  # came since it looked for the last time
            self._wake_writer()

    async def _write(self) -> None:
        while self._has_work():
            await self._send_answers()
            if self._subscriptions.is_any_ready and self._close is None:
                await self._subscriptions.step()
            elif self._close is not None and not self._is_finishing():
                self._is_closed = True
                return

    def _has_work(self) -> bool:
        if self._close is None:
            return bool(self._flight.answers) or self._subscriptions.is_any_ready
        return bool(self._flight.answers) or not (self._is_finishing() or self._is_closed)

    def _is_finishing(self) -> bool:
        """Whether requests of a client that is asked to come back are still to be answered."""
        return self._close is not None and self._close.is_gentle and self._flight.requests > 0

    async def _send_answers(self) -> None:
        while self._flight.answers:
            await self._wire.send(self._flight.take())

    # ---- time ----

    def _arm(self) -> None:
        if self._is_over:
            return
        steady_s = self._steady_s()
        due_at_s = steady_s + self._machine.due_in_s(self._clock_s(), steady_s)
        at_s = min(due_at_s, self._cut_at_s, self._stalled_at_s(steady_s))
        if self._alarm is not None and self._alarm_at_s <= at_s:
            return  # fires no later than needed, and then looks again
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at_s = at_s
        self._alarm = self._loop.call_later(max(0.0, at_s - steady_s), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        steady_s = self._steady_s()
        if steady_s >= self._cut_at_s:
            self.cut("it did not take the goodbye")
        elif steady_s >= self._stalled_at_s(steady_s):
            self.cut(f"it took nothing and said nothing for {self._limits.send_s:g} s")
        else:
            if self._is_deaf:
                self._machine.deaf(steady_s)
            self._carry(self._machine.tick(self._clock_s(), steady_s))

    def _stalled_at_s(self, steady_s: float) -> float:
        """Time at which the client is given up, if it goes on like this."""
        since_s = self._wire.blocked_since_s
        if since_s is None:
            since_s = steady_s  # a send may block at any time: look again by then
        elif not self._is_deaf:  # what we do not read may be full of signs of life, or of nothing
            since_s = max(since_s, self._machine.heard_at_s)
        return since_s + self._limits.send_s


def _is_gone(error: Exception) -> bool:
    """Whether the client is simply not there any more."""
    return isinstance(error, WebSocketDisconnect | TimeoutError | RuntimeError | OSError)
