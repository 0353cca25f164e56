"""Input streams: what a page or a backend tells a run while it executes.

    approval = streams.input("approval", Approval)

    decision = await approval.wait(timeout_s=3600)        # in the task: parked meanwhile
    await approval.send(run_id, Approval(ok=True))        # in a backend
    use_input_stream(State.run_id, approval, ...).send    # on a page

An input is an ordinary stream of the run, so what is sent before anyone listens is kept, and a send
to a run that has ended is refused. An attempt takes each value once: `once`, `wait` and `on` share
one place in the stream. The next attempt begins at the first value again, since it starts with
nothing but its payload.
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
from gateway.sdk.loops.sync_calls import begin, make_sync
from gateway.sdk.options import check_seconds
from gateway.sdk.runtime import Runtime, current_runtime
from gateway.sdk.values import input_schemas
from gateway.sdk.values.core_schema import slow_pattern
from gateway.sdk.values.encoding import Values
from gateway.sdk.values.schema_cost import Cost
from gateway.sdk.writers.stream_writer import Receipt
from gateway.stores.base import Store

T = TypeVar("T")

LOOK_S = 5.0  # for a store to say what it has, after a time-out; it may be out of reach

Handler = Callable[[T], Awaitable[None] | None]


class InputStream(StreamDefinition[T]):
    """An input's definition with what tasks and backends do with it. Made by `streams.input`."""

    def __post_init__(self) -> None:
        """Check the id and the type, and make the gateway check what clients send.

        Raises:
            InvalidValue: the type has no JSON Schema, or one whose checks are not bounded; or the
                id is taken by another type.
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
        """Take the next value, waiting for it; the run counts as executing meanwhile.

        Args:
            timeout_s: How long to wait; 0: take what is there; None: as long as it takes.

        Raises:
            ReadTimeout: nothing was sent in time.
            InvalidValue: no length of time.
            NotInRun: called outside a task.
        """
        place = _place(self)
        async with place.lock:
            await _await_value(place, timeout_s)
            return self.decode(place.ahead.popleft().data)

    @run_on_sdk_loop
    async def wait(self, *, timeout_s: float | None = None) -> T:
        """Like `once`, for long waits: the run is `waiting`, and another may execute meanwhile."""
        context, runner = _run(self.id), current_runtime().runner
        assert runner is not None, "a run executes, so there is a runner"
        place = _place(self)
        is_locked = False
        try:
            async with runner.waiting(context):
                is_locked = await place.lock.acquire()
                await _await_value(place, timeout_s)
            # Only now, with the slot, is the value taken: canceled before, it stays for the next.
            return self.decode(place.ahead.popleft().data)
        finally:
            if is_locked:
                place.lock.release()

    @run_on_sdk_loop
    async def peek(self) -> T | None:
        """Return the next value without taking it; None if nothing was sent yet."""
        place = _place(self)
        if not place.ahead:
            place.keep(await place.runtime.store.read(place.key, place.read_to))
        return self.decode(place.ahead[0].data) if place.ahead else None

    once_sync = make_sync(once)
    wait_sync = make_sync(wait)
    peek_sync = make_sync(peek)

    @asynccontextmanager
    async def on(self, handler: Handler[T]) -> AsyncGenerator[asyncio.Task[None], None]:
        """Call a handler with each value while the block runs.

            async with stop.on(lambda _: answer.cancel()):
                ...

        Args:
            handler: Plain or async; called one value after the other.

        Raises:
            Exception: what the handler raised, at the end of the block.
        """
        place = _place(self)
        task = asyncio.create_task(self._feed(handler), name=f"input {place.key}")
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
            run_id: Which run.
            value: Of the input's type.

        Returns:
            A receipt: await it to know that the run will find the value.

        Raises:
            InvalidValue: the type refuses it.
            StreamEnded: at the receipt, when the run has ended.
            RunNotFound: at the receipt, when there is no such run.
        """
        return current_runtime().writer(self.id, check_run_id(run_id)).put(self.encode(value))

    def send_sync(self, run_id: str, value: T) -> int | None:
        """Send a value to a run and wait until it will find it; see `send`. For plain code.

        Returns:
            The record's offset.
        """
        begin("send")
        return self.send(run_id, value).wait()


class _InputCursor:
    """Where a run stands in one of its inputs."""

    def __init__(self, active: Runtime, key: StreamKey) -> None:
        self.runtime = active
        self.key = key
        self.read_to: Position | None = None  # up to where records were read
        self.ahead: deque[Record] = deque()  # read and not taken
        self.lock = asyncio.Lock()

    def keep(self, page: Page) -> None:
        self.read_to = page.position
        self.ahead.extend(page.records)


def _run(input_id: str) -> RunContext:
    context = current_run()
    if context is None:
        raise NotInRun(f"input {input_id!r} is taken inside a task; a backend uses send()")
    return context


def _place(stream: InputStream[Any]) -> _InputCursor:
    context = _run(stream.id)
    place = context.inputs.get(stream.id)
    if place is None:
        place = context.inputs[stream.id] = _InputCursor(
            current_runtime(), StreamKey(context.id, stream.id)
        )
    return place


async def _await_value(place: _InputCursor, timeout_s: float | None) -> None:
    """Wait until a value is there to be taken; hold the place's lock."""
    check_seconds("timeout_s", timeout_s)
    if not place.ahead:
        try:
            async with asyncio.timeout(timeout_s):
                await _read_on(place)
        except TimeoutError:
            if (page := await look(place.runtime.store, place.key, place.read_to)) is not None:
                place.keep(page)
            if not place.ahead:
                raise ReadTimeout(
                    f"input {place.key}: nothing was sent within {timeout_s:g} s"
                ) from None


async def look(store: Store, key: StreamKey, after: Position | None) -> Page | None:
    """Read what a stream has after a position, once a time-out is over; None if it is nothing.

    So a time-out is true however slow the store is, and 0 means "what is there".
    """
    try:
        async with asyncio.timeout(LOOK_S):
            page = await store.read(key, after)
    except TimeoutError:
        return None
    return None if page.is_empty else page


async def _read_on(place: _InputCursor) -> None:
    follow = place.runtime.store.follow(place.key, place.read_to)
    async with aclosing(follow) as pages:
        async for page in pages:
            place.keep(page)
            if place.ahead:
                return
    raise StreamIncomplete(f"input {place.key} has ended; nothing more can be sent")
