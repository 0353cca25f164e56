"""Waits in the middle of a task: for a time, or for an answer from elsewhere.

    await wait.for_seconds(60)
    token = await wait.create_token(Approval, timeout_s=3600)    # give token.id to the decider
    approval = await wait.for_token(token)                       # the run's status is `waiting`

    await wait.complete_token(token.id, Approval(ok=True))       # elsewhere: a backend, a page

A waiting run releases its slot, so that other runs can execute. A token is a stream of the run. Its
first record is the expiry time; the second is the answer, which ends the stream. So a token is as
durable as the store, only the first answer counts, and any client with the token's access token can
answer with an `append` that has `end`.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import aclosing
from dataclasses import dataclass, field, is_dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

import orjson
from pydantic import BaseModel

from gateway import tokens
from gateway.errors import (
    InvalidId,
    InvalidValue,
    NotInRun,
    RunNotFound,
    StreamEnded,
    StreamIncomplete,
    WaitTimeout,
)
from gateway.model.records import Record, StreamKey, Writer, check_run_id, check_stream_id
from gateway.model.runs import iso_time, time_ms
from gateway.sdk.context import current_run
from gateway.sdk.execution.slot import waiting
from gateway.sdk.loops.bridge import run_in_loop, run_on_sdk_loop
from gateway.sdk.loops.sync_calls import make_sync, prepare_sync_call
from gateway.sdk.options import check_seconds, moment_ms
from gateway.sdk.runtime import Runtime, current_runtime
from gateway.sdk.values.encoding import Values

T = TypeVar("T")

STREAM_PREFIX = "wait-"


@dataclass(frozen=True, slots=True)
class WaitToken(Generic[T]):
    """A token that a run waits for and another process completes.

    Attributes:
        id: For `complete_token`; made of the run's id and the id of one of its streams.
        access_token: Completes this token and nothing else, for at most 30 days. Give it to a page.
        expires_at: The expiry time, in the format of a run's times; None: never.
    """

    id: str
    access_token: str
    expires_at: str | None
    _type: Any = field(repr=False)


@run_on_sdk_loop
async def for_seconds(seconds: float) -> None:
    """Wait for a number of seconds, without holding a slot.

    Raises:
        InvalidValue: the time is out of range.
    """
    check_seconds("seconds", seconds)
    async with waiting():
        await current_runtime().sleep(seconds)


@run_on_sdk_loop
async def until(moment: datetime) -> None:
    """Wait until a moment, without holding a slot; returns immediately if it has passed.

    Raises:
        InvalidValue: the moment has no time zone.
    """
    due_ms = moment_ms("moment", moment)
    async with waiting():
        await current_runtime().sleep_until(due_ms)


@overload
async def create_token(type: type[T], *, timeout_s: float | None = None) -> WaitToken[T]: ...
@overload
async def create_token(type: Any = Any, *, timeout_s: float | None = None) -> WaitToken[Any]: ...
@run_on_sdk_loop
async def create_token(type: Any = Any, *, timeout_s: float | None = None) -> WaitToken[Any]:
    """Create a token that the calling run can wait for.

    Args:
        type: The type of the answer: any type that Pydantic's TypeAdapter accepts.
        timeout_s: Lifetime in seconds; None: until the run ends.

    Returns:
        The token, once it is durable.

    Raises:
        NotInRun: called outside a task.
        InvalidValue: the time is out of range, or Pydantic can make no schema of the type.
    """
    context, runtime = current_run(), current_runtime()
    if context is None:
        raise NotInRun("a wait token belongs to a run: it can be made inside a task")
    check_seconds("timeout_s", timeout_s)
    Values(type, "wait token")  # raises for a type without a schema
    key = StreamKey(context.id, f"{STREAM_PREFIX}{secrets.token_hex(10)}")
    expires_at = None
    if timeout_s is not None:
        expires_at = iso_time(runtime.clock_ms() + round(timeout_s * 1000))
    first = orjson.dumps({"expires_at": expires_at})
    await runtime.store.append(key, [first], source=context.id, writer=_once())
    ttl_s = tokens.MAX_TTL_S if timeout_s is None else min(timeout_s + 60, tokens.MAX_TTL_S)
    access_token = tokens.mint([f"write:streams:{key}"], ttl_s=ttl_s)
    return WaitToken(str(key), access_token, expires_at, type)


@run_on_sdk_loop
async def for_token(token: WaitToken[T]) -> T:
    """Wait until a token is completed, without holding a slot.

    Returns:
        The value with which it was completed, checked against its type.

    Raises:
        WaitTimeout: it was not completed in time, and can no longer be.
        InvalidValue: the value does not fit the type.
        StreamIncomplete: the token ended because its run has ended.
    """
    runtime, key = current_runtime(), _key(token.id)
    due_ms = time_ms(token.expires_at) if token.expires_at is not None else None
    async with waiting():
        record = await _answer_by(runtime, key, due_ms)
    if record is None:
        raise WaitTimeout(f"wait token {token.id} was not completed by {token.expires_at}")
    return Values[T](token._type, f"wait token {token.id}").decode(record.data)


async def _answer_by(runtime: Runtime, key: StreamKey, due_ms: int | None) -> Record | None:
    answering = asyncio.create_task(_answer(runtime, key))
    timers: set[asyncio.Task[Any]] = {answering}
    if due_ms is not None:
        timers.add(asyncio.create_task(runtime.sleep_until(due_ms)))
    try:
        await asyncio.wait(timers, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            # A late answer may race with the expiry. The store decides which one ends the stream.
            await _end(runtime, key, "expired")
        return await answering
    finally:
        for task in timers:
            task.cancel()


async def _answer(runtime: Runtime, key: StreamKey) -> Record | None:
    """Return the second record; None if the token expired before there was one."""
    end = None
    async with aclosing(runtime.store.follow(key)) as pages:
        async for page in pages:
            for record in page.records:
                if record.offset == 1:
                    await _end(runtime, key, "completed")  # if the client did not
                    return record
            end = page.end
    if end == "expired":
        return None
    raise StreamIncomplete(f"wait token {key} has ended: {end}")


async def _end(runtime: Runtime, key: StreamKey, reason: Any) -> None:
    try:
        await runtime.store.append(key, [], end=reason, writer=_once())
    except StreamEnded:
        pass  # the answer has ended it


@run_on_sdk_loop
async def complete_token(id: str, value: Any = None) -> None:
    """Complete a wait token, from any process.

    Args:
        id: The token's id.
        value: A value that JSON can represent. An instance of a dataclass or model is checked
            against its own class here. The waiting run checks the value against the token's type.

    Raises:
        RunNotFound: there is no such token.
        StreamEnded: the token was completed before or has expired, or its run has ended.
        InvalidValue: the value has no JSON, or does not fit its class.
    """
    runtime, key = current_runtime(), _key(id)
    is_instance = isinstance(value, BaseModel) or is_dataclass(value)
    values = Values[Any](type(value) if is_instance else Any, f"wait token {id}", is_input=True)
    try:
        data = values.encode(value)
    except InvalidValue as error:
        raise InvalidValue(f"{value!r:.80} is no JSON: {error.message}") from None
    head = await runtime.store.head(key)
    if head.end is None and head.position.offset == 0:
        raise RunNotFound(f"there is no wait token {id}")
    context = current_run()
    source = context.id if context is not None else None
    try:
        await runtime.store.append(key, [data], source=source, end="completed", writer=_once())
    except StreamEnded:
        end = (await runtime.store.head(key)).end
        raise StreamEnded(f"wait token {id} has ended ({end}); it cannot be completed") from None


for_seconds_sync = make_sync(for_seconds)
until_sync = make_sync(until)
for_token_sync = make_sync(for_token)
complete_token_sync = make_sync(complete_token)


@overload
def create_token_sync(type: type[T], *, timeout_s: float | None = None) -> WaitToken[T]: ...
@overload
def create_token_sync(type: Any = Any, *, timeout_s: float | None = None) -> WaitToken[Any]: ...
def create_token_sync(type: Any = Any, *, timeout_s: float | None = None) -> WaitToken[Any]:
    """Create a token that the calling run can wait for; see `create_token`."""
    prepare_sync_call("create_token")
    return run_in_loop(create_token(type, timeout_s=timeout_s))


def _once() -> Writer:
    """Return the writer of a single append, which makes a retry after a lost reply harmless."""
    return Writer(secrets.token_urlsafe(12), 0, 0)


def _key(id: str) -> StreamKey:
    run_id, _, stream_id = id.partition("/") if isinstance(id, str) else ("", "", "")
    if not stream_id.startswith(STREAM_PREFIX):
        raise InvalidId(f"{id!r:.80} is no wait token's id; create_token gives one")
    return StreamKey(check_run_id(run_id), check_stream_id(stream_id))
