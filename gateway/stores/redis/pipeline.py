"""One connection to a Redis server, which pipelines calls in order.

All calls of one event-loop iteration are sent in one write. Calls submitted before its answers
arrive wait and are sent in the next write. So calls keep their order, and a call waits at most one
round trip before it is sent.

A call that was certainly not executed is retried in its place until its deadline. This is the case
when the server is unreachable, is loading, was demoted or no longer holds the slot. A call whose
outcome is unknown, because the connection broke after it was sent, is retried only if it is
repeatable. Otherwise it fails with `StoreUnavailable`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway._internal.extras import needs
from gateway.errors import StoreUnavailable
from gateway.stores.redis.scripts import SCRIPTS

with needs("redis"):
    import hiredis
    from redis.asyncio.connection import AbstractConnection
    from redis.exceptions import (
        AskError,
        AuthenticationError,
        BusyLoadingError,
        ClusterDownError,
        MasterDownError,
        MovedError,
        NoScriptError,
        OutOfMemoryError,
        ReadOnlyError,
        RedisError,
        ResponseError,
        TryAgainError,
    )

MAX_BATCH = 500  # calls in one write: limits how long the first of them waits
MAX_BATCH_BYTES = 4 << 20  # also limits the copy that is made for the write
ANSWER_S = 10.0  # a batch without an answer by then has failed
CONNECT_S = 5.0
PATIENCE_S = 10.0  # how long calls wait for a restart or a failover
_NOT_CARRIED_OUT = (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    TryAgainError,
)


def pack(*command: Any) -> bytes:
    """Encode a command for the server."""
    packed: bytes = hiredis.pack_command(command)
    return packed


@dataclass(slots=True, eq=False)
class QueuedCommand:
    """A script or a command, and the future of its answer.

    Attributes:
        name: Name of the script or command.
        bucket: The bucket that it reads or writes.
        keys: Keys of a script.
        arguments: Arguments of a command; of a script, those after the server's id in ARGV.
        is_repeatable: Whether executing it twice is harmless.
        future: Receives the answer.
        deadline: When retries stop, in seconds of the monotonic clock.
        asked: The server that an ASK redirection named, while the slot moves there.
    """

    name: str
    bucket: int
    keys: tuple[str, ...]
    arguments: tuple[Any, ...]
    is_repeatable: bool
    future: asyncio.Future[Any]
    deadline: float
    asked: tuple[str, int] | None = None

    @property
    def size(self) -> int:
        """Approximate size in bytes."""
        return sum(len(part) for part in self.arguments if isinstance(part, bytes))

    def pack(self, server: bytes) -> bytes:
        """Encode it for the server."""
        script = SCRIPTS.get(self.name)
        if script is None:
            return pack(self.name, *self.arguments)
        keys = self.keys
        return pack("EVALSHA", script.sha, len(keys), *keys, server, *self.arguments)

    def settle(self, outcome: Any) -> None:
        """Resolve the future with a result or an error."""
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class PipelinedConnection:
    """A pipelined connection, which reconnects when it breaks.

    Args:
        name: Name of the servers, for messages.
        make: Makes a connection.
        wait: Number of replicas that must have a batch before it is acknowledged.
        seek: Looks up the current owners of slots, and moves queued calls of this lane that belong
            to another server.
        on_connected: Called with the server's INFO after each connect.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Awaitable[AbstractConnection]],
        *,
        wait: int,
        seek: Callable[[], Awaitable[None]],
        on_connected: Callable[[dict[str, str]], None],
    ) -> None:
        self.queue: deque[QueuedCommand] = deque()
        self._name = name
        self._make = make
        self._wait = wait
        self._seek = seek
        self._on_connected = on_connected
        self._connection: AbstractConnection | None = None
        self._server = b""
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._is_stale = False
        self._wait_ms = int(ANSWER_S * 500)

    def submit(self, call: QueuedCommand) -> None:
        """Queue a call, to be executed after the earlier ones."""
        self.queue.append(call)
        self.start()

    def start(self) -> None:
        """Process the queue, starting in the next event-loop iteration."""
        if self._task is None and self.queue:
            self._task = asyncio.get_running_loop().create_task(self._work(), name="redis lane")
            self._task.add_done_callback(self._stopped)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            for call in self.queue:
                call.settle(error)
            self.queue.clear()
        self.start()

    async def drain(self) -> None:
        """Wait until all calls are finished."""
        while self._task is not None:
            await asyncio.wait([self._task])
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Close the connection; unfinished calls fail."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for call in self.queue:
            call.settle(StoreUnavailable(f"{self._name}: the store was closed"))
        self.queue.clear()
        await self._disconnect(nowait=False)

    async def _work(self) -> None:
        while self.queue:
            batch = self._next_batch()
            try:
                again = await self._carry_out(batch)
            except BaseException:
                self.queue.extendleft(reversed([c for c in batch if not c.future.done()]))
                raise
            if again:
                await self._again(again)
            else:
                self._failures = 0

    def _next_batch(self) -> list[QueuedCommand]:
        batch: list[QueuedCommand] = []
        size = 0
        while self.queue and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            batch.append(self.queue.popleft())
            size += batch[-1].size
        return batch

    async def _again(self, calls: list[QueuedCommand]) -> None:
        """Put calls back at the head of the queue, wait, and look up their servers."""
        self.queue.extendleft(reversed(calls))
        self._failures += 1
        await asyncio.sleep(min(0.5, 0.01 * 2**self._failures))
        await self._seek()

    async def _carry_out(self, batch: list[QueuedCommand]) -> list[QueuedCommand]:
        """Send a batch and settle its calls; return the calls to retry."""
        is_sent = False
        answers: list[Any] = []
        try:
            async with asyncio.timeout(ANSWER_S):
                connection = await self._connected()
                is_sent = True
                await self._send(connection, batch)
                for call in batch:
                    answers.append(await self._answer(connection, call))
                if self._wait:
                    self._check_replicas(await connection.read_response(disable_decoding=True))
        except StoreUnavailable as error:
            answers = [error for _ in batch]
        except AuthenticationError as error:
            answers = [self._failure(error)] * len(batch)
        except (RedisError, OSError, TimeoutError) as error:
            await self._disconnect(nowait=True)
            answered = 0 if self._wait else len(answers)
            answers[answered:] = [self._fate(call, error, is_sent) for call in batch[answered:]]
        return self._settle(batch, answers)

    def _fate(self, call: QueuedCommand, error: Exception, is_sent: bool) -> Exception:
        if is_sent and not call.is_repeatable:
            return StoreUnavailable(
                f"{self._name}: the connection broke before the answer ({_said(error)}); "
                "whether this was written is not known"
            )
        return RetryableReply(self._failure(error))

    def _settle(self, batch: list[QueuedCommand], answers: Sequence[Any]) -> list[QueuedCommand]:
        again = []
        now_s = time.monotonic()
        for call, answer in zip(batch, answers, strict=True):
            if isinstance(answer, _NOT_CARRIED_OUT):
                call.asked = (answer.host, answer.port) if isinstance(answer, AskError) else None
                answer = RetryableReply(self._failure(answer))
            if isinstance(answer, RetryableReply) and now_s < call.deadline:
                again.append(call)
            elif isinstance(answer, RetryableReply):
                call.settle(answer.failure)
            else:
                call.settle(answer)
        return again

    async def _send(self, connection: AbstractConnection, batch: list[QueuedCommand]) -> None:
        packed = []
        for call in batch:
            if call.asked is not None:
                packed.append(pack("ASKING"))
            packed.append(call.pack(self._server))
        if self._wait:
            packed.append(pack("WAIT", self._wait, self._wait_ms))
        await connection.send_packed_command([b"".join(packed)], check_health=False)

    async def _answer(self, connection: AbstractConnection, call: QueuedCommand) -> Any:
        try:
            if call.asked is not None:
                await connection.read_response()
            return await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return self._refusal(error)

    def _refusal(self, error: ResponseError) -> Exception:
        """Convert an error reply; Redis 6.2 wraps errors that occur inside a script."""
        if isinstance(error, NoScriptError):
            self._server = b""  # the next batch loads the scripts again
        elif isinstance(error, ReadOnlyError) or "-READONLY" in str(error):
            self._is_stale = True  # this server is no longer the master
            return ReadOnlyError(str(error))
        elif isinstance(error, OutOfMemoryError) or "-OOM " in str(error):
            return StoreUnavailable(
                f"{self._name}: maxmemory is reached and nothing was written; raise it, "
                "or let retention keep less"
            )
        elif "non local key" in str(error):  # the key has not been migrated here yet
            return TryAgainError(str(error))
        return error if isinstance(error, _NOT_CARRIED_OUT) else self._failure(error)

    def _check_replicas(self, count: int) -> None:
        if count < self._wait:
            raise StoreUnavailable(
                f"{self._name}: {count} replicas have this, {self._wait} must; it was written, "
                "and a failover may lose it"
            )

    def _failure(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"{self._name}: {_said(error)}")

    async def _connected(self) -> AbstractConnection:
        if self._is_stale or self._connection is None or not self._connection.is_connected:
            await self._disconnect(nowait=True)
            async with asyncio.timeout(CONNECT_S):
                self._connection = await self._make()
                await self._connection.connect()  # type: ignore[no-untyped-call]
        if not self._server:
            await self._introduce(self._connection)
        return self._connection

    async def _introduce(self, connection: AbstractConnection) -> None:
        loads = [pack("SCRIPT", "LOAD", s.source) for s in SCRIPTS.values()]
        info = pack("INFO")
        await connection.send_packed_command([b"".join([info, *loads])], check_health=False)
        about = parse_info(await connection.read_response(disable_decoding=True))
        for _ in loads:
            await connection.read_response(disable_decoding=True)
        self._on_connected(about)
        self._server = about["run_id"].encode()

    async def _disconnect(self, *, nowait: bool) -> None:
        connection, self._connection = self._connection, None
        self._server, self._is_stale = b"", False
        if connection is not None:
            await connection.disconnect(nowait=nowait)


class RetryableReply(Exception):
    """An answer that permits a retry, with the error to raise after the deadline."""

    def __init__(self, failure: StoreUnavailable) -> None:
        super().__init__(failure)
        self.failure = failure


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def parse_info(data: bytes) -> dict[str, str]:
    """Parse the answer to INFO."""
    lines = (line.partition(":") for line in data.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}
