"""Runs one WebSocket: frames go to the state machine, its commands to the store and the socket.

No rule of the protocol is here. One task reads; a second one writes while there is something to
write; one timer serves all deadlines; `RequestRunner` has a task for each request except appends.
An idle connection costs one task.

Frames that arrive together are one batch. The state machine checks each frame by itself; the
results of a batch are written together, and the timer is updated once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway._internal.counters import Counters
from gateway.auth.permissions import Permissions
from gateway.errors import ShuttingDown
from gateway.fanout.hub import Hub
from gateway.fanout.lag import LaggingReader
from gateway.model.limits import Limits, arriving_bytes
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
from gateway.server.websocket.backpressure import Backpressure
from gateway.server.websocket.outbound import Outbound
from gateway.server.websocket.request_runner import ClientIdentity, RequestRunner
from gateway.server.websocket.subscriptions import ActiveSubscriptions, Host
from gateway.stores.base import Store

CLOSE_S = 5.0  # for a client to receive the close frame, and for its last requests
FRAMES_PER_TICK = 256  # frames of one batch that are processed before other tasks run: about 3 ms

_log = logging.getLogger("realtime.websocket")


class WebSocketSession:
    """One open WebSocket.

    Args:
        websocket: The accepted socket.
        store: Executes requests.
        hub: Opens cursors.
        verify: Verifies tokens.
        limits: The limits of one client.
        leases: Records which worker is connected.
        name: The gateway's name, with which the connection's id begins.
        counters: Counters of the gateway.
        admit: Counts the subject of a token, or rejects it.
        ages_at_s: Loop time at which the client has to reconnect.
        clock_s: Unix time, for tokens. Liveness uses the loop's monotonic time.
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
        self._leases = leases
        self._counters = counters
        self._ended_by = "client"
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
        self._has_asked_nothing = True
        self._is_known = False  # has presented a valid token
        self._outbound = Outbound(websocket, self._steady_s, counters)
        self._backpressure = Backpressure(limits)
        self._client = ClientIdentity(self._machine.id)
        self._requests = RequestRunner(
            store,
            self._machine,
            self._backpressure,
            self._client,
            execute=self._execute,
            execute_each=self._execute_each,
            flush=self._flush,
        )
        host = Host(
            self._execute, self._requests.spawn, self._backpressure.wait_for_room, self._wake_writer
        )
        self._subscriptions = ActiveSubscriptions(
            store, hub, self._machine, self._outbound, counters, host
        )
        self._is_read_paused = False  # the reader waits for `Backpressure`
        self._deadline_dirty = False  # the next deadline may have moved nearer
        self._close: Close | None = None
        self._abort_at_s = math.inf  # loop time; infinite until a close frame is due
        self._reader: asyncio.Task[Any] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._is_ended = False  # the gateway has ended it
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = math.inf
        self._is_closed = False  # only the close frame may still be sent
        self._is_over = False

    async def run(self) -> None:
        """Serve until either side closes."""
        self._reader = reader = asyncio.current_task()
        assert reader is not None
        try:
            self._schedule_timer()
            await self._read()
        except asyncio.CancelledError:
            if not self._is_ended:
                raise
            reader.uncancel()
            await self._close_handshake()
        finally:
            await self._finish()

    async def _close_handshake(self) -> None:
        # The reader's task sends the close frame, not the writer's: Granian drops the close frame
        # of a connection that is still being read.
        if self._close is None or not self._is_closed:
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._outbound.close(self._close)
        except Exception as error:
            if not _is_gone(error):
                raise

    def _end(self) -> None:
        if self._reader is not None and not (self._is_ended or self._is_over):
            self._is_ended = True
            self._reader.cancel()

    @property
    def subjects(self) -> frozenset[str]:
        """The subjects that `admit` has counted for this connection."""
        return self._machine.subjects

    def shut_down(self, retry_after_s: float = 0.0) -> None:
        """Ask the client to reconnect, since the gateway shuts down.

        Its requests in progress still get their results.

        Args:
            retry_after_s: When the client is to reconnect, seconds from now.
        """
        error = ShuttingDown("the gateway is shutting down; reconnect", retry_after_s)
        self._execute(self._machine.close(error))

    def abort(self, reason: str) -> None:
        """Abort the connection without waiting for the client."""
        _log.info(
            "connection %s was aborted: %s", self._machine.id, reason, extra=self._client.log_extra
        )
        self._ended_by = "cut"
        self._outbound.abort()
        self._end()

    def revoked(self, is_revoked: Callable[[Permissions], bool]) -> None:
        """Close or narrow what revoked tokens allowed, and notify the client."""
        self._execute(self._machine.revoked(is_revoked))

    @property
    def subscriptions(self) -> int:
        """Number of active subscriptions."""
        return len(self._subscriptions)

    def lagging(self) -> Iterator[LaggingReader]:
        """Yield the stream subscriptions that have records to send."""
        return self._subscriptions.lagging()

    async def _finish(self) -> None:
        self._is_over = True
        self._counters.connections_closed[self._ended_by] += 1
        if self._timer is not None:
            self._timer.cancel()
        if self._client.worker is not None:
            self._leases.release(self._client.worker)
        input_schemas.release(self._client.name)
        self._subscriptions.close()
        everyone = [*self._requests.close(), *([self._writer] if self._writer is not None else [])]
        for task in everyone:
            task.cancel()
        for outcome in await asyncio.gather(*everyone, return_exceptions=True):
            if isinstance(outcome, Exception) and not _is_gone(outcome):
                id = self._machine.id
                _log.error(
                    "connection %s failed", id, exc_info=outcome, extra=self._client.log_extra
                )
        self._subscriptions.forget_host()
        # A cancelled task refers to its traceback, and the traceback to the session. Breaking these
        # cycles frees the session now; a full pass of the garbage collector may come hours later.
        self._reader = self._writer = None
        self._requests.detach_session()

    # ---- in ----

    async def _read(self) -> None:
        while batch := await self._outbound.receive():
            # New clients share a quota, so that a thousand handshakes at once do not delay clients
            # that are already subscribed.
            if self._has_asked_nothing:
                await self._hub.handshake_quota.acquire()
            now_s, steady_s = self._clock_s(), self._steady_s()
            for count, frame in enumerate(batch, 1):
                if not count % FRAMES_PER_TICK:
                    self._flush()
                    await asyncio.sleep(0)
                self._execute_each(self._machine.receive(frame, now_s, steady_s), len(frame))
                if self._backpressure.is_full:
                    self._flush()
                    self._is_read_paused = self._backpressure.is_full
                    await self._backpressure.wait_for_room()
                    self._is_read_paused = False
                    now_s, steady_s = self._clock_s(), self._steady_s()
            if not self._is_known:
                self._raise_limit()
            self._flush()

    def _raise_limit(self) -> None:
        if self._machine.state == "ready":
            self._is_known = self._machine.is_known
            self._outbound.raise_limit(arriving_bytes(self._limits), is_known=self._is_known)

    def _execute(self, commands: Iterable[Command]) -> None:
        self._deadline_dirty = True
        self._execute_each(commands)
        self._flush()

    def _flush(self) -> None:
        """Wake the writer and update the timer, once for many commands."""
        self._wake_writer()
        if self._deadline_dirty:
            self._deadline_dirty = False
            self._schedule_timer()

    def _execute_each(self, commands: Iterable[Command], frame_size: int = 0) -> None:
        for command in commands:
            # A request in progress can only postpone the next deadline, so it needs no new timer.
            self._deadline_dirty = self._deadline_dirty or not isinstance(command, Execute)
            match command:
                case Send(text, refused):
                    self._backpressure.put(text)
                    if refused is not None:
                        self._counters.refusals[refused] += 1
                case Open():
                    self._has_asked_nothing = False
                    self._subscriptions.open(command)
                case OpenSet():
                    self._has_asked_nothing = False
                    self._subscriptions.open_set(command)
                case ExcludeFields(id, fields):
                    self._subscriptions.skip(id, fields)
                case Stop(id):
                    self._subscriptions.stop(id)
                case Execute():
                    self._has_asked_nothing = False
                    self._requests.start(command, frame_size)
                case RegisterOwner(owner):
                    self._client.worker = owner
                    self._leases.acquire(owner)
                case Close():
                    self._close = command
                    self._ended_by = command.reason
                    self._abort_at_s = self._steady_s() + CLOSE_S

    # ---- out ----

    def _wake_writer(self) -> None:
        if self._writer is not None or self._is_over:
            return
        while self._close is None and self._backpressure.answers and self._outbound.is_open:
            # Write here while the socket accepts it: a task would cost more than the write.
            self._outbound.write_now(self._backpressure.take_batch())
        if self._has_work():
            self._writer = asyncio.create_task(self._write(), name="realtime writer")
            self._writer.add_done_callback(self._written)

    def _written(self, writer: asyncio.Task[None]) -> None:
        if self._is_over or writer.cancelled():
            return
        if writer.exception() is not None or self._is_closed:
            self._end()  # `_finish` reports its exception
            return
        self._writer = None
        if self._has_work():  # may have arrived after the writer's last check
            self._wake_writer()

    async def _write(self) -> None:
        while self._has_work():
            await self._send_answers()
            if self._subscriptions.is_any_ready and self._close is None:
                await self._subscriptions.pump()
            elif self._close is not None and not self._is_finishing():
                self._is_closed = True
                return

    def _has_work(self) -> bool:
        if self._close is None:
            return bool(self._backpressure.answers) or self._subscriptions.is_any_ready
        return bool(self._backpressure.answers) or not (self._is_finishing() or self._is_closed)

    def _is_finishing(self) -> bool:
        """Whether a client that was asked to reconnect still waits for results of requests."""
        return self._close is not None and self._close.is_gentle and self._backpressure.requests > 0

    async def _send_answers(self) -> None:
        while self._backpressure.answers:
            await self._outbound.send(self._backpressure.take())

    # ---- time ----

    def _schedule_timer(self) -> None:
        if self._is_over:
            return
        steady_s = self._steady_s()
        due_at_s = steady_s + self._machine.due_in_s(self._clock_s(), steady_s)
        at_s = min(due_at_s, self._abort_at_s, self._stalled_at_s(steady_s))
        if self._timer is not None and self._timer_at_s <= at_s:
            # The timer fires early at worst, and then computes the deadline again. Most deadlines
            # only move away, so this saves a timer for each frame.
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = at_s
        self._timer = self._loop.call_later(max(0.0, at_s - steady_s), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        steady_s = self._steady_s()
        if steady_s >= self._abort_at_s:
            self.abort("it did not receive the close frame")
        elif steady_s >= self._stalled_at_s(steady_s):
            self.abort(f"it received and sent nothing for {self._limits.send_s:g} s")
        else:
            if self._is_read_paused:
                self._machine.deaf(steady_s)
            self._execute(self._machine.tick(self._clock_s(), steady_s))

    def _stalled_at_s(self, steady_s: float) -> float:
        """Return the loop time at which the client counts as stalled if nothing changes."""
        since_s = self._outbound.blocked_since_s
        if since_s is None:
            since_s = steady_s  # a send may block at any time: check again by then
        elif (
            not self._is_read_paused
            # While reading is paused, unread frames prove nothing: they may be signs
            # of life or not.
        ):
            since_s = max(since_s, self._machine.heard_at_s)
        return since_s + self._limits.send_s


def _is_gone(error: Exception) -> bool:
    """Whether an error only means that the client has disconnected."""
    return isinstance(error, WebSocketDisconnect | TimeoutError | RuntimeError | OSError)
