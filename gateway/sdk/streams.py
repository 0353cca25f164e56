"""Typed streams: define once, append in tasks, read in backends, show on pages.

progress = streams.define("progress", Progress)
progress.append(Progress(1, 10))                # in a task: ordered, not awaited
async for value in progress.read(run_id): ...   # in a backend
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from gateway.errors import InvalidValue, StreamIncomplete
from gateway.model.log import Page
from gateway.model.records import Position, Record, StreamKey, check_run_id
from gateway.sdk import stream_registry
from gateway.sdk.definitions import StreamDefinition
from gateway.sdk.inputs import InputStream
from gateway.sdk.loops.sync_calls import make_sync_iterator, prepare_sync_call
from gateway.sdk.runtime import current_runtime, record_bytes
from gateway.sdk.stream_reader import AttemptFilter, ReadRecord, pages_of, resolve_start
from gateway.sdk.writers.pipe import Pipe, Writer
from gateway.sdk.writers.stream_writer import MAX_RECORD_BYTES, Receipt

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # a type, a union or an `Annotated[…]` of PEP 747

SMALL_BYTES = 1 << 10  # a record below this size is below every limit

T = TypeVar("T")


class Stream(StreamDefinition[T]):
    """A stream definition with the operations of tasks and backends. Made by `define`."""

    def encode(self, value: T) -> bytes:
        """Return a value as JSON bytes. A part of an AI answer is changed to fit into a record.

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
        """Append a value without waiting for the store. Records have the order of the calls.

        Works on the event loop and in plain threads. All records are durable before the run ends;
        await the receipt to know it earlier. At most 16 MiB are queued per stream. When the queue
        is full, a plain thread blocks, and a call on the event loop raises `WriterFull`.

        Args:
            value: Of the stream's type.
            target: The run that owns the stream: `self`, `parent`, `root` or a run id. The
                record's source is the calling run.

        Returns:
            A receipt: `await` it (or `receipt.wait()` in a thread) for the record's offset.

        Raises:
            InvalidValue: the value does not fit the type; names stream, field and value.
            NoParent: `target="parent"` without a parent.
            RecordTooLarge: the record is over 1 MiB.
            WriterFull: the queue is full.
            RunCanceled: the calling run is being canceled.
        """
        return current_runtime().writer(self.id, target).put(self.encode(value))

    def append_sync(self, value: T, *, target: str = "self") -> int | None:
        """Append a value and wait until it is durable; see `append`. For synchronous code.

        Returns:
            The record's offset.
        """
        prepare_sync_call("append")
        return self.append(value, target=target).wait()

    def pipe(self, values: AsyncIterable[T] | Iterable[T], *, target: str = "self") -> Pipe[T]:
        """Append every value of an iterable and pass the values through.

        `await answer.pipe(tokens)` appends all values and returns them as a list. `async for` (or
        `for`, over a plain iterable) yields each value after it was appended. The pipe waits while
        256 records are in flight.

        Args:
            values: Async or plain. When awaited, a plain iterable that is not a sequence is read in
                a thread.
            target: As in `append`.
        """
        return Pipe(self, current_runtime().writer(self.id, target), values)

    def writer(self, *, target: str = "self") -> Writer[T]:
        """Return a writer bound to the calling run and target, to be used as `async with`.

        The block's end waits until all records are durable, and raises the first failure.
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
        """Yield the values of a run's stream, including future ones, until the stream ends.

        Args:
            run_id: The run that owns the stream.
            start: `beginning`, `latest` (only future records) or a position.
            timeout_s: How long to wait for the next record; 0: yield only the stored records; None:
                no limit.
            attempt: Of the records that the run itself wrote, yield only those of one attempt: a
                number, or `latest` (the current attempt and those that follow). Records of other
                runs and of clients are always yielded. None: all attempts.

        Raises:
            RunNotFound: there is no such run.
            ReadTimeout: no record came in time. Never a normal end of the loop.
            StreamIncomplete: the stream ended without completing, or records are gone. The values
                yielded before are valid.
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
        runtime = current_runtime()
        run, after = await resolve_start(runtime, key, start)
        attempts = AttemptFilter(run, attempt)
        async with aclosing(pages_of(runtime, key, after, timeout_s)) as pages:
            async for page in pages:
                for record in page.records:
                    if attempts.selects(record):
                        yield self.read_record(record, page)
                if page.end not in (None, "completed"):
                    raise StreamIncomplete(f"stream {key} has ended: {page.end}")

    read_sync = make_sync_iterator(read)
    read_records_sync = make_sync_iterator(read_records)

    def read_record(self, record: Record, page: Page) -> ReadRecord[T]:
        """Decode a record of a page as the stream's type.

        Raises:
            InvalidValue: the record does not fit the type.
        """
        position = str(Position(page.position.epoch, record.offset + 1))
        value, (source, attempt) = self.decode(record.data), record.written_by
        return ReadRecord(value, record.offset, record.time_ms, source, position, attempt)


def _part_in(stream: StreamDefinition[Any], value: Any, max_bytes: int) -> Any:
    """Return a part of an AI answer changed to fit into a record; None for other values."""
    from gateway.sdk import part_limits, parts  # not loaded for streams without parts

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
        type: The type of the records: any type that Pydantic's TypeAdapter accepts.

    Returns:
        The definition.

    Raises:
        InvalidId: the id is not allowed.
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
    """Define an input stream: values that pages and backends send to a run while it executes.

    The gateway checks the values of clients against the type's JSON Schema. So an input's id must
    have the same type in the whole project, including connected workers.

    Args:
        id: 1 to 64 characters of `A-Z a-z 0-9 - _ .`.
        type: The type of the values: any type that Pydantic's TypeAdapter accepts and has a JSON
            Schema for.

    Returns:
        The definition.

    Raises:
        InvalidId: the id is not allowed.
        InvalidValue: Pydantic can make no schema of the type, or the id is that of a stream of
            another type; names both places.
    """
    return InputStream(id, type)
