"""A run and its streams, followed from a backend in one loop. See `runs.subscribe`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, overload

import orjson

from gateway.model.log import run_log
from gateway.model.patches import fold_change
from gateway.model.records import STREAMS_STREAM, StreamKey
from gateway.model.runs import Run
from gateway.sdk import stream_registry
from gateway.sdk.loops.bridge import iterate_on_sdk_loop
from gateway.sdk.runtime import Runtime, current_runtime
from gateway.sdk.stream_reader import ReadRecord, pages_of
from gateway.sdk.streams import Stream

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
        stream: Which; of one that is not defined in this process, or in several ways, the type is
            any JSON.
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
        return _changes(current_runtime(), self._run_id)

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
            streams: Definitions; none: all of the run's streams, as they appear. The values of
                those that are defined in this process are of their type, others any JSON.

        Raises:
            RunNotFound: there is no such run.
            StreamIncomplete: records of a stream are gone.
            InvalidValue: a record does not fit its stream's type.
        """
        active, run_id = current_runtime(), self._run_id
        if not streams:
            return _merge([_changes(active, run_id), _new_streams(active, run_id)])
        return _merge(
            [_changes(active, run_id), *(_records(active, run_id, each) for each in streams)]
        )


@iterate_on_sdk_loop
async def _changes(active: Runtime, run_id: str) -> AsyncGenerator[Run, None]:
    while True:
        state = await active.store.get_run(run_id)
        yield state.run
        if state.run.is_finished:
            return
        wire = state.run.to_wire()
        async with aclosing(active.store.follow(run_log(run_id), state.position)) as pages:
            async for page in pages:
                if page.reset or page.gap:
                    break  # its changes are of a log that is gone: begin with the run as it is now
                for record in page.records:
                    wire = fold_change(wire, orjson.loads(record.data))
                    yield Run.from_wire(wire)
            else:
                return


async def _records(
    active: Runtime, run_id: str, stream: Stream[T]
) -> AsyncGenerator[StreamRecord[T], None]:
    pages = pages_of(active, StreamKey(run_id, stream.id), None, None)
    async with aclosing(pages) as open_pages:
        async for page in open_pages:
            for record in page.records:
                yield StreamRecord(stream, stream.read_record(record, page))


async def _new_streams(active: Runtime, run_id: str) -> AsyncGenerator[_Source, None]:
    """Yield each stream of a run, when it appears, as a source of its records."""
    pages = pages_of(active, StreamKey(run_id, STREAMS_STREAM), None, None)
    async with aclosing(pages) as open_pages:
        async for page in open_pages:
            for record in page.records:
                stream = _stream_of(orjson.loads(record.data)["stream"])
                yield _Source(_records(active, run_id, stream))


def _stream_of(stream_id: str) -> Stream[Any]:
    definition = stream_registry.find(stream_id)
    return Stream(stream_id, definition.type if definition is not None else Any)


class _Source(NamedTuple):
    """More to follow, found on the way."""

    items: AsyncGenerator[Any, None]


@iterate_on_sdk_loop
async def _merge(
    sources: Iterable[AsyncGenerator[Any, None]],
) -> AsyncGenerator[Run | StreamRecord[Any], None]:
    """Yield the items of all sources, those that they name included; the run's end is the last."""
    queue: asyncio.Queue[Any] = asyncio.Queue(QUEUE_ITEMS)
    pumps: set[asyncio.Task[None]] = set()

    async def pump(items: AsyncGenerator[Any, None]) -> None:
        failure: Any = _END
        try:
            async with aclosing(items) as open_items:
                async for item in open_items:
                    if isinstance(item, _Source):
                        start(item.items)  # here, so that it counts before this source ends
                    else:
                        await queue.put(item)
        except Exception as error:
            failure = error
        await queue.put(failure)

    def start(items: AsyncGenerator[Any, None]) -> None:
        pumps.add(asyncio.create_task(pump(items)))

    for source in sources:
        start(source)
    final: Run | None = None
    ended = 0
    try:
        while ended < len(pumps):
            item = await queue.get()
            if item is _END:
                ended += 1
            elif isinstance(item, Exception):
                raise item
            elif isinstance(item, Run) and item.is_finished:
                final = item
            else:
                yield item
        if final is not None:
            yield final
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
