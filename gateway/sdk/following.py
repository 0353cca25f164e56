"""A run and its streams, followed from a backend in one loop. See `runs.subscribe`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import orjson

from gateway.patches import merge_patch
from gateway.records import StreamKey
from gateway.runs import Run
from gateway.sdk.runtime import Runtime, runtime
from gateway.sdk.streams import ReadRecord, Stream, pages_of
from gateway.stores.base import run_log

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

QUEUE_ITEMS = 256  # read ahead of the loop, of all streams together
_END: Any = object()


@dataclass(frozen=True, slots=True)
class StreamRecord(Generic[T]):
    """A record of one of the streams that are followed with a run.

    Attributes:
        stream: Which.
        record: With its value, offset, time, source and position.
    """

    stream: Stream[T]
    record: ReadRecord[T]

    @property
    def value(self) -> T:
        """The record's value."""
        return self.record.value


class RunSubscription:
    """A run from now on, until it ends. Made by `runs.subscribe`; use it in `async for`."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def __aiter__(self) -> AsyncIterator[Run]:
        return _changes(runtime(), self._run_id)

    @overload
    def with_streams(self, a: Stream[A], /) -> AsyncGenerator[Run | StreamRecord[A], None]: ...
    @overload
    def with_streams(
        self, a: Stream[A], b: Stream[B], /
    ) -> AsyncGenerator[Run | StreamRecord[A] | StreamRecord[B], None]: ...
    @overload
    def with_streams(
        self, a: Stream[A], b: Stream[B], c: Stream[C], /
    ) -> AsyncGenerator[Run | StreamRecord[A] | StreamRecord[B] | StreamRecord[C], None]: ...
    @overload
    def with_streams(
        self, *streams: Stream[Any]
    ) -> AsyncGenerator[Run | StreamRecord[Any], None]: ...
    def with_streams(self, *streams: Stream[Any]) -> AsyncGenerator[Run | StreamRecord[Any], None]:
        """Follow streams of the run in the same loop, each from its beginning.

        Yields the run as it is, then each of its changes and each record, in the order in which
        they come; each stream keeps its own order. The last is the run as it ended, when every
        record was given.

        Args:
            streams: Definitions.

        Raises:
            RunNotFound: there is no such run.
            StreamIncomplete: records of a stream are gone.
            InvalidValue: a record does not fit its stream's type.
        """
        return _together(runtime(), self._run_id, streams)


async def _changes(active: Runtime, run_id: str) -> AsyncGenerator[Run, None]:
    state = await active.store.get_run(run_id)
    yield state.run
    if state.run.is_final:
        return
    wire = state.run.to_wire()
    async with aclosing(active.store.follow(run_log(run_id), state.position)) as pages:
        async for page in pages:
            for record in page.records:
                wire = merge_patch(wire, orjson.loads(record.data))
                yield Run.from_wire(wire)


async def _records(
    active: Runtime, run_id: str, stream: Stream[T]
) -> AsyncGenerator[StreamRecord[T], None]:
    pages = pages_of(active, StreamKey(run_id, stream.id), None, None)
    async with aclosing(pages) as open_pages:
        async for page in open_pages:
            for record in page.records:
                yield StreamRecord(stream, stream.read_record(record, page))


async def _together(
    active: Runtime, run_id: str, streams: tuple[Stream[Any], ...]
) -> AsyncGenerator[Run | StreamRecord[Any], None]:
    queue: asyncio.Queue[Any] = asyncio.Queue(QUEUE_ITEMS)

    async def pump(items: AsyncGenerator[Any, None]) -> None:
        failure: Any = _END
        try:
            async with aclosing(items) as open_items:
                async for item in open_items:
                    await queue.put(item)
        except Exception as error:
            failure = error
        await queue.put(failure)

    sources = [_changes(active, run_id), *(_records(active, run_id, s) for s in streams)]
    pumps = [asyncio.create_task(pump(source)) for source in sources]
    final: Run | None = None
    try:
        left = len(pumps)
        while left:
            item = await queue.get()
            if item is _END:
                left -= 1
            elif isinstance(item, Exception):
                raise item
            elif isinstance(item, Run) and item.is_final:
                final = item
            else:
                yield item
        if final is not None:
            yield final
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
