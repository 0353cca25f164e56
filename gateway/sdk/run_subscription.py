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

QUEUE_ITEMS = 256  # read ahead of the caller's loop, all streams together
_END: Any = object()


@dataclass(frozen=True, slots=True)
class StreamRecord(Generic[T]):
    """A record of one of the streams that are followed with a run.

    Attributes:
        stream: The stream. Its type is any JSON if this process does not define it, or defines it
            with several types.
        record: With its value, offset, time, source and position.
    """

    stream: Stream[T]
    record: ReadRecord[T]

    @property
    def value(self) -> T:
        """The record's value."""
        return self.record.value


class RunSubscription:
    """The changes of a run until it ends. Made by `runs.subscribe`; use it in `async for`."""

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

        Yields the run, then the run after each change and each record, in the order of arrival.
        The records of one stream keep their order. The ended run comes last, after every record.

        Args:
            streams: Definitions; none: all streams of the run, as they appear. Values have the
                stream's type if this process defines it; otherwise they are any JSON.

        Raises:
            RunNotFound: there is no such run.
            StreamIncomplete: records of a stream are gone.
            InvalidValue: a record does not fit its stream's type.
        """
        runtime, run_id = current_runtime(), self._run_id
        if not streams:
            return _merge([_changes(runtime, run_id), _new_streams(runtime, run_id)])
        return _merge(
            [_changes(runtime, run_id), *(_records(runtime, run_id, each) for each in streams)]
        )


@iterate_on_sdk_loop
async def _changes(runtime: Runtime, run_id: str) -> AsyncGenerator[Run, None]:
    while True:
        state = await runtime.store.get_run(run_id)
        yield state.run
        if state.run.is_finished:
            return
        wire = state.run.to_wire()
        async with aclosing(runtime.store.follow(run_log(run_id), state.position)) as pages:
            async for page in pages:
                if page.reset or page.gap:
                    break  # the log was replaced or trimmed: start again with the current run
                for record in page.records:
                    wire = fold_change(wire, orjson.loads(record.data))
                    yield Run.from_wire(wire)
            else:
                return


async def _records(
    runtime: Runtime, run_id: str, stream: Stream[T]
) -> AsyncGenerator[StreamRecord[T], None]:
    pages = pages_of(runtime, StreamKey(run_id, stream.id), None, None)
    async with aclosing(pages) as open_pages:
        async for page in open_pages:
            for record in page.records:
                yield StreamRecord(stream, stream.read_record(record, page))


async def _new_streams(runtime: Runtime, run_id: str) -> AsyncGenerator[_Source, None]:
    """Yield each stream of a run, as soon as it appears, as a source of its records."""
    pages = pages_of(runtime, StreamKey(run_id, STREAMS_STREAM), None, None)
    async with aclosing(pages) as open_pages:
        async for page in open_pages:
            for record in page.records:
                stream = _stream_of(orjson.loads(record.data)["stream"])
                yield _Source(_records(runtime, run_id, stream))


def _stream_of(stream_id: str) -> Stream[Any]:
    definition = stream_registry.find(stream_id)
    return Stream(stream_id, definition.type if definition is not None else Any)


class _Source(NamedTuple):
    """A further generator to merge."""

    items: AsyncGenerator[Any, None]


@iterate_on_sdk_loop
async def _merge(
    sources: Iterable[AsyncGenerator[Any, None]],
) -> AsyncGenerator[Run | StreamRecord[Any], None]:
    """Yield the items of all sources, also of sources that they yield; the ended run comes last."""
    queue: asyncio.Queue[Any] = asyncio.Queue(QUEUE_ITEMS)
    pumps: set[asyncio.Task[None]] = set()

    async def pump(items: AsyncGenerator[Any, None]) -> None:
        failure: Any = _END
        try:
            async with aclosing(items) as open_items:
                async for item in open_items:
                    if isinstance(item, _Source):
                        # Before this source ends: else the count of open sources could reach 0.
                        start(item.items)
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
