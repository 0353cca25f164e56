"""Reads from a type's core schema how its values have to be encoded and decoded. No I/O.

Pydantic's core schema is a tree of dicts, one for each part of the type. A part that is unknown
here is treated as closed, and its values are compared after decoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

_LEAVES = frozenset({"str", "bool", "none", "int", "float"})

# Where a type is `Any` ("open"): everywhere, or below some of its fields ("*": below all). Missing
# fields are closed. `...` means "any sequence": a tuple is decoded as a list.
Open = bool | dict[Any, Any]


class Form:
    """How the values of a type have to be encoded and decoded, from its core schema."""

    def __init__(self, schema: Any, is_input: bool) -> None:
        leaves = _leaves(schema)
        self.is_read_back = leaves is None  # else validation guarantees an equal value
        self.has_floats = leaves is not None and "float" in leaves  # NaN is written as null
        self.has_integers = leaves is None or "int" in leaves
        nodes = list(_nodes(schema))
        self.open: Open = _open(schema, {None: any(node["type"] == "any" for node in nodes)})
        configs = [node.get("config") or {} for node in nodes]
        self.may_be_no_json = any(one.get("ser_json_inf_nan") == "constants" for one in configs)
        self.by_alias = is_input or any(config.get("serialize_by_alias") for config in configs)
        extras = {node.get("extra_behavior") for node in nodes}
        extras |= {config.get("extra_fields_behavior") for config in configs}
        is_computed = any(node.get("computed_fields") for node in nodes)
        # Computed fields are written for pages; a model that forbids extras must not refuse them.
        is_in_the_way = is_computed and "forbid" in extras and "allow" not in extras
        self.extra_when_read: Any = "ignore" if is_in_the_way else None


Hashed = Literal["nothing", "integers", "anything"]

# Types that are hashed with a secret of the process, or have few values of equal hash.
_HASHED_SAFELY = frozenset(
    {"str", "bytes", "bool", "none", "float", "literal", "enum", "url", "multi-host-url"}
    | {"date", "time", "datetime"}
)
_WRAPPERS = frozenset(
    {"nullable", "union", "tagged-union", "json-or-python", "lax-or-strict", "chain", "default"}
    | {"function-before", "function-after", "function-wrap"}
)


def hashed(schema: Any) -> Hashed:
    """Return which values in sets or keys of a type a client can choose to have equal hashes.

    Python hashes a number, a UUID or a Decimal modulo 2**61 - 1. A thousand values of equal hash
    are compared half a million times.
    """
    kinds: set[str] = set()
    for node in _nodes(schema):
        if node["type"] == "dict":
            kinds |= {inner["type"] for inner in _nodes(node.get("keys_schema"))} - {"any"}
        elif node["type"] in ("set", "frozenset"):
            kinds |= {inner["type"] for inner in _nodes(node.get("items_schema", {"type": "any"}))}
    kinds -= _HASHED_SAFELY | _WRAPPERS
    if kinds <= {"int", "any"}:
        return "integers" if kinds else "nothing"
    return "anything"


def slow_pattern(schema: Any) -> str | None:
    """Return a pattern that Python's `re` checks, in unbounded time; None if there is none."""
    nodes = list(_nodes(schema))
    configs = [node.get("config") or {} for node in nodes] + nodes
    is_chosen = any(config.get("regex_engine") == "python-re" for config in configs)
    for node in nodes:
        pattern = node.get("pattern") if node["type"] == "str" else None
        if isinstance(pattern, re.Pattern):
            return str(pattern.pattern)
        if pattern is not None and is_chosen:
            return str(pattern)
    return None


def _leaves(schema: Any) -> frozenset[str] | None:
    """Return the simple types of which a type consists; None if it has any other part."""
    kind = schema["type"]
    if "serialization" in schema:
        return None
    if kind in _LEAVES:
        return frozenset({kind})
    if kind == "nullable":
        return _leaves(schema["schema"])
    if kind == "list" and "items_schema" in schema:
        return _leaves(schema["items_schema"])
    if kind == "dict" and schema.get("keys_schema", {}).get("type") == "str":
        return _leaves(schema["values_schema"]) if "values_schema" in schema else None
    return None


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of a core schema that has a type."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part.get("type"), str):
                yield part
            waiting += [part[key] for key in part if key not in ("metadata", "default", "cls")]
        elif isinstance(part, list | tuple):
            waiting += part


_FIELDS = frozenset({"model-fields", "typed-dict", "dataclass-args"})
_ITEMS = frozenset({"list", "set", "frozenset", "generator", "tuple"})


def _open(schema: Any, known: dict[Any, Any]) -> Open:
    """Find where a type is `Any`.

    Args:
        schema: A part of its core schema.
        known: Definitions by reference, and under None whether there is an `Any` at all.
    """
    match schema["type"]:
        case "any":
            return True
        case "definitions":
            known |= {each["ref"]: each for each in schema["definitions"]}
            return _open(schema["schema"], known)
        case "definition-ref":
            return _open_reference(schema["schema_ref"], known)
        case kind if kind in _FIELDS:
            return _open_fields(schema, known)
        case kind if kind in _ITEMS:
            items = schema.get("items_schema", {"type": "any"})
            each = items if isinstance(items, list) else [items]
            return {"*": _either([_open(item, known) for item in each])}
        case "dict":
            return {"*": _open(schema.get("values_schema", {"type": "any"}), known)}
        case "json-or-python":
            found = _open(schema["json_schema"], known)
            is_list = schema["json_schema"]["type"] == "list"
            return {**found, ...: True} if is_list and isinstance(found, dict) else found
        case "lax-or-strict":
            return _open(schema["lax_schema"], known)
        case "union" | "tagged-union":
            choices = schema["choices"]
            of = choices.values() if isinstance(choices, dict) else choices
            return _either([_open(one[0] if isinstance(one, tuple) else one, known) for one in of])
        case "chain":
            return _either([_open(step, known) for step in schema["steps"]])
    inner = schema.get("schema")
    below = _open(inner, known) if isinstance(inner, dict) else False
    if (schema.get("config") or {}).get("extra_fields_behavior") == "allow":
        return {"*": True, **below} if isinstance(below, dict) else below
    return below


def _open_reference(name: str, known: dict[Any, Any]) -> Open:
    found: Any = known.get(name, False)
    if isinstance(found, dict) and isinstance(found.get("type"), str):
        known[name] = known[None]  # a recursive type is not searched below itself
        found = known[name] = _open(found, known)
    return found  # type: ignore[no-any-return]


def _open_fields(schema: Any, known: dict[Any, Any]) -> Open:
    fields = schema["fields"]
    named = fields.items() if isinstance(fields, dict) else [(one["name"], one) for one in fields]
    found: dict[Any, Any] = {name: _open(field["schema"], known) for name, field in named}
    return {"*": True, **found} if schema.get("extra_behavior") == "allow" else found


def _either(parts: list[Open]) -> Open:
    merged: dict[Any, Any] = {}
    for part in parts:
        if part is True:
            return True
        for name, below in (part or {}).items():
            merged[name] = _either([merged.get(name, False), below])
    return merged
