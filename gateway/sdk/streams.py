"""Typed streams: define once, append in tasks, read in backends, show on pages.

progress = streams.define("progress", Progress)
progress.append(Progress(1, 10))                # in a task: ordered, not awaited
async for value in progress.read(run_id): ...   # in a backend
"""

from __future__ import annotations

import asyncio
import contextvars
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from gateway.errors import InvalidPosition, InvalidValue, ReadTimeout, StreamIncomplete, WriterFull
from gateway.model.log import Page
from gateway.model.records import Position, Record, StreamKey, check_run_id
from gateway.model.runs import Run
from gateway.sdk import stream_registry
from gateway.sdk.definitions import StreamDefinition
from gateway.sdk.inputs import InputStream, look
from gateway.sdk.loops.bridge import iterate_on_sdk_loop, run_on_sdk_loop
from gateway.sdk.loops.sync_calls import begin, make_sync_iterator
from gateway.sdk.options import check_seconds
from gateway.sdk.runtime import Runtime, current_runtime, record_bytes
from gateway.sdk.writers.stream_writer import MAX_RECORD_BYTES, Receipt, StreamWriter

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # a type, a union or an `Annotated[…]` of PEP 747

SMALL_BYTES = 1 << 10  # a record that is under every limit

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReadRecord(Generic[T]):
    """A record as a reader gets it.

    Attributes:
        value: The record's value, checked against the stream's type.
        offset: Its place in the stream, from 0.
        time_ms: When it was accepted, milliseconds since 1970 UTC.
        source: Run that wrote it; None for a client outside any run.
        position: Give this as `start` to go on after it.
        attempt: Of the run that wrote it.
    """

    value: T
    offset: int
    time_ms: int
    source: str | None
    position: str
    attempt: int = 1


class Stream(StreamDefinition[T]):
    """A stream definition with what tasks and backends do with it. Made by `define`."""

    def encode(self, value: T) -> bytes:
        """Return a value as JSON bytes; a part of an AI answer as one that a record can carry.

        Raises:
            InvalidValue: names the stream, the field and the value.
        """
        try:
            data = super().encode(value)
        except InvalidValue:
            if (part := _part_in(self, value, MAX_RECORD_BYTES)) is None:
                raise
            data = super().encode(part)
        if len(data) > SMALL_BYTES and len(data) > (limit := record_bytes()):
            part = _part_in(self, value, limit)
            return data if part is None else super().encode(part)
        return data

    def append(self, value: T, *, target: str = "self") -> Receipt:
        """Append a value; returns at once, and the order of calls is the order of records.

        Works on the event loop and in plain threads. Everything is durable before the run ends;
        await the receipt to know it earlier. At most 16 MiB wait per stream: then a plain thread
        blocks, and the event loop gets `WriterFull`.

        Args:
            value: Of the stream's type.
            target: Whose stream: `self`, `parent`, `root` or a run id. The record carries the
                calling run as its source.

        Returns:
            A receipt: `await` it (or `receipt.wait()` in a thread) for the record's offset.

        Raises:
            InvalidValue: the type refuses it; names stream, field and value.
            NoParent: `target="parent"` without a parent.
            RecordTooLarge: over 1 MiB.
            WriterFull: see above.
            RunCanceled: the calling run is being canceled.
        """
        return current_runtime().writer(self.id, target).put(self.encode(value))

    def append_sync(self, value: T, *, target: str = "self") -> int | None:
        """Append a value and wait until it is durable; see `append`. For plain code.

        Returns:
            The record's offset.
        """
        begin("append")
        return self.append(value, target=target).wait()

    def pipe(self, values: AsyncIterable[T] | Iterable[T], *, target: str = "self") -> Pipe[T]:
        """Append every value of an iterable and pass the values through.

        `await answer.pipe(tokens)` appends all and returns them as a list; `async for` (or `for`,
        over a plain iterable) gives each value after it was appended. Waits when too much is under
        way.

        Args:
            values: Async or plain; a plain one that is not a sequence is read in a thread when
                awaited.
            target: As in `append`.
        """
        return Pipe(self, values, target)

    def writer(self, *, target: str = "self") -> Writer[T]:
        """Return a writer bound to the calling run and target, to be used as `async with`.

        The block's end waits until everything is durable and raises what failed.
        """
        return Writer(self, current_runtime().writer(self.id, target))

    def read(
        self,
        run_id: str,
        *,
        start: Literal["beginning", "latest"] | str = "beginning",
        timeout_s: float | None = None,
        attempt: Literal["latest"] | int | None = None,
    ) -> AsyncIterator[T]:
        """Yield the values of a run's stream, those to come included, until the stream ends.

        Args:
            run_id: Whose stream.
            start: `beginning`, `latest` (what comes from now on) or a position.
            timeout_s: How long to wait for the next record; 0: yield what is there and wait for
                nothing; None: as long as it takes.
            attempt: Of what the run itself wrote, only that of one attempt: a number, or `latest`
                (the one that the run is at now, and those that follow). What other runs and
                clients wrote is always yielded. None: of all attempts.

        Raises:
            RunNotFound: there is no such run.
            ReadTimeout: no record came in time. Never a normal end of the loop.
            StreamIncomplete: the stream ended, but not by completing, or records are gone; what
                was yielded before is true.
            InvalidValue: a record does not fit the type.
        """
        records = self.read_records(run_id, start=start, timeout_s=timeout_s, attempt=attempt)
        return _values(records)

    async def read_records(
        self,
        run_id: str,
        *,
        start: Literal["beginning", "latest"] | str = "beginning",
        timeout_s: float | None = None,
        attempt: Literal["latest"] | int | None = None,
    ) -> AsyncGenerator[ReadRecord[T], None]:
        """Like `read`, with each record's offset, time, source, position and attempt."""
        key = StreamKey(check_run_id(run_id), self.id)
        active = current_runtime()
        run, after = await _start(active, key, start)
        wanted = _Attempts(run, attempt)
        async with aclosing(pages_of(active, key, after, timeout_s)) as pages:
            async for page in pages:
                for record in page.records:
                    if wanted.has(record):
                        yield self.read_record(record, page)
                if page.end not in (None, "completed"):
                    raise StreamIncomplete(f"stream {key} has ended: {page.end}")

    read_sync = make_sync_iterator(read)
    read_records_sync = make_sync_iterator(read_records)

    def read_record(self, record: Record, page: Page) -> ReadRecord[T]:
        """Read a record of a page as the stream's type.

        Raises:
            InvalidValue: it does not fit.
        """
        position = str(Position(page.position.epoch, record.offset + 1))
        value, (source, attempt) = self.decode(record.data), record.written_by
        return ReadRecord(value, record.offset, record.time_ms, source, position, attempt)


class _Attempts:
    """Which of a run's attempts a reader wants."""

    def __init__(self, run: Run, wanted: Literal["latest"] | int | None) -> None:
        is_number = isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 1
        if not (wanted is None or wanted == "latest" or is_number):
            raise InvalidValue(f'attempt is {wanted!r}; it is a number from 1, "latest" or None')
        self._run_id = run.id
        self._wanted = wanted
        self._latest = run.attempt

    def has(self, record: Record) -> bool:
        """Whether a record is to be yielded; the next one of the stream."""
        if self._wanted is None:
            return True
        source, attempt = record.written_by
        if source != self._run_id:
            return True
        self._latest = max(self._latest, attempt)
        return attempt == (self._latest if self._wanted == "latest" else self._wanted)


def _part_in(stream: StreamDefinition[Any], value: Any, max_bytes: int) -> Any:
    """Return a value that is a part of an AI answer as a record can carry it; else None."""
    from gateway.sdk import part_limits, parts  # most streams carry none

    if isinstance(value, Mapping) and stream.type == parts.Part:
        try:
            value = parts.PART.validate_python(value)
        except ValueError:
            return None
    return part_limits.storable(value, max_bytes) if part_limits.is_part(value) else None


async def _values(records: AsyncGenerator[ReadRecord[T], None]) -> AsyncIterator[T]:
    async with aclosing(records) as open_records:
        async for record in open_records:
            yield record.value


@run_on_sdk_loop
async def _start(active: Runtime, key: StreamKey, start: str) -> tuple[Run, Position | None]:
    run = (await active.store.get_run(key.run_id)).run
    if start == "beginning":
        return run, None
    if start == "latest":
        return run, (await active.store.head(key)).position
    try:
        return run, Position.parse(start)
    except InvalidPosition as error:
        raise InvalidPosition(f'start: {error}, "beginning" or "latest"') from None


@iterate_on_sdk_loop
async def pages_of(
    active: Runtime, key: StreamKey, after: Position | None, timeout_s: float | None
) -> AsyncGenerator[Page, None]:
    """Yield a stream's pages until it ends.

    Raises:
        ReadTimeout: none came in time.
        StreamIncomplete: records are gone.
    """
    check_seconds("timeout_s", timeout_s)
    pages = active.store.follow(key, after)
    try:
        while True:
            try:
                async with asyncio.timeout(timeout_s):
                    page = await anext(pages, None)
            except TimeoutError:
                # A store that is slower than the time-out has cut itself off; what is there counts.
                page = await look(active.store, key, after)
                if page is None:
                    why = f"stream {key}: no record came within {timeout_s:g} s"
                    raise ReadTimeout(why) from None
                pages = active.store.follow(key, page.position)
            if page is None:
                return
            if page.gap or page.reset:
                why = page.reset or "trimmed"
                raise StreamIncomplete(f"stream {key}: records after {after} are gone ({why})")
            yield page
            if page.end is not None:
                return
            after = page.position
    finally:
        await pages.aclose()


class Writer(Generic[T]):
    """Appends to one stream; made by `Stream.writer`."""

    def __init__(self, stream: Stream[T], writer: StreamWriter) -> None:
        self._stream = stream
        self._writer = writer

    def append(self, value: T) -> Receipt:
        """See `Stream.append`."""
        return self._writer.put(self._stream.encode(value))

    async def flush(self) -> None:
        """Wait until everything is durable.

        Raises:
            RealtimeError: the first failure that nobody has been told of yet.
        """
        await self._writer.flush()

    async def __aenter__(self) -> Writer[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.flush()


PIPE_WINDOW = 256  # records appended before the pipe waits for the oldest of them
_END: Any = object()


class Pipe(Generic[T]):
    """Values on their way into a stream; made by `Stream.pipe`."""

    def __init__(
        self, stream: Stream[T], values: AsyncIterable[T] | Iterable[T], target: str
    ) -> None:
        self._values = values
        self._stream = stream
        self._writer = current_runtime().writer(stream.id, target)
        self._has_begun = False

    def __del__(self) -> None:
        if not getattr(self, "_has_begun", True):
            message = (
                f"a pipe into stream {self._stream.id!r} was never awaited, so nothing was "
                "appended: use `await`, `async for`, or `for` in a plain function"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=2, source=self)

    def __await__(self) -> Generator[Any, None, list[T]]:
        return self._collect().__await__()

    async def _collect(self) -> list[T]:
        return [value async for value in self]

    async def __aiter__(self) -> AsyncIterator[T]:
        self._has_begun = True
        since = 0
        receipt: Receipt | None = None
        async with aclosing(_each(self._values)) as values:
            async for value in values:
                receipt = await self._put(value)
                since += 1
                if since >= PIPE_WINDOW:
                    await receipt
                    since = 0
                yield value
        if receipt is not None:
            await receipt

    async def _put(self, value: T) -> Receipt:
        data = self._stream.encode(value)
        while True:
            try:
                return self._writer.put(data)
            except WriterFull:  # by bytes, or by what others append here
                await self._writer.drain()

    def __iter__(self) -> Iterator[T]:
        self._has_begun = True
        if isinstance(self._values, AsyncIterable):
            raise TypeError("this pipe's values are async: use `async for` or `await`")
        self._writer.ensure_not_on_loop("`for` over a pipe is for plain functions; use `async for`")
        receipt: Receipt | None = None
        for value in self._values:
            receipt = self._writer.put(self._stream.encode(value))
            yield value
        if receipt is not None:
            receipt.wait()


async def _each(values: AsyncIterable[T] | Iterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(values, AsyncIterable):
        async for value in values:
            yield value
    elif isinstance(values, Sequence):
        for value in values:
            yield value
    else:
        async with aclosing(_in_thread(values)) as pulled:
            async for value in pulled:
                yield value


async def _in_thread(values: Iterable[T]) -> AsyncGenerator[T, None]:
    """Yield the values of an iterable that may block, such as a client that waits for the network.

    It has a thread of its own: in a pool, iterables that wait would hold the threads that others
    need. The next value is read when it is asked for.
    """
    asked: SimpleQueue[Future[Any] | None] = SimpleQueue()
    context = contextvars.copy_context()

    def read() -> None:
        iterator: Any = None
        while (future := asked.get()) is not None:
            try:
                iterator = context.run(iter, values) if iterator is None else iterator
                future.set_result(context.run(next, iterator, _END))
            except BaseException as error:
                future.set_exception(error)

    try:
        Thread(target=read, name="realtime-pipe", daemon=True).start()
        while True:
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()  # a thread cannot be canceled
            asked.put(future)
            value = await asyncio.wrap_future(future)
            if value is _END:
                return
            yield value
    finally:
        asked.put(None)


@overload
def define(id: str) -> Stream[str]: ...
@overload
def define(id: str, type: type[T]) -> Stream[T]: ...
@overload
def define(id: str, type: TypeForm[T]) -> Stream[T]: ...
@overload
def define(id: str, type: Any) -> Stream[Any]: ...


def define(id: str, type: Any = str) -> Stream[Any]:
    """Define a stream, in a file that tasks and pages share.

    Args:
        id: 1 to 64 characters of `A-Z a-z 0-9 - _ .`.
        type: Of its records: anything that Pydantic's TypeAdapter takes.

    Returns:
        The definition.

    Raises:
        InvalidId: the id is outside its rule.
        InvalidValue: Pydantic can make no schema of the type, or the id is that of an input of
            another type.

    Source:
        PROTOCOL.md, section 3.
    """
    stream: Stream[Any] = Stream(id, type)
    stream_registry.add(stream)
    return stream


@overload
def input(id: str) -> InputStream[str]: ...
@overload
def input(id: str, type: type[T]) -> InputStream[T]: ...
@overload
def input(id: str, type: TypeForm[T]) -> InputStream[T]: ...
@overload
def input(id: str, type: Any) -> InputStream[Any]: ...


def input(id: str, type: Any = str) -> InputStream[Any]:
    """Define an input stream: what pages and backends tell a run while it executes.

    What a client sends to it is checked at the gateway's edge, by the type's JSON Schema. So an
    input's id has one type in all of the project, also in the workers that are connected.

    Args:
        id: 1 to 64 characters of `A-Z a-z 0-9 - _ .`.
        type: Of its values: anything that Pydantic's TypeAdapter takes and has a JSON Schema for.

    Returns:
        The definition.

    Raises:
        InvalidId: the id is outside its rule.
        InvalidValue: Pydantic can make no schema of the type, or the id is that of a stream of
            another type; names both places.
    """
    return InputStream(id, type)
