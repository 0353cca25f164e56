"""Bound the work of checking against a JSON Schema, before the schema is used. No I/O.

Checks run on the event loop, and both the schema (a worker's) and the value (a client's) can be
hostile. A schema is rejected if it is too large, nested too deeply, refers to anything outside
itself, or refers to itself without descending into the value. For any other schema, `Cost.steps`
bounds how often a part of a value is compared with a part of the schema: a recursive union of
objects doubles that number with each level of the value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import InvalidValue
from gateway.model.limits import (
    CHECK_STEPS,
    JSON_DEPTH,
    SCHEMA_LEVELS,
    SCHEMA_PARTS,
    SCHEMA_PATTERNS,
)

Schema = dict[str, Any]

_MAX_VISITS = 50_000  # visits of parts of one schema to compute its cost; 5 us each

_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_SINGLE = frozenset(
    {"not", "if", "then", "else", "items", "contains", "additionalProperties", "propertyNames"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_REFUSED = frozenset({"$dynamicRef", "$recursiveRef", "$recursiveAnchor"})


# How often a schema is compared with a part of a value: with a scalar, an array, an object; and the
# length of the longest chain of schemas that are evaluated on the same value.
Steps = tuple[int, int, int, int]


def subschemas(schema: Schema) -> Iterator[tuple[str, Any, Schema]]:
    """Yield the schemas directly in a schema, each with its keyword and its name or index."""
    for keyword, value in schema.items():
        named: Any = ()
        if keyword in _MAPS and isinstance(value, dict):
            named = value.items()
        elif keyword in _LISTS and isinstance(value, list):
            named = enumerate(value)
        elif keyword in _SINGLE:
            named = [(None, value)]
        for name, each in named:
            if isinstance(each, dict):
                yield keyword, name, each


def choices(schema: Schema, root: Schema) -> dict[str, str] | None:
    """Return the references of a union's members by the value of its discriminator.

    None if the union has no discriminator, or if a member does not list its values.
    """
    told, members = schema.get("discriminator"), schema.get("oneOf")
    if not isinstance(told, dict):
        return None
    mapping, name = told.get("mapping"), str(told.get("propertyName"))
    if not isinstance(mapping, dict) or not isinstance(members, list):
        return None
    referred = {str(each.get("$ref")) for each in members if isinstance(each, dict)}
    references = [str(reference) for reference in mapping.values()]
    if len(referred) != len(members) or referred != set(references):
        return None
    for value, reference in mapping.items():
        target = resolve(root, reference) or {}
        properties: Any = target.get("properties")
        field = properties.get(name) if isinstance(properties, dict) else None
        if not isinstance(field, dict) or value not in _allowed(field):
            return None
    return mapping


def _allowed(schema: Schema) -> list[Any]:
    allowed = schema.get("enum", [schema.get("const")])
    return allowed if isinstance(allowed, list) else []


def resolve(root: Schema, reference: Any) -> Schema | None:
    """Return the part of a schema that a reference names; None if the schema has no such part."""
    if not isinstance(reference, str) or (reference != "#" and not reference.startswith("#/")):
        return None
    part: Any = root
    for step in reference.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(part, dict):
            part = part.get(name)
        elif isinstance(part, list) and name.isdecimal() and int(name[:6]) < len(part):
            part = part[int(name[:6])]
        else:
            return None
    return part if isinstance(part, dict) else None


@dataclass(slots=True)
class _Part:
    """A subschema: its cost, and the subschemas that it evaluates.

    Attributes:
        weight: The cost of its keywords, in steps.
        same: Subschemas that are all evaluated on the same value.
        one_of: Subschemas of which one is evaluated on the same value.
        items: Subschemas of which one is evaluated on an item of the value.
        all_items: Subschemas that are all evaluated on an item.
        fields: Subschemas of which one is evaluated on a field of the value.
        all_fields: Subschemas that are all evaluated on a field.
        times: How often it evaluates all of these.
    """

    weight: int
    times: int
    same: list[int] = field(default_factory=list)
    one_of: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    all_items: list[int] = field(default_factory=list)
    fields: list[int] = field(default_factory=list)
    all_fields: list[int] = field(default_factory=list)


_PLACES = {
    **dict.fromkeys(("allOf", "anyOf", "oneOf", "not", "if", "dependentSchemas"), "same"),
    **dict.fromkeys(("then", "else"), "one_of"),
    **dict.fromkeys(("items", "prefixItems"), "items"),
    **dict.fromkeys(("contains", "unevaluatedItems"), "all_items"),
    **dict.fromkeys(("properties", "additionalProperties"), "fields"),
    **dict.fromkeys(("patternProperties", "propertyNames", "unevaluatedProperties"), "all_fields"),
}


class Cost:
    """The highest cost of a check against one schema.

    Raises:
        InvalidValue: the schema is rejected; the message states the reason.
    """

    def __init__(self, schema: Schema) -> None:
        self.name_patterns: list[str] = []
        found = self._walk(schema)
        self._parts = {key: _part(each, found, schema) for key, each in found.items()}
        self._by_level: list[int] = []  # the most comparisons with one part at a level of a value
        self._is_final = self._count(id(schema))  # deeper levels cost as much as the last

    def steps(self, parts: int, levels: int) -> int | None:
        """Return the most comparisons for a value with this many parts and levels.

        None if the value has too many levels.
        """
        if levels >= len(self._by_level):
            if not self._is_final:
                return None
            levels = len(self._by_level) - 1
        return parts * max(self._by_level[: levels + 1])

    def _walk(self, root: Schema) -> dict[int, Schema]:
        """Return a schema and all its subschemas, by identity."""
        found: dict[int, Schema] = {}
        waiting = [(root, 0)]
        patterns = 0
        while waiting:
            schema, level = waiting.pop()
            if level > SCHEMA_LEVELS:
                raise InvalidValue(f"schemas are nested deeper than {SCHEMA_LEVELS} levels")
            if refused := _REFUSED & schema.keys():
                raise InvalidValue(f"{min(refused)} is not supported; use $ref")
            if level and "$id" in schema:
                raise InvalidValue("$id is supported at the top of a schema only")
            found[id(schema)] = schema
            named = schema.get("patternProperties")
            self.name_patterns += named if isinstance(named, dict) else ()
            patterns += "pattern" in schema
            waiting += [(each, level + 1) for _, _, each in subschemas(schema)]
            if len(found) > SCHEMA_PARTS:
                raise InvalidValue(f"it has more than {SCHEMA_PARTS} schemas in it")
        patterns += len(self.name_patterns)
        if patterns > SCHEMA_PATTERNS:
            raise InvalidValue(f"it has {patterns} patterns; the limit is {SCHEMA_PATTERNS}")
        return found

    def _count(self, root: int) -> bool:
        """Count comparisons for values of 0, 1, … levels; return whether the numbers converge.

        The numbers of a level follow from the numbers of the level below it.
        """
        before: dict[int, int] | None = None
        for _ in range(min(JSON_DEPTH + 1, max(3, _MAX_VISITS // len(self._parts)))):
            counted: dict[int, Steps] = {}
            for key in self._parts:
                self._of(key, before, counted, 0)
            now = {key: max(steps[:3]) for key, steps in counted.items()}
            if now == before:
                return True
            self._by_level.append(now[root])
            if now[root] > CHECK_STEPS:
                return False
            before = now
        return False

    def _of(
        self, key: int, below: dict[int, int] | None, counted: dict[int, Steps], depth: int
    ) -> Steps:
        """Return how often parts some levels below the value of a schema are compared.

        Args:
            key: The identity of the schema.
            below: The counts for parts one level nearer; None at level 0.
            counted: The counts so far for this level.
            depth: Length of the chain of schemas, up to this one, evaluated on the same value.
        """
        if (found := counted.get(key)) is not None:
            return found
        part = self._parts[key]
        scalar = array = object_ = part.weight if below is None else 0
        height = 0
        if depth <= SCHEMA_LEVELS:
            same = [self._of(one, below, counted, depth + 1) for one in part.same]
            either = [self._of(one, below, counted, depth + 1) for one in part.one_of]
            scalar += sum(one[0] for one in same) + max((one[0] for one in either), default=0)
            array += sum(one[1] for one in same) + max((one[1] for one in either), default=0)
            object_ += sum(one[2] for one in same) + max((one[2] for one in either), default=0)
            height = 1 + max((one[3] for one in (*same, *either)), default=0)
        if depth > SCHEMA_LEVELS or height > SCHEMA_LEVELS:
            raise InvalidValue(
                "a schema refers to itself without descending into the value, or by more than "
                f"{SCHEMA_LEVELS} references"
            )
        if below is not None:
            array += max((below[one] for one in part.items), default=0)
            array += sum(below[one] for one in part.all_items)
            object_ += max((below[one] for one in part.fields), default=0)
            object_ += sum(below[one] for one in part.all_fields)
        times = part.times
        counted[key] = found = (times * scalar, times * array, times * object_, height)
        return found


def _part(schema: Schema, known: dict[int, Schema], root: Schema) -> _Part:
    # To find the unevaluated items or properties, the engine evaluates the other keywords again.
    times = 2 if {"unevaluatedItems", "unevaluatedProperties"} & schema.keys() else 1
    part = _Part(_weight(schema), times)
    if "$ref" in schema:
        target = resolve(root, schema["$ref"])
        if target is None or id(target) not in known:
            raise InvalidValue(
                f"$ref {str(schema['$ref'])[:200]!r} names no schema in this document, and no "
                "reference leaves it; put the schema into $defs"
            )
        part.same.append(id(target))
    is_told = "oneOf" in schema and choices(schema, root) is not None
    for keyword, _, each in subschemas(schema):
        place = "one_of" if keyword == "oneOf" and is_told else _PLACES.get(keyword)
        if place is not None:  # else it is a definition
            getattr(part, place).append(id(each))
    return part


def _weight(schema: Schema) -> int:
    """Return the measured cost of a schema's keywords without its subschemas, in steps."""
    weight = 1
    allowed = _allowed(schema)
    if any(isinstance(each, dict | list) for each in allowed):
        weight += sum(1 for _ in _nested(allowed))
    if "format" in schema:
        weight += 3  # Pydantic builds an error for each text of another form
    for keyword in ("patternProperties", "dependentRequired"):
        value = schema.get(keyword)
        weight += len(value) if isinstance(value, dict) else 0
    return weight + (4 if "multipleOf" in schema else 0)


def _nested(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        yield part
        if isinstance(part, dict | list):
            waiting += part.values() if isinstance(part, dict) else part
