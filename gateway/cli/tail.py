"""`realtime tail`: follow a stream, or a run with all its streams, and print the records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import orjson
import typer

from gateway.cli._output import (
    JsonOption,
    emit,
    escape_control,
    exit_with_status,
    format_time,
    info,
    to_line,
    write,
    writer_fields,
)
from gateway.cli._target import StoreOption, Target, TokenOption, UrlOption
from gateway.errors import InvalidValue
from gateway.model.log import Page, run_log
from gateway.model.records import (
    STREAMS_STREAM,
    EndReason,
    Position,
    Record,
    StreamKey,
    check_run_id,
)
from gateway.protocol.authorization import readable_key
from gateway.stores.base import Store


def tail(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    stream: Annotated[
        str | None,
        typer.Argument(help="Only this stream; without it, all streams and the run's changes."),
    ] = None,
    start: Annotated[
        str,
        typer.Option("--from", help="beginning, latest, -N (the last N records) or a position."),
    ] = "beginning",
    follow: Annotated[
        bool, typer.Option(help="Wait for new records until the end, or only print existing ones.")
    ] = True,
    raw: Annotated[bool, typer.Option("--raw", help="Print only the records' JSON.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Print records as they are appended, until the stream or the run ends.

    After a lost connection the command reconnects and resumes. The exit code is the final status.
    """
    target = Target.from_options(url, token, store)
    begin = StartOption.parse(start, one_stream=stream is not None)
    key = readable_key(run, stream) if stream is not None else None
    follower = printing_follower(raw=raw, as_json=as_json, with_names=key is None)
    reason = asyncio.run(_tail(target, check_run_id(run), key, begin, follower, follow))
    if reason is not None:
        exit_with_status(reason)


async def _tail(
    target: Target,
    run_id: str,
    key: StreamKey | None,
    start: StartOption,
    follower: Follower,
    follow: bool,
) -> EndReason | None:
    async with target.store() as store:
        if key is not None:
            return await follower.stream(store, key, start, follow=follow)
        return await follower.run(store, run_id, start, follow=follow)


@dataclass(frozen=True, slots=True)
class StartOption:
    """The value of `--from`: `beginning`, `latest`, the last N records, or a position."""

    kind: Literal["beginning", "latest", "last", "position"]
    last: int = 0
    position: Position | None = None

    @classmethod
    def parse(cls, text: str, *, one_stream: bool) -> StartOption:
        """Parse the value of `--from`.

        Args:
            text: The value.
            one_stream: Whether the command reads one stream. A position is valid in one only.

        Raises:
            InvalidValue: the value has none of the forms, or is a position for several streams.
            InvalidPosition: the value looks like a position but is malformed.
        """
        if text in ("beginning", "latest"):
            return cls(text)  # type: ignore[arg-type]
        if text.startswith("-") and text[1:].isdecimal():
            return cls("last", last=int(text[1:]))
        if "_" not in text:
            raise InvalidValue(
                f"--from is {escape_control(text)[:80]!r}; "
                "it must be beginning, latest, -N or a position"
            )
        if not one_stream:
            raise InvalidValue("--from with a position needs one stream: name the stream")
        return cls("position", position=Position.parse(text))

    async def resolve(self, store: Store, key: StreamKey) -> Position | None:
        """Return the position after which to read a stream; None for its beginning."""
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
    """Follows streams and calls back for each record and event, in order of arrival.

    Args:
        on_record: Called with each record and the position after it.
        on_run: Called with each change of the run, as a merge patch.
        on_event: Called with each gap, reset and end.
    """

    def __init__(
        self,
        on_record: Callable[[StreamKey, Record, Position], None],
        on_run: Callable[[str, int, dict[str, Any]], None],
        on_event: Callable[[StreamKey, str, str, dict[str, Any]], None],
    ) -> None:
        self._on_record = on_record
        self._on_run = on_run
        self._on_event = on_event

    async def stream(
        self, store: Store, key: StreamKey, start: StartOption, *, follow: bool
    ) -> EndReason | None:
        """Follow one stream and return its end reason; without `follow`, read it, return None."""
        after = await start.resolve(store, key)
        if not follow:
            while not (page := await store.read(key, after)).is_empty:
                self._handle_page(key, page)
                after = page.position
                if page.end is not None:
                    break
            return None
        async with aclosing(store.follow(key, after)) as pages:
            async for page in pages:
                self._handle_page(key, page)
                if page.end is not None:
                    return page.end
        return "deleted"

    async def run(
        self, store: Store, run_id: str, start: StartOption, *, follow: bool
    ) -> EndReason | None:
        """Follow a run and its streams, including new ones, and return the run's final status."""
        state = await store.get_run(run_id)
        log, names = run_log(run_id), StreamKey(run_id, STREAMS_STREAM)
        self._on_run(run_id, 0, {"status": state.run.status})
        existing = (await store.head(names)).position.offset
        try:
            async with asyncio.TaskGroup() as group:
                end = group.create_task(self._follow_changes(store, log, state.position, follow))
                group.create_task(
                    self._follow_new_streams(group, store, names, existing, start, follow)
                )
        except* Exception as errors:
            raise errors.exceptions[0] from None  # an error of one stream ends the command
        return end.result()

    async def _follow_changes(
        self, store: Store, log: StreamKey, after: Position, follow: bool
    ) -> EndReason | None:
        if not follow:
            return None
        async with aclosing(store.follow(log, after)) as pages:
            async for page in pages:
                for record in page.records:
                    self._on_run(log.run_id, record.time_ms, orjson.loads(record.data))
                if page.end is not None:
                    self._on_event(log, "end", page.end, {})
                    return page.end
        return "deleted"

    async def _follow_new_streams(
        self,
        group: asyncio.TaskGroup,
        store: Store,
        names: StreamKey,
        existing: int,
        start: StartOption,
        follow: bool,
    ) -> None:
        """Follow each existing stream from `start`, and each new stream from its beginning."""

        def follow_named(page: Page) -> None:
            for record in page.records:
                key = StreamKey(names.run_id, orjson.loads(record.data)["stream"])
                begin = start if record.offset < existing else StartOption("beginning")
                group.create_task(self.stream(store, key, begin, follow=follow))

        if follow:
            async with aclosing(store.follow(names)) as pages:
                async for page in pages:
                    follow_named(page)
            return
        after: Position | None = None
        while (page := await store.read(names, after)).records:
            follow_named(page)
            after = page.position

    def _handle_page(self, key: StreamKey, page: Page) -> None:
        if page.reset is not None:
            self._on_event(key, "reset", page.reset, {})
        if page.gap is not None:
            span = {"from": str(page.gap.start), "to": str(page.gap.stop)}
            self._on_event(key, "gap", page.gap.reason, span)
        for record in page.records:
            after = Position(page.position.epoch, record.offset + 1)
            self._on_record(key, record, after)
        if page.end is not None:
            self._on_event(key, "end", page.end, {"position": str(page.position)})


def printing_follower(*, raw: bool, as_json: bool, with_names: bool) -> Follower:
    """Return a follower that prints.

    Args:
        raw: Print only the records' JSON, one per line.
        as_json: Print a JSON object for each record, change and event.
        with_names: Print the stream's name in each line.
    """
    if raw:
        return Follower(_raw_record, lambda *_: None, _print_event)
    if as_json:
        return Follower(_json_record, _json_run, _json_event)
    return Follower(_LinePrinter(with_names).record, _run_line, _print_event)


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
            **writer_fields(record),
            "data": orjson.Fragment(record.data.replace(b"\r", b" ").replace(b"\n", b" ")),
        }
    )


def _json_run(run_id: str, _time_ms: int, patch: dict[str, Any]) -> None:
    emit({"type": "run", "run": run_id, "patch": patch})


def _json_event(key: StreamKey, event: str, reason: str, fields: dict[str, Any]) -> None:
    emit({"type": event, "stream": key.stream_id, "reason": reason, **fields})


class _LinePrinter:
    def __init__(self, with_names: bool) -> None:
        self._with_names = with_names

    def record(self, key: StreamKey, record: Record, _after: Position) -> None:
        time = typer.style(format_time(record.time_ms), dim=True)
        name = f"{typer.style(key.stream_id, fg='cyan')} " if self._with_names else ""
        source, attempt = record.written_by
        writer = f" (from {source})" if source not in (None, key.run_id) else ""
        writer += f" (attempt {attempt})" if attempt > 1 else ""
        typer.echo(f"{time} {name}{to_line(record.data)}{writer}")


def _run_line(_run_id: str, _time_ms: int, patch: dict[str, Any]) -> None:
    shown = {
        name: value for name, value in patch.items() if name in ("status", "metadata", "error")
    }
    for name, value in shown.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        typer.echo(typer.style(f"run {name}: {escape_control(text)}", bold=True))


def _print_event(key: StreamKey, event: str, reason: str, fields: dict[str, Any]) -> None:
    span = f" {fields['from']} to {fields['to']}" if event == "gap" else ""
    text = {"gap": "lost records", "reset": "was reset", "end": "ended"}[event]
    info(f"{key} {text}:{span} {reason}")
