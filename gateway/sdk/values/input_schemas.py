"""JSON Schemas of the streams that clients may write to: checked at the gateway's edge.

A definition in the gateway's own process registers itself; a worker's come over its connection.
While a definition or a worker holds a stream's schema, no other can replace it; the schema of a
worker that has left is still checked, until another one is brought or there are too many.

A value has to fit the schema and, if the type is defined in this process, it has to be readable by
it, as the task reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gateway.errors import InvalidValue
from gateway.model.limits import REGISTERED_SCHEMAS

if TYPE_CHECKING:
    from gateway.sdk.values.schema_checks import Checker

HERE = "the gateway's own process"


@dataclass
class _Registered:
    schema: dict[str, Any]
    holders: set[str] = field(default_factory=set)
    read: Callable[[bytes], Any] | None = None  # as a task of this process reads it

    @cached_property
    def checker(self) -> Checker:
        from gateway.sdk.values.schema_checks import Checker  # only a gateway checks

        return Checker(self.schema)


_registered: dict[str, _Registered] = {}


def define(stream_id: str, schema: dict[str, Any], read: Callable[[bytes], Any]) -> None:
    """Check what clients append to streams of an id by a type of this process from now on.

    Args:
        stream_id: Of the input.
        schema: The type's JSON Schema.
        read: Reads a record as the task does; raises InvalidValue.

    Raises:
        InvalidValue: a worker that is connected defines it otherwise.
    """
    register({stream_id: schema}, HERE)
    _registered[stream_id].read = read


def register(
    schemas: Mapping[str, dict[str, Any]],
    holder: str,
    checkers: Mapping[str, Checker | None] = MappingProxyType({}),
) -> None:
    """Check what clients append to streams of these ids from now on.

    Args:
        schemas: JSON Schemas, draft 2020-12, by stream id; all are taken, or none.
        holder: Who defines them.
        checkers: What `check_schema` returned for them, or else they are compiled on first use.

    Raises:
        InvalidValue: someone else who is there defines one of them otherwise; names both.
    """
    for stream_id, schema in schemas.items():
        _refuse_other(stream_id, schema, holder)
    _make_room(len(schemas.keys() - _registered.keys()))
    for stream_id, schema in schemas.items():
        known = _registered.get(stream_id)
        if known is None or known.schema != schema:
            known = _registered[stream_id] = _Registered(schema)
            if (checker := checkers.get(stream_id)) is not None:
                known.checker = checker
        known.holders.add(holder)


def _refuse_other(stream_id: str, schema: dict[str, Any], holder: str) -> None:
    known = _registered.get(stream_id)
    others = known.holders - {holder} if known is not None and known.schema != schema else set()
    if others:
        raise InvalidValue(
            f"stream {stream_id!r}: {holder} defines this input with another type than "
            f"{', '.join(sorted(others))}; give it another id, or stop those first"
        )


def _make_room(wanted: int) -> None:
    """Forget schemas that nobody holds, the oldest first, if there are too many."""
    surplus = len(_registered) + wanted - REGISTERED_SCHEMAS
    if surplus <= 0:
        return
    unheld = [stream_id for stream_id, known in _registered.items() if not known.holders]
    if len(unheld) < surplus:
        raise InvalidValue(
            f"{len(_registered) - len(unheld)} inputs are defined by workers that are connected, "
            f"and {wanted} more are to be; the limit is {REGISTERED_SCHEMAS}"
        )
    for stream_id in unheld[:surplus]:
        del _registered[stream_id]


def release(holder: str) -> None:
    """Take note that someone has left."""
    for known in _registered.values():
        known.holders.discard(holder)


def registered() -> dict[str, dict[str, Any]]:
    """Return the schemas by stream id."""
    return {stream_id: known.schema for stream_id, known in _registered.items()}


def check(stream_id: str, data: bytes) -> None:
    """Check a client's record, in bounded time.

    Raises:
        InvalidValue: names stream, field and value. A stream without a schema takes any JSON.
    """
    known = _registered.get(stream_id)
    if known is None:
        return
    if (fault := known.checker.fault(data)) is not None:
        raise InvalidValue(f"stream {stream_id!r}: {fault}")
    if known.read is not None:
        known.read(data)


def check_schema(stream_id: str, schema: dict[str, Any]) -> Checker | None:
    """Check a schema that came from elsewhere.

    Returns:
        What checks values by it, for `register`; None if the schema is registered already.

    Raises:
        InvalidValue: it is no JSON Schema, or one whose checks are not bounded.
    """
    from gateway.sdk.values.schema_checks import Checker

    known = _registered.get(stream_id)
    if known is not None and known.schema == schema:
        return None
    try:
        return Checker(schema)
    except InvalidValue as error:
        raise InvalidValue(f"stream {stream_id!r}: {error.message}") from None
