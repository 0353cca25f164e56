"""Lines into records: the inside of `realtime append`."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence

import orjson

from gateway.errors import InvalidValue, RecordTooLarge
from gateway.model.limits import MAX_APPEND_RECORDS
from gateway.model.records import EndReason, Position, StreamKey, Writer
from gateway.model.untrusted_json import NotJson, check_json
from gateway.stores.base import Store

CHUNK_BYTES = 64 << 10  # read of standard input at a time
CHUNKS_AHEAD = 16  # read and not yet appended: then whoever writes has to wait
BATCH_BYTES = 512 << 10  # of one append


async def lines_of_values(values: Sequence[str]) -> AsyncIterator[list[bytes]]:
    """Give arguments as lines."""
    yield [value.encode() for value in values]


async def lines_of_input() -> AsyncIterator[list[bytes]]:
    """Give the lines of standard input as they come, many at once when many are there."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(CHUNKS_AHEAD)
    descriptor = sys.stdin.fileno()

    def read() -> None:
        chunk = b"."
        while chunk:
            chunk = os.read(descriptor, CHUNK_BYTES)
            try:
                asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()
            except (RuntimeError, asyncio.CancelledError):
                return  # nobody listens any more

    # No pool's thread: it may wait for a line that never comes, and must not hold up the end.
    threading.Thread(target=read, name="realtime-input", daemon=True).start()
    rest = bytearray()
    while chunk := await chunks.get():
        rest += chunk
        if b"\n" in chunk:
            *lines, left = bytes(rest).split(b"\n")
            rest = bytearray(left)
            yield lines
    if rest:
        yield [bytes(rest)]


async def append_lines(
    store: Store,
    key: StreamKey,
    lines: AsyncIterator[list[bytes]],
    *,
    is_text: bool,
    end: EndReason | None,
    record_bytes: int,
) -> tuple[int, Position | None]:
    """Append each line as a record, in order; a lost answer repeats nothing.

    Args:
        store: Open.
        key: Which stream.
        lines: As they come; empty ones are passed over, unless they are texts.
        is_text: A line is a string; otherwise JSON.
        end: End the stream after them.
        record_bytes: Of one record, at most.

    Returns:
        How many there were, and the position after them.

    Raises:
        InvalidValue: a line is no JSON; those before it were appended.
        RecordTooLarge: likewise.
    """
    writer_id = secrets.token_urlsafe(12)
    count, number, position = 0, 0, None
    async for some in lines:
        records = []
        problem: InvalidValue | RecordTooLarge | None = None
        for line in some:
            number += 1
            try:
                if (record := _record(line, number, is_text, record_bytes)) is not None:
                    records.append(record)
            except (InvalidValue, RecordTooLarge) as error:
                problem = error
                break
        for batch in batches(records):
            writer = Writer(writer_id, 0, count)
            position = (await store.append(key, batch, writer=writer)).position
            count += len(batch)
        if problem is not None:
            raise problem
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


def _check_json(data: bytes, what: str) -> None:
    try:
        check_json(data)
    except NotJson as error:
        raise InvalidValue(
            f"{what} is no JSON ({error}); strings want quotes, or give --text"
        ) from None


def batches(records: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Give records in appends that a gateway takes."""
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
