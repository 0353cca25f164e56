"""Check values against a JSON Schema in bounded time; schema and value may both be hostile.

jsonschema-rs evaluates recursive schemas once for each part of a value and finds duplicates by
hashes. This module bounds the rest: the schema (`schema_cost`), the number of evaluations, patterns
(a linear engine, and a limited amount of text), `multipleOf`, and error messages.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson

from gateway._internal.extras import needs
from gateway.errors import InvalidValue
from gateway.model.limits import CHECK_STEPS, JSON_DEPTH, PATTERN_WORK_US, SCHEMA_BYTES
from gateway.model.untrusted_json import depth_of
from gateway.sdk.values.schema_cost import Cost, Schema, choices, subschemas

with needs("server"):
    import jsonschema_rs

_ERROR_WORK = 300_000  # steps times bytes; above it no error is built, since an error copies values
_SHOWN_CHARACTERS = 200

# (program size, microseconds): the most that a byte of text costs with a pattern whose program,
# compiled with small classes, has at most this size; measured with adversarial patterns.
_PATTERN_COSTS = ((4 << 10, 2.5), (16 << 10, 15.0), (64 << 10, 50.0), (256 << 10, 170.0))
_PROGRAM_SIZES = (64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20)  # a `\w` of Unicode has 140 KB
_PROGRAMS_BYTES = 32 << 20  # all patterns of one schema together; they compile in 0.2 s
_STEP_US = 0.5

# The classes of Pydantic's engine: in JSON Schema `\w` is one of A-Z a-z 0-9 _.
_UNICODE = {
    "w": r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}",
    "d": r"\p{Nd}",
    "s": r"\p{White_Space}",
}
_SMALL = dict.fromkeys("wdsp", "a-z")

# The pattern of a Decimal in Pydantic 2.12 and 2.13 begins so: not only signs and a dot.
_LOOK_AHEAD = "^(?!^[-+.]*$)"


class Checker:
    """Checks values against one schema.

    Raises:
        InvalidValue: the schema is not a JSON Schema of draft 2020-12, or its cost is unbounded.
    """

    def __init__(self, schema: Schema) -> None:
        try:
            size = len(json.dumps(schema, separators=(",", ":")))
        except ValueError as error:  # a number of thousands of digits
            raise InvalidValue(f"no JSON Schema: {error}") from None
        if size > SCHEMA_BYTES:
            raise InvalidValue(f"the schema is {size} bytes; the limit is {SCHEMA_BYTES}")
        self._cost = Cost(schema)
        self._patterns = _Patterns()
        self._validator = _compile(schema, self._patterns)
        names = [_cost_us(name) for name in self._cost.name_patterns]
        self._steps_a_byte = math.ceil(max(names, default=0) / _STEP_US)

    def fault(self, data: bytes) -> str | None:
        """Return the reason why a value is invalid; None if it is valid."""
        try:
            if (fault := self._too_much(data)) is not None:
                return fault
            value = orjson.loads(data)
            self._patterns.begin()
            is_valid = self._validator.is_valid(value)
        except ValueError as error:  # half of a surrogate pair, or nested very deeply
            return f"it cannot be read: {str(error)[:_SHOWN_CHARACTERS]}"
        if self._patterns.left_us < 0:
            return "there is too much text to hold against the patterns of its type; send less"
        return None if is_valid else self._describe(value, data)

    def _too_much(self, data: bytes) -> str | None:
        levels = data.count(b"[") + data.count(b"{")
        parts = 1 + levels + data.count(b",")
        parts = max(parts, len(data) * self._steps_a_byte)  # names that are matched with patterns
        if self._is_too_much(parts, levels):
            # The counts are upper bounds: brackets may be in texts, or next to each other.
            levels = depth_of(data)
            if levels > JSON_DEPTH:
                return f"it is nested deeper than {JSON_DEPTH} levels"
            if self._is_too_much(parts, levels):
                return (
                    f"with {parts} parts in {levels} levels it could take more than "
                    f"{CHECK_STEPS} comparisons; send a smaller value, or give the members of "
                    "unions in the type a discriminator"
                )
        return None

    def _is_too_much(self, parts: int, levels: int) -> bool:
        if levels > JSON_DEPTH:
            return True
        steps = self._cost.steps(parts, levels)
        return steps is None or steps > CHECK_STEPS

    def _describe(self, value: Any, data: bytes) -> str:
        steps = self._cost.steps(1, depth_of(data))
        if steps is None or steps * len(data) > _ERROR_WORK:
            return "it does not fit the type, and is too large to say where"
        self._patterns.begin()
        try:
            self._validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            where = ".".join(str(part) for part in error.instance_path) or "the value"
            return f"{where}: {error.message[:_SHOWN_CHARACTERS]}"
        raise AssertionError("it was not valid before")


def _compile(schema: Schema, all_patterns: _Patterns) -> jsonschema_rs.Draft202012Validator:
    class Pattern(_Pattern):
        patterns = all_patterns

    keywords: Any = {"pattern": Pattern, "multipleOf": _MultipleOf}
    try:
        return jsonschema_rs.Draft202012Validator(
            _rewritten(schema, schema),
            pattern_options=jsonschema_rs.RegexOptions(size_limit=_PROGRAM_SIZES[-2]),
            keywords=keywords,
            offline=True,
        )
    except ValueError as error:
        message = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
        refusal = all_patterns.refusal or f"no JSON Schema: {message[:_SHOWN_CHARACTERS]}"
        raise InvalidValue(refusal) from None


def _rewritten(schema: Schema, root: Schema) -> Schema:
    """Return a schema for the engine, with discriminated unions and our character classes."""
    new = dict(schema)
    for keyword, name, each in subschemas(schema):
        inner = _rewritten(each, root)
        if name is None:
            new[keyword] = inner
            continue
        if new[keyword] is schema[keyword]:
            new[keyword] = schema[keyword].copy()
        new[keyword][name] = inner
    named = new.get("patternProperties")
    if isinstance(named, dict):
        new["patternProperties"] = {
            _translated(name, _UNICODE): each for name, each in named.items()
        }
    if "oneOf" in schema and (members := choices(schema, root)) is not None:
        field = schema["discriminator"]["propertyName"]
        del new["oneOf"]
        told = {"required": [field], "properties": {field: {"enum": list(members)}}}
        new["allOf"] = [
            *schema.get("allOf", ()),
            told,
            *(
                {"if": {"properties": {field: {"const": value}}}, "then": {"$ref": reference}}
                for value, reference in members.items()
            ),
        ]
    return new


class _Patterns:
    """The patterns of one schema, and the matching time that is left for the current value."""

    def __init__(self) -> None:
        self.left_us = 0.0
        self._left_bytes = _PROGRAMS_BYTES
        self._compiled: dict[str, jsonschema_rs.Draft202012Validator] = {}
        self.refusal: str | None = None  # why a pattern was rejected

    def begin(self) -> None:
        self.left_us = float(PATTERN_WORK_US)

    def search(self, pattern: str) -> jsonschema_rs.Draft202012Validator:
        """Compile a pattern for the linear engine.

        Raises:
            ValueError: the linear engine does not support the pattern, or the pattern is too large.
        """
        if pattern in self._compiled:
            return self._compiled[pattern]
        schema = _condition(pattern, _UNICODE)
        for size in _PROGRAM_SIZES:
            if size <= self._left_bytes and (found := _linear(schema, size)) is not None:
                self._left_bytes -= size
                self._compiled[pattern] = found
                return found
        self.refusal = _not_linear(pattern)
        raise ValueError(self.refusal)


class _Pattern:
    patterns: _Patterns

    def __init__(self, _: Schema, pattern: str, path: list[str | int]) -> None:
        self._pattern = pattern
        self._search = self.patterns.search(pattern)
        try:
            self._cost_us = _cost_us(pattern)
        except InvalidValue as error:
            self.patterns.refusal = error.message  # the engine replaces the message
            raise

    def validate(self, text: Any) -> None:
        if not isinstance(text, str):
            return
        self.patterns.left_us -= self._cost_us * len(text) * (1 if text.isascii() else 4)
        if self.patterns.left_us < 0 or not self._search.is_valid(text):
            shown = json.dumps(text[:_SHOWN_CHARACTERS], ensure_ascii=False)
            raise ValueError(f"{shown} does not match {self._pattern!r}")


def _cost_us(pattern: str) -> float:
    """Return the most time that a pattern takes for a byte of text, in microseconds.

    Raises:
        InvalidValue: the pattern is too expensive, or not a pattern.
    """
    schema = _condition(pattern, _SMALL)
    for size, cost_us in _PATTERN_COSTS:
        if _linear(schema, size) is not None:
            return cost_us
    raise InvalidValue(_not_linear(pattern))


def _not_linear(pattern: str) -> str:
    return (
        f"the pattern {pattern[:100]!r} cannot be checked in linear time: it looks around or back, "
        "or the patterns of this schema are too large"
    )


def _condition(pattern: str, classes: dict[str, str]) -> Schema:
    """Return a schema that matches the same texts as a pattern, for the linear engine."""
    if not pattern.startswith(_LOOK_AHEAD):
        return {"pattern": _translated(pattern, classes)}
    rest = "^" + pattern.removeprefix(_LOOK_AHEAD)
    return {"pattern": _translated(rest, classes), "not": {"pattern": "^[-+.]*$"}}


def _linear(schema: Schema, size: int) -> jsonschema_rs.Draft202012Validator | None:
    options = jsonschema_rs.RegexOptions(size_limit=size)
    try:
        return jsonschema_rs.Draft202012Validator(schema, pattern_options=options)
    except ValueError:
        return None


def _translated(pattern: str, classes: dict[str, str]) -> str:
    """Replace the character classes of a pattern.

    Small classes are never negated: `.` and `[^"]` are as large as all of Unicode, and cost the
    same.
    """
    parts, is_class, before = [], False, ""
    for part in re.findall(r"\\[pP]\{[^}]*\}|\\.|[^\\]|\\", pattern, re.DOTALL):
        name = part[1:2]
        is_small_negation = classes is _SMALL and part == "^" and before == "["
        if part in ("[", "]"):
            is_class = part == "["
        if classes is _SMALL and part == "." and not is_class:
            parts.append("[a-z]")
        elif is_small_negation:
            pass
        elif part[0] != "\\" or name.lower() not in classes or not name:
            parts.append(part)
        elif name.islower() or classes is _SMALL:
            parts.append(classes[name.lower()] if is_class else f"[{classes[name.lower()]}]")
        else:
            parts.append(f"[^{classes[name.lower()]}]")
        before = part
    return "".join(parts)


class _MultipleOf:
    def __init__(self, _: Schema, factor: Any, path: list[str | int]) -> None:
        self._factor = Decimal(str(factor))
        if self._factor <= 0:
            raise ValueError(f"multipleOf is {factor}; it is above 0")

    def validate(self, number: Any) -> None:
        if isinstance(number, bool) or not isinstance(number, int | float):
            return
        try:
            is_multiple = Decimal(str(number)) % self._factor == 0
        except InvalidOperation:  # more digits than a JavaScript number has
            is_multiple = False
        if not is_multiple:
            raise ValueError(f"{number} is not a multiple of {self._factor}")
