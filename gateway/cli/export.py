"""`realtime export` and `realtime import`: a run and its streams as JSON lines.

The first line is the run. The records of each stream and the stream's end follow. The last line has
the counts; a file without it is incomplete and is not imported.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

import msgspec
import orjson
import typer

from gateway.cli._output import info, writer_fields
from gateway.cli._target import StoreOption, Target, TokenOption, UrlOption
from gateway.cli.append import END_REASONS, batches
from gateway.cli.streams import stream_keys
from gateway.errors import ConfigurationError, InvalidValue, RunExists
from gateway.model.limits import MAX_APPEND_RECORDS
from gateway.model.records import (
    EndReason,
    Position,
    StreamKey,
    Writer,
    check_run_id,
    check_stream_id,
    source_of,
)
from gateway.model.runs import Run, new_run_id
from gateway.stores.base import Store, system_clock_ms

FORMAT = 1
UNFINISHED = {"type": "Imported", "message": "the run had not finished when it was exported"}


def export(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="New file; default standard output.")
    ] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Write a run and the current records of its streams as JSON lines."""
    target = Target.from_options(url, token, store)
    run_id = check_run_id(run)
    with _open_output(out) as file:
        streams, records = asyncio.run(_export(target, run_id, file))
    info(f"run {run_id}: {streams} streams, {records} records written")


@contextmanager
def _open_output(out: Path | None) -> Iterator[BinaryIO]:
    if out is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = out.with_name(f"{out.name}.part")  # an incomplete file never has the final name
    try:
        if out.exists():
            raise ConfigurationError(f"{out} exists already")
        with part.open("wb") as file:
            yield file
        part.replace(out)
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


async def _export(target: Target, run_id: str, file: BinaryIO) -> tuple[int, int]:
    streams = records = 0
    async with target.store() as store:
        state = await store.get_run(run_id)
        _write_line(file, {"type": "run", "format": FORMAT, "run": state.run.to_wire()})
        for key in await stream_keys(store, run_id):
            async for line in _stream_lines(store, key):
                records += line["type"] == "record"
                _write_line(file, line)
            streams += 1
    _write_line(file, {"type": "done", "streams": streams, "records": records})
    return streams, records


def _write_line(file: BinaryIO, value: dict[str, Any]) -> None:
    file.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


async def _stream_lines(store: Store, key: StreamKey) -> AsyncIterator[dict[str, Any]]:
    after: Position | None = None
    while True:
        page = await store.read(key, after)
        if page.gap is not None:
            yield {"type": "gap", "stream": key.stream_id, "to": page.gap.stop.offset}
        for record in page.records:
            yield {
                "type": "record",
                "stream": key.stream_id,
                "offset": record.offset,
                "time_ms": record.time_ms,
                **writer_fields(record),
                "data": orjson.Fragment(record.data.replace(b"\r", b" ").replace(b"\n", b" ")),
            }
        after = page.position
        if page.end is not None or not page.records:
            yield {"type": "end", "stream": key.stream_id, "reason": page.end}
            return


def import_run(
    file: Annotated[
        Path, typer.Argument(help="File made by `realtime export`; - is standard input.")
    ],
    new_id: Annotated[bool, typer.Option("--new-id", help="Import under a new run id.")] = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Create a run from a file made by `realtime export`, and print its id.

    Values, their order and their writers are preserved. Positions and times of records are new, so
    clients that hold positions of the exported run start over. An unfinished run is imported as
    crashed, since no process executes it. An idempotency key is not imported.
    """
    target = Target.from_options(url, token, store)
    with _open_input(file) as lines:
        run, count = _validate(lines)
        lines.seek(0)
        imported = asyncio.run(_import(target, run, new_id, lines))
    typer.echo(imported.id)
    info(f"{count} records imported; their positions and times are new")
    if not run.is_finished:
        info(f"run {run.id} had not finished when it was exported; it is imported as crashed")


@contextmanager
def _open_input(path: Path) -> Iterator[BinaryIO]:
    if str(path) != "-":
        try:
            with path.open("rb") as file:
                yield file
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
        return
    with tempfile.TemporaryFile() as file:  # read twice: an incomplete file must store nothing
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.seek(0)
        yield file


def _validate(file: BinaryIO) -> tuple[Run, int]:
    """Validate the whole file before anything is stored; return its run and record count."""
    run: Run | None = None
    records = 0
    done: _Line | None = None
    for number, data in enumerate(file, 1):
        line = _parsed(data, number)
        if (line.type == "run") != (number == 1) or line.format != (number == 1) * FORMAT:
            raise InvalidValue(f"line {number} was not written by `realtime export`")
        if done is not None:
            raise InvalidValue(f"line {number} follows the final line")
        if line.type == "run":
            run = Run.from_wire(line.run)
        elif line.type == "done":
            done = line
        else:
            check_stream_id(line.stream)
            records += _is_record(line, number)
    if run is None or done is None:
        raise InvalidValue(
            "the file is incomplete: its final line is missing; nothing was imported"
        )
    if done.records != records:
        raise InvalidValue(
            f"the file has {records} records, but its final line counts {done.records}; "
            "nothing was imported"
        )
    return run, records


class _Line(msgspec.Struct, frozen=True):
    """Any line of the file. A record's value stays raw JSON."""

    type: Literal["run", "record", "gap", "end", "done"]
    format: int = 0
    run: Any = None
    stream: str = ""
    source: str | None = None
    attempt: Annotated[int, msgspec.Meta(ge=1)] = 1
    data: msgspec.Raw = msgspec.Raw(b"")
    reason: EndReason | None = None
    records: int = 0


_decoder = msgspec.json.Decoder(_Line)


def _parsed(data: bytes, number: int) -> _Line:
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidValue(f"line {number} was not written by `realtime export`: {error}") from None


def _is_record(line: _Line, number: int) -> bool:
    if line.type == "record" and not bytes(line.data):
        raise InvalidValue(f"line {number} is a record without data")
    return line.type == "record"


class _Import(NamedTuple):
    store: Store
    run: Run  # as created
    old_id: str
    writer_id: str


async def _import(target: Target, old: Run, new_id: bool, file: BinaryIO) -> Run:
    id = new_run_id(system_clock_ms()) if new_id else old.id
    run = replace(
        old,
        id=id,
        root_id=id if old.root_id == old.id else old.root_id,
        # A status from which the run may reach its final one; no process executes it meanwhile.
        status="queued" if old.status == "expired" else "executing",
        output=None,
        error=None,
        finished_at=None,
        duration_ms=None,
        idempotency_key=None,
        idempotency_key_expires_at=None,
        owner=f"import_{secrets.token_hex(8)}",
    )
    async with target.store(owner=run.owner, create=True) as store:
        await _create_run(store, run)
        job = _Import(store, run, old.id, secrets.token_urlsafe(12))
        await _import_streams(job, file)
        return await store.patch_run(id, _final_patch(old))


async def _create_run(store: Store, run: Run) -> None:
    conflict = f"run {run.id} exists already; --new-id imports it under another id"
    try:
        created = await store.create_run(run)
    except RunExists:
        raise RunExists(conflict) from None
    if created.owner != run.owner:  # the store took the creation for a retry: the run exists
        raise RunExists(conflict)


def _final_patch(old: Run) -> dict[str, Any]:
    wire = old.to_wire()
    names = ("status", "output", "error", "finished_at", "duration_ms", "owner")
    patch = {name: wire[name] for name in names if wire[name] is not None}
    return patch if old.is_finished else patch | {"status": "crashed", "error": UNFINISHED}


async def _import_streams(job: _Import, file: BinaryIO) -> None:
    """Append the records in their order, batching those of one stream and one writer."""
    counts: dict[str, int] = {}
    waiting: list[bytes] = []
    origin: tuple[str, str | None] = ("", None)  # stream and source of `waiting`

    async def flush() -> None:
        key = StreamKey(job.run.id, origin[0])
        for batch in batches(waiting):
            writer = Writer(job.writer_id, 0, counts.get(key.stream_id, 0))
            await job.store.append(key, batch, source=origin[1], writer=writer)
            counts[key.stream_id] = writer.sequence + len(batch)
        waiting.clear()

    for number, data in enumerate(file, 1):
        line = _parsed(data, number)
        if line.type == "record":
            source = job.run.id if line.source == job.old_id else line.source
            if source is not None:
                source = source_of(source, line.attempt)
            if origin != (line.stream, source) or len(waiting) >= MAX_APPEND_RECORDS:
                await flush()
                origin = (line.stream, source)
            waiting.append(bytes(line.data))
        elif line.type == "end":
            await flush()
            await _end_stream(job, line, counts)
    await flush()


async def _end_stream(job: _Import, line: _Line, counts: dict[str, int]) -> None:
    key, reason = StreamKey(job.run.id, line.stream), line.reason
    if reason == "deleted":
        await job.store.delete(key)
    elif reason in END_REASONS:
        writer = Writer(job.writer_id, 0, counts.get(key.stream_id, 0))
        await job.store.append(key, [], writer=writer, end=reason)
    # With any other reason the stream ended with its run, which ends its open streams again.
