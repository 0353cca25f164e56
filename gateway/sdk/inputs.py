"""Input streams: values that a page or a backend sends to a run while it executes.

    approval = streams.input("approval", Approval)

    decision = await approval.wait(timeout_s=3600)        # in the task: parked meanwhile
    await approval.send(run_id, Approval(ok=True))        # in a backend
    use_input_stream(State.run_id, approval, ...).send    # on a page

An input is an ordinary stream of the run. A value that is sent before the task reads is kept, and a
send to a run that has ended is refused. An attempt takes each value once: `once`, `wait` and `on`
share one cursor. The next attempt starts at the first value again, because it has nothing but its
payload.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import cached_property
from typing import Any, TypeVar

from pydantic import PydanticUserError

from gateway.errors import InvalidValue, NotInRun, ReadTimeout, StreamIncomplete
from gateway.model.log import Page
from gateway.model.records import Position, Record, StreamKey, check_run_id
from gateway.sdk import stream_registry
from gateway.sdk.context import RunContext, current_run
from gateway.sdk.definitions import StreamDefinition
from gateway.sdk.loops.bridge import run_on_sdk_loop
from gateway.sdk.loops.sync_calls import make_sync, prepare_sync_call
from gateway.sdk.options import check_seconds
from gateway.sdk.runtime import Runtime, current_runtime
from gateway.sdk.stream_reader import read_now
from gateway.sdk.values import input_schemas
from gateway.sdk.values.core_schema import slow_pattern
from gateway.sdk.values.encoding import Values
from gateway.sdk.values.schema_cost import Cost
from gateway.sdk.writers.stream_writer import Receipt

T = TypeVar("T")


Handler = Callable[[T], Awaitable[None] | None]


class InputStream(StreamDefinition[T]):
    """An input's definition with the operations of tasks and backends. Made by `streams.input`."""

    def __post_init__(self) -> None:
        """Check the id and the type, and register the schema against which the gateway checks.

        Raises:
            InvalidValue: the type has no JSON Schema, or one whose checks are not bounded; or
                another type has this id.
        """
        super().__post_init__()
        try:
            schema = self.adapter.json_schema()
            Cost(schema)
        except (PydanticUserError, InvalidValue) as error:
            raise InvalidValue(f"input {self.id!r}: {error}") from None
        if (pattern := slow_pattern(self.adapter.core_schema)) is not None:
            raise InvalidValue(
                f"input {self.id!r}: the pattern {pattern[:100]!r} is checked by Python's re, "
                "which a client can keep busy for hours; give it as text, for Pydantic's own "
                "engine (rust-regex), or check it in the task"
            )
        stream_registry.add(self, is_input=True)
        input_schemas.define(self.id, schema, self.decode)

    @cached_property
    def _values(self) -> Values[T]:
        return Values(self.type, f"stream {self.id!r}", is_input=True)

    # ---- in the task ----

    @run_on_sdk_loop
    async def once(self, *, timeout_s: float | None = None) -> T:
        """Wait for the next value and take it. The run stays `executing` meanwhile.

        Args:
            timeout_s: How long to wait; 0: take only a stored value; None: no limit.

        Raises:
            ReadTimeout: no value was sent in time.
            InvalidValue: `timeout_s` is out of range.
            NotInRun: called outside a task.
        """
        cursor = _cursor(self)
        async with cursor.lock:
            await _await_value(cursor, timeout_s)
            return self.decode(cursor.buffered.popleft().data)

    @run_on_sdk_loop
    async def wait(self, *, timeout_s: float | None = None) -> T:
        """Like `once`, for long waits: the run is `waiting`, and another run may use its slot."""
        context, runner = _run(self.id), current_runtime().runner
        assert runner is not None, "a run executes, so there is a runner"
        cursor = _cursor(self)
        is_locked = False
        try:
            async with runner.waiting(context):
                is_locked = await cursor.lock.acquire()
                await _await_value(cursor, timeout_s)
            # Take the value only after the slot is held again. If the wait is canceled before
            # that, the value stays for the next call.
            return self.decode(cursor.buffered.popleft().data)
        finally:
            if is_locked:
                cursor.lock.release()

    @run_on_sdk_loop
    async def peek(self) -> T | None:
        """Return the next value without taking it; None if there is none yet."""
        cursor = _cursor(self)
        if not cursor.buffered:
            cursor.buffer(await cursor.runtime.store.read(cursor.key, cursor.read_to))
        return self.decode(cursor.buffered[0].data) if cursor.buffered else None

    once_sync = make_sync(once)
    wait_sync = make_sync(wait)
    peek_sync = make_sync(peek)

    @asynccontextmanager
    async def on(self, handler: Handler[T]) -> AsyncGenerator[asyncio.Task[None], None]:
        """Call a handler with each value while the block runs.

            async with stop.on(lambda _: answer.cancel()):
                ...

        Args:
            handler: Plain or async; called with one value at a time.

        Raises:
            Exception: the handler's exception, at the end of the block.
        """
        cursor = _cursor(self)
        task = asyncio.create_task(self._feed(handler), name=f"input {cursor.key}")
        try:
            yield task
        finally:
            failed = task.done() and not task.cancelled() and task.exception() is not None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if failed:
            task.result()

    async def _feed(self, handler: Handler[T]) -> None:
        while True:
            outcome = handler(await self.once())
            if inspect.isawaitable(outcome):
                await outcome

    # ---- in a backend ----

    def send(self, run_id: str, value: T) -> Receipt:
        """Send a value to a run.

        Args:
            run_id: The run.
            value: Of the input's type.

        Returns:
            A receipt: await it to know that the value is durable.

        Raises:
            InvalidValue: the value does not fit the type.
            StreamEnded: (from the receipt) the run has ended.
            RunNotFound: (from the receipt) there is no such run.
        """
        return current_runtime().writer(self.id, check_run_id(run_id)).put(self.encode(value))

    def send_sync(self, run_id: str, value: T) -> int | None:
        """Send a value to a run and wait until it is durable; see `send`. For synchronous code.

        Returns:
            The record's offset.
        """
        prepare_sync_call("send")
        return self.send(run_id, value).wait()


class _InputCursor:
    """The position of a run in one of its inputs."""

    def __init__(self, runtime: Runtime, key: StreamKey) -> None:
        self.runtime = runtime
        self.key = key
        self.read_to: Position | None = None  # the end of the records that were read
        self.buffered: deque[Record] = deque()  # read but not taken
        self.lock = asyncio.Lock()

    def buffer(self, page: Page) -> None:
        self.read_to = page.position
        self.buffered.extend(page.records)


def _run(input_id: str) -> RunContext:
    context = current_run()
    if context is None:
        raise NotInRun(f"input {input_id!r} is taken inside a task; a backend uses send()")
    return context


def _cursor(stream: InputStream[Any]) -> _InputCursor:
    context = _run(stream.id)
    cursor = context.inputs.get(stream.id)
    if cursor is None:
        cursor = context.inputs[stream.id] = _InputCursor(
            current_runtime(), StreamKey(context.id, stream.id)
        )
    return cursor


async def _await_value(cursor: _InputCursor, timeout_s: float | None) -> None:
    """Wait until a value is buffered. The caller holds the cursor's lock."""
    check_seconds("timeout_s", timeout_s)
    if not cursor.buffered:
        try:
            async with asyncio.timeout(timeout_s):
                await _read_on(cursor)
        except TimeoutError:
            if (
                page := await read_now(cursor.runtime.store, cursor.key, cursor.read_to)
            ) is not None:
                cursor.buffer(page)
            if not cursor.buffered:
                raise ReadTimeout(
                    f"input {cursor.key}: nothing was sent within {timeout_s:g} s"
                ) from None


async def _read_on(cursor: _InputCursor) -> None:
    follow = cursor.runtime.store.follow(cursor.key, cursor.read_to)
    async with aclosing(follow) as pages:
        async for page in pages:
            cursor.buffer(page)
            if cursor.buffered:
                return
    raise StreamIncomplete(f"input {cursor.key} has ended; nothing more can be sent")
