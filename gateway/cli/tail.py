"""Following streams and showing what comes: the inside of `realtime tail`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

import orjson
import typer

from gateway.cli._output import clock, emit, line_of, named_writer, note, shown, write
from gateway.errors import InvalidValue
from gateway.model.log import Page, run_log
from gateway.model.records import STREAMS_STREAM, EndReason, Position, Record, StreamKey
from gateway.stores.base import Store


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading begins: `beginning`, `latest`, the last so many, or a position."""

    kind: Literal["beginning", "latest", "last", "position"]
    last: int = 0
    position: Position | None = None

    @classmethod
    def parse(cls, text: str, *, one_stream: bool) -> Start:
        """Read it from the command line.

        Args:
            text: As `tail --from` takes it.
            one_stream: A position is of one stream, and good only there.

        Raises:
            InvalidValue: it is none of them.
            InvalidPosition: it looks like a position and is none.
        """
        if text in ("beginning", "latest"):
            return cls(text)  # type: ignore[arg-type]
        if text.startswith("-") and text[1:].isdecimal():
            return cls("last", last=int(text[1:]))
        if "_" not in text:
            raise InvalidValue(
                f"--from is {shown(text)[:80]!r}; it is beginning, latest, -N or a position"
            )
        if not one_stream:
            raise InvalidValue("--from a position says nothing of several streams: name one")
        return cls("position", position=Position.parse(text))

    async def of(self, store: Store, key: StreamKey) -> Position | None:
        """Return the position to read a stream on from."""
        if self.kind == "beginning":
            return None
        if self.kind == "position":
            return self.position
        head = await store.head(key)
        if self.kind == "latest":
            return head.position
        offset = max(head.earliest.offset, head.position.offset - self.last)
        return Position(head.position.epoch, offset)


class Follower:
    """Follows streams and hands on what comes, in the order in which it comes.

    Args:
        on_record: Is given each record, and the position after it.
        on_run: Is given each change of the run, as its merge patch.
        on_fact: Is given what else happens: a gap, a reset, an end.
    """

    def __init__(
        self,
        on_record: Callable[[StreamKey, Record, Position], None],
        on_run: Callable[[str, int, dict[str, Any]], None],
        on_fact: Callable[[StreamKey, str, str, dict[str, Any]], None],
    ) -> None:
        self._on_record = on_record
        self._on_run = on_run
        self._on_fact = on_fact

    async def stream(
        self, store: Store, key: StreamKey, start: Start, *, follow: bool
    ) -> EndReason | None:
        """Follow one stream; returns how it ended, or None if only what is there was wanted."""
        after = await start.of(store, key)
        if not follow:
            while not (page := await store.read(key, after)).is_empty:
                self._take(key, page)
                after = page.position
                if page.end is not None:
                    break
            return None
        async with aclosing(store.follow(key, after)) as pages:
            async for page in pages:
                self._take(key, page)
                if page.end is not None:
                    return page.end
        return "deleted"

    async def run(
        self, store: Store, run_id: str, start: Start, *, follow: bool
    ) -> EndReason | None:
        """Follow a run and all its streams, as they appear; returns how the run ended."""
        state = await store.get_run(run_id)
        log, names = run_log(run_id), StreamKey(run_id, STREAMS_STREAM)
        self._on_run(run_id, 0, {"status": state.run.status})
        there = (await store.head(names)).position.offset
        try:
            async with asyncio.TaskGroup() as group:
                end = group.create_task(self._changes(store, log, state.position, follow))
                group.create_task(self._appearing(group, store, names, there, start, follow))
        except* Exception as errors:
            raise errors.exceptions[0] from None  # what one stream meets ends all
        return end.result()

    async def _changes(
        self, store: Store, log: StreamKey, after: Position, follow: bool
    ) -> EndReason | None:
        if not follow:
            return None
        async with aclosing(store.follow(log, after)) as pages:
            async for page in pages:
                for record in page.records:
                    self._on_run(log.run_id, record.time_ms, orjson.loads(record.data))
                if page.end is not None:
                    self._on_fact(log, "end", page.end, {})
                    return page.end
        return "deleted"

    async def _appearing(
        self,
        group: asyncio.TaskGroup,
        store: Store,
        names: StreamKey,
        there: int,
        start: Start,
        follow: bool,
    ) -> None:
        """Follow each stream that the run has or gets; those that it gets from their beginning."""

        def begin(page: Page) -> None:
            for record in page.records:
                key = StreamKey(names.run_id, orjson.loads(record.data)["stream"])
                at = start if record.offset < there else Start("beginning")
                group.create_task(self.stream(store, key, at, follow=follow))

        if follow:
            async with aclosing(store.follow(names)) as pages:
                async for page in pages:
                    begin(page)
            return
        after: Position | None = None
        while (page := await store.read(names, after)).records:
            begin(page)
            after = page.position

    def _take(self, key: StreamKey, page: Page) -> None:
        if page.reset is not None:
            self._on_fact(key, "reset", page.reset, {})
        if page.gap is not None:
            gone = {"from": str(page.gap.start), "to": str(page.gap.stop)}
            self._on_fact(key, "gap", page.gap.reason, gone)
        for record in page.records:
            after = Position(page.position.epoch, record.offset + 1)
            self._on_record(key, record, after)
        if page.end is not None:
            self._on_fact(key, "end", page.end, {"position": str(page.position)})


def printer(*, raw: bool, as_json: bool, names: bool) -> Follower:
    """Make a tail that prints.

    Args:
        raw: Only the records' JSON, a line each.
        as_json: A JSON object for each thing that happens.
        names: Say of which stream each line is.
    """
    if raw:
        return Follower(_raw_record, lambda *_: None, _noted)
    if as_json:
        return Follower(_json_record, _json_run, _json_fact)
    return Follower(_Lines(names).record, _run_line, _noted)


def _raw_record(_key: StreamKey, record: Record, _after: Position) -> None:
    write(record.data.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n")


def _json_record(key: StreamKey, record: Record, after: Position) -> None:
    emit(
        {
            "type": "record",
            "stream": key.stream_id,
            "offset": record.offset,
            "position": str(after),
            "time_ms": record.time_ms,
            **named_writer(record),
            "data": orjson.Fragment(record.data.replace(b"\r", b" ").replace(b"\n", b" ")),
        }
    )


def _json_run(run_id: str, _time_ms: int, patch: dict[str, Any]) -> None:
    emit({"type": "run", "run": run_id, "patch": patch})


def _json_fact(key: StreamKey, kind: str, why: str, more: dict[str, Any]) -> None:
    emit({"type": kind, "stream": key.stream_id, "reason": why, **more})


class _Lines:
    def __init__(self, names: bool) -> None:
        self._names = names

    def record(self, key: StreamKey, record: Record, _after: Position) -> None:
        time = typer.style(clock(record.time_ms), dim=True)
        name = f"{typer.style(key.stream_id, fg='cyan')} " if self._names else ""
        source, attempt = record.written_by
        writer = f" (from {source})" if source not in (None, key.run_id) else ""
        writer += f" (attempt {attempt})" if attempt > 1 else ""
        typer.echo(f"{time} {name}{line_of(record.data)}{writer}")


def _run_line(_run_id: str, _time_ms: int, patch: dict[str, Any]) -> None:
    told = {name: value for name, value in patch.items() if name in ("status", "metadata", "error")}
    for name, value in told.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        typer.echo(typer.style(f"run {name}: {shown(text)}", bold=True))


def _noted(key: StreamKey, kind: str, why: str, more: dict[str, Any]) -> None:
    where = f" {more['from']} to {more['to']}" if kind == "gap" else ""
    said = {"gap": "records are gone", "reset": "begins anew", "end": "ended"}[kind]
    note(f"{key} {said}:{where} {why}")
