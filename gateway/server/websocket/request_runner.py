"""Runs a client's requests: an append without a task of its own, any other request in a task.

Appends are frequent and the store batches them, so a callback completes each one. A task for each
append costs more than the append itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway import protocol
from gateway.auth.permissions import Permissions
from gateway.errors import Internal, RealtimeError
from gateway.model.log import Appended
from gateway.protocol.authorization import read_key, require_read
from gateway.protocol.commands import Command, Execute
from gateway.protocol.connection import Connection
from gateway.server.websocket.backpressure import Backpressure, cost_of
from gateway.server.websocket.requests import appended, begin_append, perform
from gateway.stores.base import Store, find_run

Work = Callable[[], Coroutine[Any, Any, None]]

_log = logging.getLogger("realtime.websocket")


@dataclass(slots=True)
class ClientIdentity:
    """Names of a connection, for the log and for the schemas that it registers.

    Attributes:
        connection_id: The connection's id.
        worker: The worker's name, if the client is one.
    """

    connection_id: str
    worker: str | None = None

    @property
    def name(self) -> str:
        """The worker and the connection."""
        return f"{self.worker or 'a client'} ({self.connection_id})"

    @property
    def log_extra(self) -> dict[str, str]:
        """The fields of a log record."""
        return {"connection": self.connection_id, "worker": self.worker or ""}


class RequestRunner:
    """The requests of one connection that are in progress.

    Args:
        store: Executes them.
        machine: Turns results and errors into frames.
        backpressure: Counts requests and their cost.
        client: Names the connection.
        execute: Executes commands of the state machine.
        execute_each: The same, without the flush at the end.
        flush: Sends what the executed commands queued, and updates the session's timer.
    """

    def __init__(
        self,
        store: Store,
        machine: Connection,
        backpressure: Backpressure,
        client: ClientIdentity,
        *,
        execute: Callable[[Iterable[Command]], None],
        execute_each: Callable[[Iterable[Command]], None],
        flush: Callable[[], None],
    ) -> None:
        self._store = store
        self._machine = machine
        self._backpressure = backpressure
        self._client = client
        self._execute = execute
        self._execute_each = execute_each
        self._flush = flush
        self._loop = asyncio.get_running_loop()
        self._unstarted = 0  # requests whose tasks have not begun to run
        self._flush_scheduled = False
        self._is_closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, command: Execute, frame_size: int) -> None:
        """Start a request. Its result or error is sent later.

        Args:
            command: The request, which the state machine has allowed.
            frame_size: Size of its frame, bytes.
        """
        request = command.request
        cost = cost_of(request, frame_size)
        self._backpressure.begin(cost)
        # Requests of one connection start in the order in which they arrived. An append behind a
        # request whose task has not run yet would overtake it, so it takes a task as well.
        if isinstance(request, protocol.Append) and not self._unstarted:
            self._start_append(request, cost)
        else:
            self._unstarted += 1
            self.spawn(partial(self._perform, command, cost), request.id)

    def spawn(self, work: Work, id: int) -> asyncio.Task[None]:
        """Run work in a task; its exception becomes the error frame for an id."""
        task = asyncio.create_task(self._run(work, id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> list[asyncio.Task[None]]:
        """Send no more results; return the tasks that the session has to cancel."""
        self._is_closed = True
        return list(self._tasks)

    def detach_session(self) -> None:
        """Drop the references to the session: a cycle would delay its release until a full GC."""
        self._tasks.clear()
        del self._execute, self._execute_each, self._flush

    def _start_append(self, request: protocol.Append, cost: int) -> None:
        on_appended = partial(self._on_appended, request.id, cost)
        try:
            begin_append(self._store, request, on_appended)
        except Exception as error:
            on_appended(error)

    def _on_appended(self, id: int, cost: int, outcome: Appended | Exception) -> None:
        self._backpressure.end(cost)
        if self._is_closed:
            return
        if isinstance(outcome, Exception):
            self._execute_each(self._failed(id, outcome))
        else:
            self._execute_each(self._machine.answered(id, appended(id, outcome)))
        # One commit completes many appends in one iteration of the loop: write them together.
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush_batch)

    def _flush_batch(self) -> None:
        self._flush_scheduled = False
        if not self._is_closed:
            self._flush()

    async def _run(self, work: Work, id: int) -> None:
        try:
            await work()
        except Exception as error:
            self._execute(self._failed(id, error))

    def _failed(self, id: int, error: Exception) -> list[Command]:
        if not isinstance(error, RealtimeError):
            _log.error(
                "connection %s: request %s failed",
                self._client.connection_id,
                id,
                exc_info=error,
                extra=self._client.log_extra,
            )
            error = Internal("the gateway failed; its log has more")
        return self._machine.failed(id, error)

    async def _perform(self, command: Execute, cost: int) -> None:
        self._unstarted -= 1
        request = command.request
        try:
            if command.judged_by is not None:
                await self._authorize_read(request, command.judged_by)
            result = await perform(self._store, request, command.skip, self._client.name)
        finally:
            self._backpressure.end(cost)
        self._execute(self._machine.answered(request.id, result))

    async def _authorize_read(self, request: protocol.Request, permissions: Permissions) -> None:
        # Scopes of tags and batches allow a read only once the run is known.
        if isinstance(request, protocol.Head | protocol.Read | protocol.RunGet):
            key = read_key(request)
            require_read(permissions, key, await find_run(self._store, key.run_id))
