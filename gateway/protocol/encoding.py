"""Records and runs as JSON in frames: encoded once, then sliced as bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec
from msgspec import Raw

from gateway.model.patches import METADATA_NULLS
from gateway.model.records import Record
from gateway.model.runs import Run

_encoder = msgspec.json.Encoder()


def encode_record(record: Record, run_id: str) -> bytes:
    """Encode one record as in `records` frames; its data is copied without parsing."""
    writer = b"" if record.source == run_id else _encode_writer(record, run_id)
    return b'{"offset":%d,"time_ms":%d%b,"data":%b}' % (
        record.offset,
        record.time_ms,
        writer,
        record.data,
    )


def _encode_writer(record: Record, run_id: str) -> bytes:
    if record.source is None:
        return b',"source":null'
    if ":" not in record.source:
        return b',"source":"%b"' % record.source.encode()
    source, attempt = record.written_by
    writer = b',"attempt":%d' % attempt
    return writer if source == run_id else b',"source":"%b"%b' % (str(source).encode(), writer)


def time_of(encoded: bytes) -> int:
    """Read when a record was accepted from how it was encoded, ms since 1970 UTC."""
    start = encoded.index(b'"time_ms":') + 10
    return int(encoded[start : encoded.index(b",", start)])


def without(wire: dict[str, Any], skip: Collection[str]) -> dict[str, Any]:
    """Leave fields out of a run or of a change of one."""
    if "metadata" in skip:
        skip = {*skip, METADATA_NULLS}
    wire = {name: value for name, value in wire.items() if name not in skip}
    if omitted := wire.pop("omitted", None):  # of a list
        wire |= {"omitted": rest} if (rest := without(omitted, skip)) else {}
    return wire


def encode_runs(runs: Iterable[Run], skip: Collection[str], max_bytes: int) -> list[Raw]:
    """Write runs, as many of the first as fit; at least one if there is one."""
    encoded: list[Raw] = []
    size = 0
    for run in runs:
        data = _encoder.encode(without(run.to_wire(), skip))
        size += len(data)
        if encoded and size > max_bytes:
            break
        encoded.append(Raw(data))
    return encoded


def strip_run_data(data: bytes, skip: Collection[str]) -> bytes:
    """Leave fields out of a record's data in the log of a run or of a set of runs."""
    change = without(msgspec.json.decode(data), skip)
    for name in ("run", "patch"):  # of a set's log; no run has fields of these names
        if isinstance(change.get(name), dict):
            change[name] = without(change[name], skip)
    return _encoder.encode(change)


def record_data(encoded: bytes) -> bytes:
    """Return the data of an encoded record."""
    return encoded.partition(b'"data":')[2][:-1]  # only numbers and an id stand before it


def strip_run_record(encoded: bytes, skip: Collection[str]) -> bytes:
    """Leave fields out of an encoded record of such a log."""
    head, _, data = encoded.partition(b'"data":')  # only numbers and an id stand before it
    return head + b'"data":' + strip_run_data(data[:-1], skip) + b"}"


def encode_records(id: int, records: Iterable[bytes], position: str) -> str:
    """Write a `records` frame from records that are already encoded."""
    return encode_body(id, b",".join(records), position)


def encode_body(id: int, body: bytes, position: str) -> str:
    """Write a `records` frame from encoded records with commas between them."""
    return f'{{"type":"records","id":{id},"records":[{body.decode()}],"position":"{position}"}}'
