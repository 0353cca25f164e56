"""JSON Schemas of the streams that clients may write to: checked at the gateway's edge.

A definition in the gateway's own process registers itself; a worker's come over its connection.
While anyone holds a stream's schema, nobody can put another in its place; the schema of a worker
that has left is still checked, until someone brings another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson

from gateway.errors import InvalidValue

HERE = "the gateway's own process"


@dataclass
class _Registered:
    schema: dict[str, Any]
    holders: set[str] = field(default_factory=set)

    @cached_property
    def validator(self) -> Any:
        from jsonschema import Draft202012Validator  # only a gateway checks, and only it needs this

        return Draft202012Validator(self.schema)


_registered: dict[str, _Registered] = {}


def register(schemas: Mapping[str, dict[str, Any]], holder: str = HERE) -> None:
    """Check what clients append to streams of these ids from now on.

    Args:
        schemas: JSON Schemas, draft 2020-12, by stream id; all are taken, or none.
        holder: Who defines them.

    Raises:
        InvalidValue: someone else who is there defines one of them otherwise; names both.
    """
    for stream_id, schema in schemas.items():
        _refuse_other(stream_id, schema, holder)
    for stream_id, schema in schemas.items():
        known = _registered.get(stream_id)
        if known is None or known.schema != schema:
            known = _registered[stream_id] = _Registered(schema)
        known.holders.add(holder)


def _refuse_other(stream_id: str, schema: dict[str, Any], holder: str) -> None:
    known = _registered.get(stream_id)
    others = known.holders - {holder} if known is not None and known.schema != schema else set()
    if others:
        raise InvalidValue(
            f"stream {stream_id!r}: {holder} defines this input with another type than "
            f"{', '.join(sorted(others))}; give it another id, or stop those first"
        )


def release(holder: str) -> None:
    """Take note that someone has left."""
    for known in _registered.values():
        known.holders.discard(holder)


def registered() -> dict[str, dict[str, Any]]:
    """Return the schemas by stream id."""
    return {stream_id: known.schema for stream_id, known in _registered.items()}


def check(stream_id: str, data: bytes) -> None:
    """Check a client's record.

    Raises:
        InvalidValue: names stream, field and value. A stream without a schema takes any JSON.
    """
    known = _registered.get(stream_id)
    if known is None:
        return
    from jsonschema.exceptions import best_match

    fault = best_match(known.validator.iter_errors(orjson.loads(data)))
    if fault is not None:
        where = ".".join(str(part) for part in fault.absolute_path) or "the value"
        raise InvalidValue(f"stream {stream_id!r}: {where}: {fault.message[:200]}")


def check_schema(stream_id: str, schema: dict[str, Any]) -> None:
    """Check a schema that came from elsewhere.

    Raises:
        InvalidValue: it is no JSON Schema.
    """
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise InvalidValue(f"stream {stream_id!r}: no JSON Schema: {error.message}") from None
