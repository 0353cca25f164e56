"""Which streams are defined in this process, and where.

A stream belongs to a run, so two tasks may each have a stream of one id and of different types. An
input may not share its id with another type: what clients send is checked by the id alone.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from pydantic import PydanticUserError

from gateway.errors import InvalidValue
from gateway.sdk.definitions import StreamDefinition


class _Defined(NamedTuple):
    definition: StreamDefinition[Any]
    is_input: bool


_defined: dict[str, dict[str, _Defined]] = {}  # by id and place


def add(definition: StreamDefinition[Any], *, is_input: bool = False) -> None:
    """Take note of a definition; one from the same place is a module that was loaded anew.

    Raises:
        InvalidValue: an input's id is taken by another type; names both places.
    """
    place = _place()
    known = _defined.setdefault(definition.id, {})
    for other_place, other in known.items():
        is_taken = other_place != place and (is_input or other.is_input)
        if is_taken and not is_same_type(definition, other.definition):
            raise InvalidValue(
                f"stream {definition.id!r} is {_name(other)} at {other_place}; it cannot be "
                f"{_name(_Defined(definition, is_input))} at {place}: an input's id has one type"
            )
    known[place] = _Defined(definition, is_input)


def find(stream_id: str) -> StreamDefinition[Any] | None:
    """Return the definition of a stream; None if there is none, or if there are several types."""
    found = [defined.definition for defined in _defined.get(stream_id, {}).values()]
    is_clear = all(is_same_type(found[0], other) for other in found[1:])
    return found[0] if found and is_clear else None


def is_same_type(a: StreamDefinition[Any], b: StreamDefinition[Any]) -> bool:
    """Whether two definitions take the same values."""
    if a.type == b.type:
        return True
    try:
        return a.adapter.json_schema() == b.adapter.json_schema()
    except PydanticUserError:  # one of them has no JSON Schema
        return False


def _name(defined: _Defined) -> str:
    type_ = defined.definition.type
    shown = type_.__qualname__ if isinstance(type_, type) else str(type_)
    return f"an input of {shown}" if defined.is_input else f"a stream of {shown}"


def _place() -> str:
    """Say where the calling code outside this package stands."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("gateway."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schemas of what the streams of this process carry, by stream id.

    A stream with several types, or with one that has no JSON Schema, is left out.
    """
    found = {id: definition for id in _defined if (definition := find(id)) is not None}
    schemas = {}
    for id, definition in found.items():
        try:
            schemas[id] = definition.json_schema()
        except PydanticUserError:
            continue
    return schemas
