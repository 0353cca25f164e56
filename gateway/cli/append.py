"""`realtime append`: append arguments, or lines of standard input, as records."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated

import orjson
import typer

from gateway.cli._output import JsonOption, emit, info
from gateway.cli._target import StoreOption, Target, TokenOption, UrlOption
from gateway.errors import InvalidValue, RecordTooLarge
from gateway.model.limits import MAX_APPEND_RECORDS
from gateway.model.records import EndReason, Position, StreamKey, Writer, check_run_id
from gateway.model.untrusted_json import NotJson, check_json
from gateway.stores.base import Store

CHUNK_BYTES = 64 << 10  # size of one read of standard input
MAX_QUEUED_CHUNKS = 16  # chunks read but not appended; above it, the writer of the pipe blocks
BATCH_BYTES = 512 << 10  # size of one append
END_REASONS = ("completed", "failed", "canceled", "expired")


def append(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    stream: Annotated[str, typer.Argument(help="Id of the stream.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(help="JSON values, one per record; without any, lines of standard input."),
    ] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Append each value or line as a string, not as JSON.")
    ] = False,
    end: Annotated[bool, typer.Option("--end", help="End the stream afterwards.")] = False,
    reason: Annotated[
        str,
        typer.Option(help=f"Reason of --end: {', '.join(END_REASONS[:-1])} or {END_REASONS[-1]}."),
    ] = "completed",
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Append records to a stream of a run, as arguments or lines of standard input.

    Lines are appended as they arrive, and all are acknowledged before the command ends. With --end
    and no values, standard input is read unless it is a terminal.
    """
    key = StreamKey(check_run_id(run), stream)
    if reason not in END_REASONS:
        raise InvalidValue(f"--reason is {reason!r}; it must be one of {', '.join(END_REASONS)}")
    target = Target.from_options(url, token, store)
    if values:
        lines = lines_from_arguments(values)
    elif end and sys.stdin.isatty():
        lines = lines_from_arguments([])
    else:
        lines = lines_from_stdin()

    async def append_all() -> tuple[int, Position | None]:
        async with target.store() as opened:
            return await append_lines(
                opened,
                key,
                lines,
                is_text=text,
                end=reason if end else None,  # type: ignore[arg-type]
                record_bytes=target.settings.limits.record_bytes,
            )

    count, position = asyncio.run(append_all())
    if as_json:
        emit({"appended": count, "position": str(position) if position else None})
    else:
        info(f"{count} records appended to {key}{f', which ended {reason}' if end else ''}")


async def lines_from_arguments(values: Sequence[str]) -> AsyncIterator[list[bytes]]:
    """Yield the arguments as one list of lines."""
    yield [value.encode() for value in values]


async def lines_from_stdin() -> AsyncIterator[list[bytes]]:
    """Yield the lines of standard input as they arrive, in lists of all complete lines."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(MAX_QUEUED_CHUNKS)
    descriptor = sys.stdin.fileno()

    def read() -> None:
        chunk = b"."
        while chunk:
            chunk = os.read(descriptor, CHUNK_BYTES)
            try:
                asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()
            except (RuntimeError, asyncio.CancelledError):
                return  # the event loop is closed

    # A daemon thread, not a pool's: it may block on a line that never comes, and must not delay
    # the end of the process.
    threading.Thread(target=read, name="realtime-input", daemon=True).start()
    buffer = bytearray()
    while chunk := await chunks.get():
        buffer += chunk
        if b"\n" in chunk:
            *lines, remainder = bytes(buffer).split(b"\n")
            buffer = bytearray(remainder)
            yield lines
    if buffer:
        yield [bytes(buffer)]


async def append_lines(
    store: Store,
    key: StreamKey,
    lines: AsyncIterator[list[bytes]],
    *,
    is_text: bool,
    end: EndReason | None,
    record_bytes: int,
) -> tuple[int, Position | None]:
    """Append each line as a record, in order and idempotently.

    Args:
        store: An open store.
        key: The stream.
        lines: Lists of lines. Empty lines are skipped unless `is_text`.
        is_text: Whether a line is a string rather than JSON.
        end: Reason with which to end the stream after the last line, or None.
        record_bytes: Largest size of one record.

    Returns:
        The number of records, and the position after them.

    Raises:
        InvalidValue: a line is not JSON; the lines before it have been appended.
        RecordTooLarge: a line is too large; the lines before it have been appended.
    """
    writer_id = secrets.token_urlsafe(12)
    count, number, position = 0, 0, None
    async for received in lines:
        records = []
        failure: InvalidValue | RecordTooLarge | None = None
        for line in received:
            number += 1
            try:
                if (record := _record(line, number, is_text, record_bytes)) is not None:
                    records.append(record)
            except (InvalidValue, RecordTooLarge) as error:
                failure = error
                break
        for batch in batches(records):
            writer = Writer(writer_id, 0, count)
            position = (await store.append(key, batch, writer=writer)).position
            count += len(batch)
        if failure is not None:
            raise failure
    if end is not None:
        writer = Writer(writer_id, 0, count)
        position = (await store.append(key, [], writer=writer, end=end)).position
    return count, position


def _record(line: bytes, number: int, is_text: bool, record_bytes: int) -> bytes | None:
    line = line.removesuffix(b"\r")
    if is_text:
        data = orjson.dumps(line.decode("utf-8", "replace"))
    elif not (data := line.strip()):
        return None
    else:
        _check_json(data, f"line {number}")
    if len(data) > record_bytes:
        raise RecordTooLarge(f"line {number} is {len(data)} bytes; the limit is {record_bytes}")
    return data


def _check_json(data: bytes, name: str) -> None:
    try:
        check_json(data)
    except NotJson as error:
        raise InvalidValue(f"{name} is not JSON ({error}); quote strings, or use --text") from None


def batches(records: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Split records into batches within the limits of one append."""
    batch: list[bytes] = []
    size = 0
    for record in records:
        if batch and (len(batch) == MAX_APPEND_RECORDS or size + len(record) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += len(record)
    if batch:
        yield batch
