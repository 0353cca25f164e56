"""Which streams are defined in this process, and where.

A stream belongs to a run, so two tasks may each have a stream of one id and of different types; the
log says so, since what knows a stream by its id alone then has no type for it. An input may not
share its id with another type: what clients send is checked by the id alone.
"""

from __future__ import annotations

import inspect
import logging
import sys
from typing import Any, NamedTuple

from pydantic import PydanticUserError

from gateway.errors import InvalidValue
from gateway.sdk.definitions import StreamDefinition

_log = logging.getLogger("realtime.streams")


class _Place(NamedTuple):
    """A place in the user's code.

    Attributes:
        file: With `line`, where the definition is.
        module: Its name; a notebook is one module, `__main__`, of many files: one for each version
            of each cell.
        loaded: Import specification; a module that is loaded anew has a new one.
        is_in_function: Whether it is executed again without a module or cell that is loaded again.
    """

    file: str
    line: int
    module: str
    loaded: Any
    is_in_function: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def replaces(self, other: _Place) -> bool:
        """Whether what was defined there is defined anew here."""
        if (self.file, self.line) == (other.file, other.line):
            return True
        is_another_load = self.file != other.file or self.loaded is not other.loaded
        return self.module == other.module and is_another_load


class _Defined(NamedTuple):
    definition: StreamDefinition[Any]
    is_input: bool
    place: _Place


_defined: dict[str, list[_Defined]] = {}  # by id


def add(definition: StreamDefinition[Any], *, is_input: bool = False) -> None:
    """Take note of a definition.

    It takes the place of an older one from the same line, from an earlier load of the same module,
    or from another cell of the same notebook.

    Raises:
        InvalidValue: an input's id is taken by another type; names both places.
    """
    new = _Defined(definition, is_input, _place())
    known = _defined.get(definition.id, [])
    others = [other for other in known if not new.place.replaces(other.place)]
    for other in known:
        if is_same_type(definition, other.definition):
            continue
        is_other = other in others
        if is_other and (is_input or other.is_input):
            raise InvalidValue(
                f"stream {definition.id!r} is {_name(other)} at {other.place}; it cannot be "
                f"{_name(new)} at {new.place}: an input's id has one type"
            )
        if is_other or (new.place.is_in_function and new.place.loaded is other.place.loaded):
            _warn(new, other, "has no type" if is_other else "has the last type only")
    _defined[definition.id] = [*others, new]


def _warn(new: _Defined, other: _Defined, outcome: str) -> None:
    _log.warning(
        "stream %r is %s at %s, and now also %s at %s; what knows it by its id alone (values of "
        "clients, runs.subscribe(…).with_streams(), /v1/schemas, `realtime types`) %s. Give one of "
        "them another id",
        new.definition.id,
        _name(other),
        other.place,
        _name(new),
        new.place,
        outcome,
    )


def find(stream_id: str) -> StreamDefinition[Any] | None:
    """Return the definition of a stream; None if there is none, or if there are several types."""
    found = [defined.definition for defined in _defined.get(stream_id, [])]
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


def _place() -> _Place:
    """Say where the calling code outside this package stands."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("gateway."):
        frame = frame.f_back
    module, loaded = frame.f_globals.get("__name__", ""), frame.f_globals.get("__spec__")
    is_in_function = bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)
    return _Place(frame.f_code.co_filename, frame.f_lineno, module, loaded, is_in_function)


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
