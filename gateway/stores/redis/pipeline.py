"""One connection to a Redis server, on which calls go in order and many at a time.

All that is asked for in one turn of the event loop goes out in one write; what is asked for
meanwhile waits and goes in the next. So the order of calls is kept, and no call waits longer than
one round trip for its turn.

A call that certainly was not carried out (the server could not be reached, is loading, was
demoted, does not hold the slot any more) is made again, in its place, until its patience is over.
One whose fate is unknown (the connection broke after it was sent) is made again only if it is
repeatable; else it fails with `StoreUnavailable`.
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

MAX_BATCH = 500  # calls in one write: bounds how long the first of them waits
MAX_BATCH_BYTES = 4 << 20  # likewise, and what is held twice while it is written
ANSWER_S = 10.0  # a batch that was not answered by then is lost
CONNECT_S = 5.0
PATIENCE_S = 10.0  # a restart or a failover is waited out for this long
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
    """Write a command as the server reads it."""
    packed: bytes = hiredis.pack_command(command)
    return packed


@dataclass(slots=True, eq=False)
class QueuedCommand:
    """A script or a command, and the future of its answer.

    Attributes:
        name: Of a script, or of a command.
        bucket: In which what it touches lies.
        keys: Of a script.
        arguments: Of a command, or of a script what follows the server's id in ARGV.
        is_repeatable: Carrying it out twice does no harm.
        future: Of the answer.
        deadline: When it is given up, in seconds of the monotonic clock.
        asked: A server that takes it out of turn while its slot moves there.
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
        """About how many bytes it takes."""
        return sum(len(part) for part in self.arguments if isinstance(part, bytes))

    def pack(self, server: bytes) -> bytes:
        """Write it as the server reads it."""
        script = SCRIPTS.get(self.name)
        if script is None:
            return pack(self.name, *self.arguments)
        keys = self.keys
        return pack("EVALSHA", script.sha, len(keys), *keys, server, *self.arguments)

    def settle(self, outcome: Any) -> None:
        """Tell who waits."""
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class PipelinedConnection:
    """A connection that calls go over. Made again when it breaks.

    Args:
        name: Of the servers, for messages.
        make: Makes a connection.
        wait: How many replicas must have a batch before it is acknowledged.
        seek: Asks where calls belong now, and moves those of this lane that belong elsewhere.
        on_connected: Told the server's INFO whenever a connection was made.
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
        """Carry a call out after those before it."""
        self.queue.append(call)
        self.start()

    def start(self) -> None:
        """Work on the queue, from the next turn of the event loop on."""
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
        """Wait until nothing is under way."""
        while self._task is not None:
            await asyncio.wait([self._task])
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Let go of the connection; what is still under way fails."""
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
        """Put calls back in their place, and find out where they belong."""
        self.queue.extendleft(reversed(calls))
        self._failures += 1
        await asyncio.sleep(min(0.5, 0.01 * 2**self._failures))
        await self._seek()

    async def _carry_out(self, batch: list[QueuedCommand]) -> list[QueuedCommand]:
        """Send a batch and settle its calls; gives those to make again."""
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
        """Say what a refused call means; Redis 6.2 wraps what is refused inside a script."""
        if isinstance(error, NoScriptError):
            self._server = b""  # they are loaded again with the next batch
        elif isinstance(error, ReadOnlyError) or "-READONLY" in str(error):
            self._is_stale = True  # whoever is the master now, it is not this server
            return ReadOnlyError(str(error))
        elif isinstance(error, OutOfMemoryError) or "-OOM " in str(error):
            return StoreUnavailable(
                f"{self._name}: maxmemory is reached and nothing was written; raise it, "
                "or let retention keep less"
            )
        elif "non local key" in str(error):  # one that the slot's move has not brought here yet
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
    """An answer that says so, with what to say when patience is over."""

    def __init__(self, failure: StoreUnavailable) -> None:
        super().__init__(failure)
        self.failure = failure


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def parse_info(data: bytes) -> dict[str, str]:
    """Read the answer to INFO."""
    lines = (line.partition(":") for line in data.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}
