"""JSON Schemas of input streams, against which the gateway checks the values of clients.

A definition in the gateway's process registers itself. A worker sends its schemas over its
connection. While a definition or a connected worker holds a schema, it cannot be replaced. The
schema of a disconnected worker stays in use until it is replaced, or until there are too many.

A value must fit the schema. If this process defines the type, the type must accept the value too.
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
    read: Callable[[bytes], Any] | None = None  # decodes a value as a task of this process does

    @cached_property
    def checker(self) -> Checker:
        from gateway.sdk.values.schema_checks import Checker  # not loaded in workers

        return Checker(self.schema)


_registered: dict[str, _Registered] = {}


def define(stream_id: str, schema: dict[str, Any], read: Callable[[bytes], Any]) -> None:
    """Check the records that clients append to an input against a type of this process.

    Args:
        stream_id: Id of the input.
        schema: The type's JSON Schema.
        read: Decodes a record as the task does; raises InvalidValue.

    Raises:
        InvalidValue: a connected worker defines the input with another schema.
    """
    register({stream_id: schema}, HERE)
    _registered[stream_id].read = read


def register(
    schemas: Mapping[str, dict[str, Any]],
    holder: str,
    checkers: Mapping[str, Checker | None] = MappingProxyType({}),
) -> None:
    """Check the records that clients append to inputs against their schemas.

    Args:
        schemas: JSON Schemas, draft 2020-12, by stream id; all are registered, or none.
        holder: The process that defines them.
        checkers: The results of `check_schema`; without one a schema is compiled on first use.

    Raises:
        InvalidValue: another holder defines an input with another schema; names both.
    """
    for stream_id, schema in schemas.items():
        _check_conflict(stream_id, schema, holder)
    _make_room(len(schemas.keys() - _registered.keys()))
    for stream_id, schema in schemas.items():
        known = _registered.get(stream_id)
        if known is None or known.schema != schema:
            known = _registered[stream_id] = _Registered(schema)
            if (checker := checkers.get(stream_id)) is not None:
                known.checker = checker
        known.holders.add(holder)


def _check_conflict(stream_id: str, schema: dict[str, Any], holder: str) -> None:
    known = _registered.get(stream_id)
    others = known.holders - {holder} if known is not None and known.schema != schema else set()
    if others:
        raise InvalidValue(
            f"stream {stream_id!r}: {holder} defines this input with another type than "
            f"{', '.join(sorted(others))}; give it another id, or stop those first"
        )


def _make_room(wanted: int) -> None:
    """Drop schemas without a holder, the oldest first, if there are too many."""
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
    """Remove a holder: its process has disconnected."""
    for known in _registered.values():
        known.holders.discard(holder)


def registered() -> dict[str, dict[str, Any]]:
    """Return the schemas by stream id."""
    return {stream_id: known.schema for stream_id, known in _registered.items()}


def check(stream_id: str, data: bytes) -> None:
    """Check a client's record, in bounded time.

    Raises:
        InvalidValue: the record does not fit; names stream, field and value. A stream without a
            schema accepts any JSON.
    """
    known = _registered.get(stream_id)
    if known is None:
        return
    if (fault := known.checker.fault(data)) is not None:
        raise InvalidValue(f"stream {stream_id!r}: {fault}")
    if known.read is not None:
        known.read(data)


def check_schema(stream_id: str, schema: dict[str, Any]) -> Checker | None:
    """Check a schema of another process.

    Returns:
        The compiled schema, for `register`; None if it is registered already.

    Raises:
        InvalidValue: it is not a JSON Schema, or the cost of its checks is unbounded.
    """
    from gateway.sdk.values.schema_checks import Checker

    known = _registered.get(stream_id)
    if known is not None and known.schema == schema:
        return None
    try:
        return Checker(schema)
    except InvalidValue as error:
        raise InvalidValue(f"stream {stream_id!r}: {error.message}") from None
