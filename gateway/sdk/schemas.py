"""JSON Schemas of the streams that clients may write to: checked at the gateway's edge.

A definition in the gateway's own process registers itself; a worker's come over its connection.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.errors import InvalidValue

_schemas: dict[str, dict[str, Any]] = {}
_validators: dict[str, Any] = {}


def register(stream_id: str, schema: dict[str, Any]) -> None:
    """Check what clients append to streams of this id from now on.

    Args:
        stream_id: Of every run.
        schema: JSON Schema, draft 2020-12.

    """
    _schemas[stream_id] = schema
    _validators.pop(stream_id, None)


def registered() -> dict[str, dict[str, Any]]:
    """Return the schemas by stream id."""
    return dict(_schemas)


def check(stream_id: str, data: bytes) -> None:
    """Check a client's record.

    Raises:
        InvalidValue: names stream, field and value. A stream without a schema takes any JSON.
    """
    schema = _schemas.get(stream_id)
    if schema is None:
        return
    from jsonschema.exceptions import best_match  # only a gateway checks, and only it needs this

    fault = best_match(_validator(stream_id, schema).iter_errors(orjson.loads(data)))
    if fault is not None:
        where = ".".join(str(part) for part in fault.absolute_path) or "the value"
        raise InvalidValue(f"stream {stream_id!r}: {where}: {fault.message[:200]}")


def _validator(stream_id: str, schema: dict[str, Any]) -> Any:
    from jsonschema import Draft202012Validator

    if stream_id not in _validators:
        _validators[stream_id] = Draft202012Validator(schema)
    return _validators[stream_id]


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
