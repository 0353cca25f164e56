"""`realtime streams`: the streams of a run, their size, rate and readers."""

from __future__ import annotations

import asyncio
from typing import Annotated

import orjson
import typer

from gateway.cli import _http
from gateway.cli._output import JsonOption, emit, format_bytes, print_table, styled_status
from gateway.cli._target import StoreOption, Target, TokenOption, UrlOption
from gateway.model.log import Head, Page
from gateway.model.records import STREAMS_STREAM, Position, StreamKey, check_run_id
from gateway.stores.base import Store

RATE_S = 10  # seconds before the last record over which the rate is computed


def list_streams(
    run: Annotated[str, typer.Argument(help="Id of the run.")],
    as_json: JsonOption = False,
    url: UrlOption = None,
    token: TokenOption = None,
    store: StoreOption = None,
) -> None:
    """List the streams of a run, with their size, rate and number of readers.

    The size is extrapolated from the newest 1,000 records. Readers are counted at the gateway that
    the command asks.
    """
    target = Target.from_options(url, token, store)
    streams = asyncio.run(_list_streams(target, check_run_id(run)))
    if as_json:
        for each in streams:
            emit(each)
        return
    rows = [
        (
            each["stream"],
            styled_status(each["end"]) if each["end"] else "open",
            str(each["records"]),
            format_bytes(each["bytes"]),
            f"{each['records_per_s']:g}/s",
            "" if each["readers"] is None else str(each["readers"]),
        )
        for each in streams
    ]
    print_table(("STREAM", "STATE", "RECORDS", "SIZE", "RATE", "READERS"), rows)


async def _list_streams(target: Target, run_id: str) -> list[dict]:  # type: ignore[type-arg]
    async with target.store() as store:
        keys = await stream_keys(store, run_id)
        streams = [await _describe(store, key) for key in keys]
    readers = {} if target.settings.url is None else await _http.reader_counts(target, run_id)
    for each in streams:
        each["readers"] = readers.get(each["stream"], 0) if target.settings.url else None
    return streams


async def stream_keys(store: Store, run_id: str) -> list[StreamKey]:
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
    count = head.position.offset - head.earliest.offset
    newest = await _read_newest(store, key, head)
    size = sum(len(each.data) for each in newest.records)
    last_ms = newest.records[-1].time_ms if newest.records else 0
    recent = [each for each in newest.records if each.time_ms > last_ms - RATE_S * 1000]
    span_s = (recent[-1].time_ms - recent[0].time_ms) / 1000 if len(recent) > 1 else 0.0
    return {
        "stream": key.stream_id,
        "end": head.end,
        "records": count,
        "position": str(head.position),
        "bytes": round(size * count / len(newest.records)) if newest.records else 0,
        "records_per_s": round((len(recent) - 1) / span_s, 1) if span_s else 0.0,
        "last_ms": last_ms or None,
    }


async def _read_newest(store: Store, key: StreamKey, head: Head) -> Page:
    start = max(head.earliest.offset, head.position.offset - 1000)
    return await store.read(key, Position(head.position.epoch, start))
