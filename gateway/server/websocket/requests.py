"""Executes a client's request at the store and makes its result."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from msgspec import UNSET

from gateway import protocol
from gateway.auth.revocations import Revocation
from gateway.errors import InvalidValue
from gateway.model import log
from gateway.model.log import Page, RunQuery
from gateway.model.records import (
    REVOCATIONS,
    RUN_STREAM,
    RUNS_STREAM,
    STREAMS_STREAM,
    Position,
    StreamKey,
    Writer,
    check_stream_id,
    source_of,
)
from gateway.model.runs import Run
from gateway.protocol import Appended, GatewayFrame, Request, Result
from gateway.sdk.values import input_schemas
from gateway.stores.base import OnAppended, Store


async def perform(
    store: Store, request: Request, skip: frozenset[str], holder: str
) -> GatewayFrame:
    """Execute a request that the connection has allowed.

    Args:
        store: Where.
        request: The request.
        skip: Fields of runs that the result leaves out.
        holder: Name of the connection that holds registered schemas.

    Returns:
        The result's frame.

    Raises:
        RealtimeError: the store rejects the request; the error is the response.

    Source:
        PROTOCOL.md, section 4.
    """
    if isinstance(request, protocol.Append):
        return await _append(store, request)
    if isinstance(request, protocol.Register):
        await _register(request.schemas, holder)
        return Result(request.id, None)
    return Result(request.id, await _value(store, request, skip))


def _check_revocations(request: protocol.Append) -> None:
    if request.end is not None or request.source is not None:
        raise InvalidValue("the log of revoked tokens has no end, and no run writes to it")
    for record in request.records:
        Revocation.decode(bytes(record)).check(time.time())


def begin_append(store: Store, request: protocol.Append, done: OnAppended) -> None:
    """Start an append that the connection has allowed.

    Args:
        store: Where.
        request: The append.
        done: Called with the outcome, see `Store.begin_append`; `appended` makes a frame of it.

    Raises:
        RealtimeError: the append is rejected before the store sees it.
    """
    key, records, writer = _checked(request)
    store.begin_append(
        key,
        records,
        done,
        source=_source(request),
        writer=writer,
        end=request.end,
        order=request.order,
    )


def appended(id: int, done: log.Appended) -> Appended:
    """Make the frame that acknowledges an append."""
    next_sequence = done.next_sequence if done.next_sequence is not None else UNSET
    return Appended(id, done.offset, str(done.position), done.duplicate, next_sequence)


async def _append(store: Store, request: protocol.Append) -> Appended:
    key, records, writer = _checked(request)
    done = await store.append(
        key,
        records,
        source=_source(request),
        writer=writer,
        end=request.end,
        order=request.order,
    )
    return appended(request.id, done)


def _source(request: protocol.Append) -> str | None:
    if request.source is None or request.attempt is UNSET:
        return request.source
    return source_of(request.source, request.attempt)


def _checked(request: protocol.Append) -> tuple[StreamKey, list[bytes], Writer | None]:
    key = StreamKey(request.run, request.stream)
    records = [bytes(each) for each in request.records]
    if key == REVOCATIONS:
        _check_revocations(request)
    for record in records:
        input_schemas.check(request.stream, record)
    return key, records, _writer(request.writer)


def _writer(fields: protocol.WriterFields | None) -> Writer | None:
    return Writer(fields.id, fields.epoch, fields.sequence, fields.counts) if fields else None


async def _value(store: Store, request: Request, skip: frozenset[str]) -> Any:
    def shown(run: Run) -> dict[str, Any]:
        return protocol.without(run.to_wire(), skip)

    match request:
        case protocol.Head(run=run, stream=stream):
            position, earliest, end = await store.head(_key(run, stream))
            return {"position": str(position), "earliest": str(earliest), "end": end}
        case protocol.Read(run=run, stream=stream, after=after):
            place = Position.parse(after) if after is not None else None
            page = await store.read(_key(run, stream), place, request.max_bytes)
            return _page(page, run, skip if stream in (RUN_STREAM, RUNS_STREAM) else frozenset())
        case protocol.Delete(run=run, stream=stream):
            await store.delete(StreamKey(run, check_stream_id(stream)))
            return None
        case protocol.RunCreate(value=value):
            return shown(await store.create_run(_new_run(value)))
        case protocol.RunPatch(run=run, patch=patch, operations=operations, writer=writer):
            changed = await store.patch_run(
                run, patch, operations=operations, writer=_writer(writer)
            )
            return shown(changed)
        case protocol.RunDelete(run=run):
            return await store.delete_run(run)
        case protocol.RunGet(run=run):
            state = await store.get_run(run)
            return {"run": shown(state.run), "position": str(state.position)}
        case protocol.Spend(token_id=token_id, uses=uses, expires_at_ms=expires_at_ms):
            return await store.consume_token_use(token_id, uses, expires_at_ms)
        case protocol.RunList():
            return [shown(run) for run in await store.list_runs(_query(request))]
        case protocol.RunsGet(runs=runs, limit=limit):
            found = await store.list_set_runs(runs.sets, limit)
            return {
                "runs": [shown(run) for run in found.runs],
                "has_more": found.has_more,
                "positions": [str(position) for position in found.positions],
            }
        case _:
            raise AssertionError(f"no such request: {request}")


def _new_run(value: dict[str, Any]) -> Run:
    run = Run.from_wire(value)
    if run.is_finished:  # the log of a run that starts finished would never end for its subscribers
        raise InvalidValue(
            f"run {run.id}: a new run cannot be {run.status}; make it with a status that is not "
            "final, and end it with a run_patch"
        )
    return run


async def _register(given: dict[str, dict[str, Any]], holder: str) -> None:
    checkers = {}
    for stream_id, schema in given.items():
        checkers[stream_id] = input_schemas.check_schema(check_stream_id(stream_id), schema)
        # many schemas in one frame must not block the loop: yield after each
        await asyncio.sleep(0)
    input_schemas.register(given, holder, checkers)


def _key(run_id: str, stream_id: str) -> StreamKey:
    is_reserved = stream_id in (RUN_STREAM, RUNS_STREAM, STREAMS_STREAM, REVOCATIONS.stream_id)
    return StreamKey(run_id, stream_id if is_reserved else check_stream_id(stream_id))


def _page(page: Page, run_id: str, skip: frozenset[str]) -> dict[str, Any]:
    records = [protocol.encode_record(record, run_id) for record in page.records]
    if skip:
        records = [protocol.strip_run_record(record, skip) for record in records]
    return {
        "records": [msgspec.Raw(record) for record in records],
        "position": str(page.position),
        "end": page.end,
        "gap": page.gap
        and {"from": str(page.gap.start), "to": str(page.gap.stop), "reason": page.gap.reason},
        "reset": page.reset,
    }


def _query(request: protocol.RunList) -> RunQuery:
    return RunQuery(
        status=tuple(request.status or ()),
        tag=request.tag,
        parent_id=request.parent,
        batch_id=request.batch,
        owner=request.owner,
        before=request.before,
        limit=request.limit,
    )
