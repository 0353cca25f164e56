"""`realtime export` and `realtime import`: a run and its streams as JSON lines.

The first line is the run, then come the records of each stream and how it ended, and the last line
counts what there is: a file without it was cut short, and is not imported.
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

from gateway.cli._output import named_writer, note
from gateway.cli._target import StoreOption, Target, TokenOption, UrlOption
from gateway.cli.append import batches
from gateway.cli.streams import ENDS, names_of
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
NOT_ENDED = {"type": "Imported", "message": "the run had not ended when it was exported"}


def export(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="A new file; left out: standard output.")
    ] = None,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Write a run and all records of its streams as JSON lines, as they are now."""
    reach = Target.of(url, token, store)
    run_id = check_run_id(run)
    with _written(out) as file:
        streams, records = asyncio.run(_export(reach, run_id, file))
    note(f"run {run_id}: {streams} streams, {records} records written")


@contextmanager
def _written(out: Path | None) -> Iterator[BinaryIO]:
    if out is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = out.with_name(f"{out.name}.part")  # nobody takes half of it for the whole
    try:
        if out.exists():
            raise ConfigurationError(f"{out} is there already")
        with part.open("wb") as file:
            yield file
        part.replace(out)
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


async def _export(reach: Target, run_id: str, file: BinaryIO) -> tuple[int, int]:
    streams = records = 0
    async with reach.store() as store:
        state = await store.get_run(run_id)
        _line(file, {"type": "run", "format": FORMAT, "run": state.run.to_wire()})
        for key in await names_of(store, run_id):
            async for line in _lines_of(store, key):
                records += line["type"] == "record"
                _line(file, line)
            streams += 1
    _line(file, {"type": "done", "streams": streams, "records": records})
    return streams, records


def _line(file: BinaryIO, value: dict[str, Any]) -> None:
    file.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))


async def _lines_of(store: Store, key: StreamKey) -> AsyncIterator[dict[str, Any]]:
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
                **named_writer(record),
                "data": orjson.Fragment(record.data.replace(b"\r", b" ").replace(b"\n", b" ")),
            }
        after = page.position
        if page.end is not None or not page.records:
            yield {"type": "end", "stream": key.stream_id, "reason": page.end}
            return


def import_run(
    file: Annotated[Path, typer.Argument(help="Made by `realtime export`; - is standard input.")],
    new_id: Annotated[
        bool, typer.Option("--new-id", help="Give the run another id, beside one that is there.")
    ] = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Make a run of what `realtime export` wrote, and print its id.

    Values, their order and who wrote them are kept. Positions and times of records are new:
    clients that hold positions of the exported run start over. A run that had not ended is
    imported as crashed, since nobody executes it; an idempotency key is not taken over.
    """
    reach = Target.of(url, token, store)
    with _read(file) as lines:
        run, counted = _checked(lines)
        lines.seek(0)
        made = asyncio.run(_import(reach, run, new_id, lines))
    typer.echo(made.id)
    note(f"{counted} records imported; their positions and times are new")
    if not run.is_finished:
        note(f"run {run.id} had not ended when it was exported; the import is marked crashed")


@contextmanager
def _read(path: Path) -> Iterator[BinaryIO]:
    if str(path) != "-":
        try:
            with path.open("rb") as file:
                yield file
        except OSError as error:
            raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
        return
    with tempfile.TemporaryFile() as file:  # read twice: nothing is stored of what is cut short
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.seek(0)
        yield file


def _checked(file: BinaryIO) -> tuple[Run, int]:
    """Read all of it before anything is stored."""
    run: Run | None = None
    records = 0
    done: _Line | None = None
    for number, data in enumerate(file, 1):
        line = _parsed(data, number)
        if (line.type == "run") != (number == 1) or line.format != (number == 1) * FORMAT:
            raise InvalidValue(f"line {number} is not what `realtime export` writes")
        if done is not None:
            raise InvalidValue(f"line {number} comes after the last")
        if line.type == "run":
            run = Run.from_wire(line.run)
        elif line.type == "done":
            done = line
        else:
            check_stream_id(line.stream)
            records += _is_record(line, number)
    if run is None or done is None:
        raise InvalidValue("the file was cut short: its last line is missing; nothing was imported")
    if done.records != records:
        raise InvalidValue(
            f"the file has {records} records and says that it has {done.records}; "
            "nothing was imported"
        )
    return run, records


class _Line(msgspec.Struct, frozen=True):
    """Any line of the file; a record's value stays the bytes that it is."""

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
        raise InvalidValue(f"line {number} is not what `realtime export` writes: {error}") from None


def _is_record(line: _Line, number: int) -> bool:
    if line.type == "record" and not bytes(line.data):
        raise InvalidValue(f"line {number} is a record without data")
    return line.type == "record"


class _Import(NamedTuple):
    store: Store
    run: Run  # as it is made
    old_id: str
    writer_id: str


async def _import(reach: Target, old: Run, new_id: bool, file: BinaryIO) -> Run:
    id = new_run_id(system_clock_ms()) if new_id else old.id
    run = replace(
        old,
        id=id,
        root_id=id if old.root_id == old.id else old.root_id,
        # From where it may go to its end; nothing executes it meanwhile.
        status="queued" if old.status == "expired" else "executing",
        output=None,
        error=None,
        finished_at=None,
        duration_ms=None,
        idempotency_key=None,
        idempotency_key_expires_at=None,
        owner=f"import_{secrets.token_hex(8)}",
    )
    async with reach.store(owner=run.owner, make=True) as store:
        await _make(store, run)
        at = _Import(store, run, old.id, secrets.token_urlsafe(12))
        await _import_streams(at, file)
        return await store.patch_run(id, _end_of(old))


async def _make(store: Store, run: Run) -> None:
    there = f"run {run.id} is there already; --new-id imports it beside that"
    try:
        made = await store.create_run(run)
    except RunExists:
        raise RunExists(there) from None
    if made.owner != run.owner:  # taken for a repeat: it is the run that was exported
        raise RunExists(there)


def _end_of(old: Run) -> dict[str, Any]:
    wire = old.to_wire()
    names = ("status", "output", "error", "finished_at", "duration_ms", "owner")
    patch = {name: wire[name] for name in names if wire[name] is not None}
    return patch if old.is_finished else patch | {"status": "crashed", "error": NOT_ENDED}


async def _import_streams(at: _Import, file: BinaryIO) -> None:
    """Append the records in their order, many of one stream and one writer at once."""
    counts: dict[str, int] = {}
    waiting: list[bytes] = []
    whose: tuple[str, str | None] = ("", None)

    async def put() -> None:
        key = StreamKey(at.run.id, whose[0])
        for batch in batches(waiting):
            writer = Writer(at.writer_id, 0, counts.get(key.stream_id, 0))
            await at.store.append(key, batch, source=whose[1], writer=writer)
            counts[key.stream_id] = writer.sequence + len(batch)
        waiting.clear()

    for number, data in enumerate(file, 1):
        line = _parsed(data, number)
        if line.type == "record":
            source = at.run.id if line.source == at.old_id else line.source
            if source is not None:
                source = source_of(source, line.attempt)
            if whose != (line.stream, source) or len(waiting) >= MAX_APPEND_RECORDS:
                await put()
                whose = (line.stream, source)
            waiting.append(bytes(line.data))
        elif line.type == "end":
            await put()
            await _end_stream(at, line, counts)
    await put()


async def _end_stream(at: _Import, line: _Line, counts: dict[str, int]) -> None:
    key, reason = StreamKey(at.run.id, line.stream), line.reason
    if reason == "deleted":
        await at.store.delete(key)
    elif reason in ENDS:
        writer = Writer(at.writer_id, 0, counts.get(key.stream_id, 0))
        await at.store.append(key, [], writer=writer, end=reason)
    # Any other is that of the run, which ends what is open.
