"""Waiting in the middle of a task: for time to pass, or for someone to answer.

    await wait.for_seconds(60)
    token = await wait.create_token(Approval, timeout_s=3600)    # give token.id to whoever decides
    approval = await wait.for_token(token)                       # the run's status is `waiting`

    await wait.complete_token(token.id, Approval(ok=True))       # elsewhere: a backend, a page

A run that waits gives its slot away, so that others can execute. A token is a stream of the run:
its first record says when it expires, the second is the answer, and with it the stream ends. So it
is as durable as the store, the first answer counts, and any client with the token's access token
can give it by an `append` with `end`.
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
    """Something that a run waits for.

    Attributes:
        id: Give it to `complete_token`; it is the run and one of its streams.
        access_token: Completes this token and does nothing else, for 30 days at most; for a page.
        expires_at: When it is too late, in the form of a run's times; None: never.
    """

    id: str
    access_token: str
    expires_at: str | None
    _type: Any = field(repr=False)


@run_on_sdk_loop
async def for_seconds(seconds: float) -> None:
    """Wait for some time; other runs have the slot meanwhile.

    Raises:
        InvalidValue: no length of time.
    """
    check_seconds("seconds", seconds)
    async with waiting():
        await current_runtime().sleep(seconds)


@run_on_sdk_loop
async def until(moment: datetime) -> None:
    """Wait until a moment; one that has passed already returns at once.

    Raises:
        InvalidValue: a moment without a time zone.
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
    """Make a token that the calling run can wait for.

    Args:
        type: Of the answer: anything that Pydantic's TypeAdapter takes.
        timeout_s: After how many seconds it expires; None: with the run.

    Returns:
        The token, once it is durable.

    Raises:
        NotInRun: called outside a task.
        InvalidValue: no length of time, or Pydantic can make no schema of the type.
    """
    context, active = current_run(), current_runtime()
    if context is None:
        raise NotInRun("a wait token belongs to a run: it can be made inside a task")
    check_seconds("timeout_s", timeout_s)
    Values(type, "wait token")  # says what is wrong with the type
    key = StreamKey(context.id, f"{STREAM_PREFIX}{secrets.token_hex(10)}")
    expires_at = None
    if timeout_s is not None:
        expires_at = iso_time(active.clock_ms() + round(timeout_s * 1000))
    first = orjson.dumps({"expires_at": expires_at})
    await active.store.append(key, [first], source=context.id, writer=_once())
    ttl_s = tokens.MAX_TTL_S if timeout_s is None else min(timeout_s + 60, tokens.MAX_TTL_S)
    access_token = tokens.mint([f"write:streams:{key}"], ttl_s=ttl_s)
    return WaitToken(str(key), access_token, expires_at, type)


@run_on_sdk_loop
async def for_token(token: WaitToken[T]) -> T:
    """Wait until a token is completed; other runs have the slot meanwhile.

    Returns:
        The value that it was completed with, checked against its type.

    Raises:
        WaitTimeout: it was not completed in time, and can no longer be.
        InvalidValue: the value does not fit the type.
        StreamIncomplete: it ended in another way: its run has ended.
    """
    active, key = current_runtime(), _key(token.id)
    due_ms = time_ms(token.expires_at) if token.expires_at is not None else None
    async with waiting():
        record = await _answer_by(active, key, due_ms)
    if record is None:
        raise WaitTimeout(f"wait token {token.id} was not completed by {token.expires_at}")
    return Values[T](token._type, f"wait token {token.id}").decode(record.data)


async def _answer_by(active: Runtime, key: StreamKey, due_ms: int | None) -> Record | None:
    answering = asyncio.create_task(_answer(active, key))
    timers: set[asyncio.Task[Any]] = {answering}
    if due_ms is not None:
        timers.add(asyncio.create_task(active.sleep_until(due_ms)))
    try:
        await asyncio.wait(timers, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            # The store decides whether the answer or the expiry was first.
            await _end(active, key, "expired")
        return await answering
    finally:
        for task in timers:
            task.cancel()


async def _answer(active: Runtime, key: StreamKey) -> Record | None:
    """Return the second record; None if the token expired before there was one."""
    end = None
    async with aclosing(active.store.follow(key)) as pages:
        async for page in pages:
            for record in page.records:
                if record.offset == 1:
                    await _end(active, key, "completed")  # a client may have left it open
                    return record
            end = page.end
    if end == "expired":
        return None
    raise StreamIncomplete(f"wait token {key} has ended: {end}")


async def _end(active: Runtime, key: StreamKey, reason: Any) -> None:
    try:
        await active.store.append(key, [], end=reason, writer=_once())
    except StreamEnded:
        pass  # by its answer


@run_on_sdk_loop
async def complete_token(id: str, value: Any = None) -> None:
    """Complete a wait token, from any process.

    Args:
        id: Of the token.
        value: JSON-able; the run that waits checks it against the token's type. An instance of a
            dataclass or model is checked against its own class here.

    Raises:
        RunNotFound: there is no such token.
        StreamEnded: it was completed before, has expired, or its run has ended.
        InvalidValue: the value is no JSON, or no value of its class.
    """
    active, key = current_runtime(), _key(id)
    is_instance = isinstance(value, BaseModel) or is_dataclass(value)
    values = Values[Any](type(value) if is_instance else Any, f"wait token {id}", is_input=True)
    try:
        data = values.encode(value)
    except InvalidValue as error:
        raise InvalidValue(f"{value!r:.80} is no JSON: {error.message}") from None
    head = await active.store.head(key)
    if head.end is None and head.position.offset == 0:
        raise RunNotFound(f"there is no wait token {id}")
    context = current_run()
    source = context.id if context is not None else None
    try:
        await active.store.append(key, [data], source=source, end="completed", writer=_once())
    except StreamEnded:
        end = (await active.store.head(key)).end
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
    """Make a token that the calling run can wait for; see `create_token`."""
    prepare_sync_call("create_token")
    return run_in_loop(create_token(type, timeout_s=timeout_s))


def _once() -> Writer:
    """Name the writer of a single append, so that it is repeated when its answer is lost."""
    return Writer(secrets.token_urlsafe(12), 0, 0)


def _key(id: str) -> StreamKey:
    run_id, _, stream_id = id.partition("/") if isinstance(id, str) else ("", "", "")
    if not stream_id.startswith(STREAM_PREFIX):
        raise InvalidId(f"{id!r:.80} is no wait token's id; create_token gives one")
    return StreamKey(check_run_id(run_id), check_stream_id(stream_id))
