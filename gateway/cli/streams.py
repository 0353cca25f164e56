"""`realtime tail`, `append` and `streams`."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import orjson
import typer

from gateway.cli import _http
from gateway.cli._output import JsonOption, bytes_of, emit, end_as, note, print_table, status
from gateway.cli._target import StoreOption, Target, TokenOption, UrlOption
from gateway.cli.append import append_lines, lines_of_input, lines_of_values
from gateway.cli.tail import Follower, Start, printer
from gateway.errors import InvalidValue
from gateway.model.log import Head, Page
from gateway.model.records import STREAMS_STREAM, EndReason, Position, StreamKey, check_run_id
from gateway.protocol.authorization import readable_key
from gateway.stores.base import Store

RATE_S = 10  # over which a stream's rate is taken
ENDS = ("completed", "failed", "canceled", "expired")


def tail(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    stream: Annotated[
        str | None, typer.Argument(help="Only this stream; left out: all, and the run's changes.")
    ] = None,
    start: Annotated[
        str,
        typer.Option("--from", help="beginning, latest, -N (the last N records) or a position."),
    ] = "beginning",
    follow: Annotated[
        bool, typer.Option(help="Wait for what comes, until the end; else print what is there.")
    ] = True,
    raw: Annotated[bool, typer.Option("--raw", help="The records' JSON and nothing else.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Print records as they come, until the stream or the run ends.

    A lost connection is made again, and goes on where it was. The exit code says how it ended.
    """
    reach = Target.of(url, token, store)
    begin = Start.parse(start, one_stream=stream is not None)
    key = readable_key(run, stream) if stream is not None else None
    shows = printer(raw=raw, as_json=as_json, names=key is None)
    reason = asyncio.run(_tail(reach, check_run_id(run), key, begin, shows, follow))
    if reason is not None:
        end_as(reason)


async def _tail(
    reach: Target, run_id: str, key: StreamKey | None, start: Start, shows: Follower, follow: bool
) -> EndReason | None:
    async with reach.store() as store:
        if key is not None:
            return await shows.stream(store, key, start, follow=follow)
        return await shows.run(store, run_id, start, follow=follow)


def append(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    stream: Annotated[str, typer.Argument(help="Id of the stream.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(help="JSON, a record each; left out: a line of standard input each."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="They are strings, and no JSON.")] = False,
    end: Annotated[bool, typer.Option("--end", help="End the stream after them.")] = False,
    reason: Annotated[
        str, typer.Option(help=f"How it ends: {', '.join(ENDS[:-1])} or {ENDS[-1]}.")
    ] = "completed",
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """Append records to a stream of a run, as arguments or lines of standard input.

    What comes in is appended as it comes; each line is acknowledged before the command ends.
    With --end and no arguments standard input is read too, unless it is a terminal.
    """
    key = StreamKey(check_run_id(run), stream)
    if reason not in ENDS:
        raise InvalidValue(f"--reason is {reason!r}; it is one of {', '.join(ENDS)}")
    reach = Target.of(url, token, store)
    if values:
        lines = lines_of_values(values)
    elif end and sys.stdin.isatty():
        lines = lines_of_values([])
    else:
        lines = lines_of_input()

    async def run_it() -> tuple[int, Position | None]:
        async with reach.store() as opened:
            return await append_lines(
                opened,
                key,
                lines,
                is_text=text,
                end=reason if end else None,  # type: ignore[arg-type]
                record_bytes=reach.settings.limits.record_bytes,
            )

    count, position = asyncio.run(run_it())
    if as_json:
        emit({"appended": count, "position": str(position) if position else None})
    else:
        note(f"{count} records appended to {key}{f', which ended {reason}' if end else ''}")


def list_streams(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """List the streams of a run: how much they hold, how fast they grow, who reads them.

    The size is that of the newest records, carried over to all. Readers are those at the gateway
    that is asked.
    """
    reach = Target.of(url, token, store)
    found = asyncio.run(_list_streams(reach, check_run_id(run)))
    if as_json:
        for each in found:
            emit(each)
        return
    rows = [
        (
            each["stream"],
            status(each["end"]) if each["end"] else "open",
            str(each["records"]),
            bytes_of(each["bytes"]),
            f"{each['records_per_s']:g}/s",
            "" if each["readers"] is None else str(each["readers"]),
        )
        for each in found
    ]
    print_table(("STREAM", "STATE", "RECORDS", "SIZE", "RATE", "READERS"), rows)


async def _list_streams(reach: Target, run_id: str) -> list[dict]:  # type: ignore[type-arg]
    async with reach.store() as store:
        keys = await names_of(store, run_id)
        found = [await _describe(store, key) for key in keys]
    readers = {} if reach.settings.url is None else await _http.readers(reach, run_id)
    for each in found:
        each["readers"] = readers.get(each["stream"], 0) if reach.settings.url else None
    return found


async def names_of(store: Store, run_id: str) -> list[StreamKey]:
    """Return the streams of a run, in the order in which they appeared."""
    log = StreamKey(run_id, STREAMS_STREAM)
    keys: list[StreamKey] = []
    after: Position | None = None
    while (page := await store.read(log, after)).records:
        keys += [StreamKey(run_id, orjson.loads(each.data)["stream"]) for each in page.records]
        after = page.position
    return keys


async def _describe(store: Store, key: StreamKey) -> dict:  # type: ignore[type-arg]
    head = await store.head(key)
    kept = head.position.offset - head.earliest.offset
    newest = await _newest(store, key, head)
    size = sum(len(each.data) for each in newest.records)
    last_ms = newest.records[-1].time_ms if newest.records else 0
    recent = [each for each in newest.records if each.time_ms > last_ms - RATE_S * 1000]
    span_s = (recent[-1].time_ms - recent[0].time_ms) / 1000 if len(recent) > 1 else 0.0
    return {
        "stream": key.stream_id,
        "end": head.end,
        "records": kept,
        "position": str(head.position),
        "bytes": round(size * kept / len(newest.records)) if newest.records else 0,
        "records_per_s": round((len(recent) - 1) / span_s, 1) if span_s else 0.0,
        "last_ms": last_ms or None,
    }


async def _newest(store: Store, key: StreamKey, head: Head) -> Page:
    start = max(head.earliest.offset, head.position.offset - 1000)
    return await store.read(key, Position(head.position.epoch, start))
