"""The streams that this process defines, and where.

A stream belongs to a run, so two tasks may use one id with different types. That is logged as a
warning, because code that knows only the id then finds no type. An input must not share its id with
another type: the values of clients are checked by the id alone.
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


class _DefinitionSite(NamedTuple):
    """A line of the user's code.

    Attributes:
        file: File of the definition.
        line: Line of the definition.
        module: Name of the module. A notebook is one module, `__main__`, with a file for each
            version of each cell.
        loaded: Import specification; a reloaded module has a new one.
        is_in_function: Whether the line can execute again without a reload of its module or cell.
    """

    file: str
    line: int
    module: str
    loaded: Any
    is_in_function: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    def replaces(self, other: _DefinitionSite) -> bool:
        """Whether this definition replaces another one."""
        if (self.file, self.line) == (other.file, other.line):
            return True
        is_another_load = self.file != other.file or self.loaded is not other.loaded
        return self.module == other.module and is_another_load


class _Defined(NamedTuple):
    definition: StreamDefinition[Any]
    is_input: bool
    site: _DefinitionSite


_defined: dict[str, list[_Defined]] = {}  # by id


def add(definition: StreamDefinition[Any], *, is_input: bool = False) -> None:
    """Register a definition.

    It replaces an older one from the same line, from an earlier load of the same module, or from
    another cell of the same notebook.

    Raises:
        InvalidValue: the id of an input has another type already; names both lines.
    """
    new = _Defined(definition, is_input, _definition_site())
    known = _defined.get(definition.id, [])
    others = [other for other in known if not new.site.replaces(other.site)]
    for other in known:
        if is_same_type(definition, other.definition):
            continue
        is_other = other in others
        if is_other and (is_input or other.is_input):
            raise InvalidValue(
                f"stream {definition.id!r} is {_name(other)} at {other.site}; it cannot be "
                f"{_name(new)} at {new.site}: an input's id has one type"
            )
        if is_other or (new.site.is_in_function and new.site.loaded is other.site.loaded):
            _warn(new, other, "has no type" if is_other else "has the last type only")
    _defined[definition.id] = [*others, new]


def _warn(new: _Defined, other: _Defined, outcome: str) -> None:
    _log.warning(
        "stream %r is %s at %s, and now also %s at %s; what knows it by its id alone (values of "
        "clients, runs.subscribe(…).with_streams(), /v1/schemas, `realtime types`) %s. Give one of "
        "them another id",
        new.definition.id,
        _name(other),
        other.site,
        _name(new),
        new.site,
        outcome,
    )


def find(stream_id: str) -> StreamDefinition[Any] | None:
    """Return the definition of a stream; None if it has none, or several types."""
    found = [defined.definition for defined in _defined.get(stream_id, [])]
    is_clear = all(is_same_type(found[0], other) for other in found[1:])
    return found[0] if found and is_clear else None


def is_same_type(a: StreamDefinition[Any], b: StreamDefinition[Any]) -> bool:
    """Whether two definitions accept the same values."""
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


def _definition_site() -> _DefinitionSite:
    """Find the line of the calling code outside this package."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("gateway."):
        frame = frame.f_back
    module, loaded = frame.f_globals.get("__name__", ""), frame.f_globals.get("__spec__")
    is_in_function = bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)
    return _DefinitionSite(frame.f_code.co_filename, frame.f_lineno, module, loaded, is_in_function)


def json_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schemas of this process's streams, by stream id.

    A stream is left out if it has several types, or a type without a JSON Schema.
    """
    found = {id: definition for id in _defined if (definition := find(id)) is not None}
    schemas = {}
    for id, definition in found.items():
        try:
            schemas[id] = definition.json_schema()
        except PydanticUserError:
            continue
    return schemas
