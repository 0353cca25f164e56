"""Reads a stream from the store: its pages until it ends, and the records of one attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from gateway.errors import InvalidPosition, InvalidValue, ReadTimeout, StreamIncomplete
from gateway.model.log import Page
from gateway.model.records import Position, Record, StreamKey
from gateway.model.runs import Run
from gateway.sdk.loops.bridge import iterate_on_sdk_loop, run_on_sdk_loop
from gateway.sdk.options import check_seconds
from gateway.sdk.runtime import Runtime
from gateway.stores.base import Store

T = TypeVar("T")

READ_NOW_TIMEOUT_S = 5.0  # for the read after a time-out; the store may be unreachable


@dataclass(frozen=True, slots=True)
class ReadRecord(Generic[T]):
    """A record as a reader gets it.

    Attributes:
        value: The record's value, checked against the stream's type.
        offset: Its number in the stream, from 0.
        time_ms: When it was accepted, milliseconds since 1970 UTC.
        source: The run that wrote it; None for a client outside any run.
        position: Pass this as `start` to continue after the record.
        attempt: The attempt of the run that wrote it.
    """

    value: T
    offset: int
    time_ms: int
    source: str | None
    position: str
    attempt: int = 1


class AttemptFilter:
    """Selects the records of one attempt of a run.

    Args:
        run: The run whose stream is read.
        wanted: A number, `latest`, or None for all attempts.

    Raises:
        InvalidValue: `wanted` is none of these.
    """

    def __init__(self, run: Run, wanted: Literal["latest"] | int | None) -> None:
        is_number = isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 1
        if not (wanted is None or wanted == "latest" or is_number):
            raise InvalidValue(f'attempt is {wanted!r}; it is a number from 1, "latest" or None')
        self._run_id = run.id
        self._wanted = wanted
        self._latest = run.attempt

    def selects(self, record: Record) -> bool:
        """Whether to yield a record. Call it for every record of the stream, in order."""
        if self._wanted is None:
            return True
        source, attempt = record.written_by
        if source != self._run_id:
            return True
        self._latest = max(self._latest, attempt)
        return attempt == (self._latest if self._wanted == "latest" else self._wanted)


@run_on_sdk_loop
async def resolve_start(
    runtime: Runtime, key: StreamKey, start: str
) -> tuple[Run, Position | None]:
    """Return the run of a stream, and the position that a `start` names.

    Raises:
        RunNotFound: there is no such run.
        InvalidPosition: `start` is neither a position nor one of the words.
    """
    run = (await runtime.store.get_run(key.run_id)).run
    if start == "beginning":
        return run, None
    if start == "latest":
        return run, (await runtime.store.head(key)).position
    try:
        return run, Position.parse(start)
    except InvalidPosition as error:
        raise InvalidPosition(f'start: {error}, "beginning" or "latest"') from None


@iterate_on_sdk_loop
async def pages_of(
    runtime: Runtime, key: StreamKey, after: Position | None, timeout_s: float | None
) -> AsyncGenerator[Page, None]:
    """Yield a stream's pages until it ends.

    Raises:
        ReadTimeout: no page came in time.
        StreamIncomplete: records are gone.
    """
    check_seconds("timeout_s", timeout_s)
    pages = runtime.store.follow(key, after)
    try:
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    page = await anext(pages, None)
            except TimeoutError:
                # The store may only be slower than the time-out: read once more without following.
                page = await read_now(runtime.store, key, after)
                if page is None:
                    message = f"stream {key}: no record came within {timeout_s:g} s"
                    raise ReadTimeout(message) from None
                pages = runtime.store.follow(key, page.position)
            if page is None:
                return
            if page.gap or page.reset:
                reason = page.reset or "trimmed"
                raise StreamIncomplete(f"stream {key}: records after {after} are gone ({reason})")
            yield page
            if page.end is not None:
                return
            after = page.position
    finally:
        await pages.aclose()


async def read_now(store: Store, key: StreamKey, after: Position | None) -> Page | None:
    """Read the stored records after a position, when a time-out has passed; None if there are none.

    This makes a time-out true however slow the store is, and gives 0 the meaning "what is there".
    """
    try:
        async with asyncio.timeout(READ_NOW_TIMEOUT_S):
            page = await store.read(key, after)
    except TimeoutError:
        return None
    return None if page.is_empty else page
