"""JSON Schemas of streams as TypeScript types. No I/O.

The forms that Pydantic writes are translated. Any other schema becomes `unknown`, never a wrong
type.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

Schema = Mapping[str, Any]

_HEAD = "// Written by `realtime types`. Do not edit: run it again when a stream's type changes.\n"
_SIMPLE = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
}
_IDENTIFIER = re.compile(r"[A-Za-z_$][\w$]*\Z", re.ASCII)
_NO_IDENTIFIER = re.compile(r"\W+", re.ASCII)


def declare(schemas: Mapping[str, Schema]) -> str:
    """Return TypeScript declarations for streams.

    Args:
        schemas: JSON Schemas, draft 2020-12, by stream id.

    Returns:
        A TypeScript module with an interface or type for each definition of a schema, and the
        interface `Streams`, which maps stream ids to types. Equal schemas give equal text.
    """
    writer = _Writer()
    fields = [
        f"{_comment(schemas[id], '  ')}  {_key(id)}: {writer.of_stream(id, schemas[id])};\n"
        for id in sorted(schemas)
    ]
    streams = f"export interface Streams {{\n{''.join(fields)}}}\n"
    return "\n".join([_HEAD, *writer.declarations, streams])


class _Writer:
    def __init__(self) -> None:
        self.declarations: list[str] = []
        self._names: dict[str, str] = {}  # by definition, so that equal ones share a declaration
        self._taken = {"Streams"}

    def of_stream(self, id: str, schema: Schema) -> str:
        """Return the type of a stream's records, and declare the types it refers to."""
        scope = _Scope(self, schema.get("$defs", {}))
        if schema.get("type") == "object" and "properties" in schema:
            return self.declare(str(schema.get("title") or id), schema, scope)
        return scope.type_of(schema)

    def declare(self, base_name: str, schema: Schema, scope: _Scope) -> str:
        """Declare a named type once and return its name."""
        identity = json.dumps([base_name, schema, scope.definitions], sort_keys=True)
        if identity in self._names:
            return self._names[identity]
        name = self._names[identity] = self._free_name(base_name)
        index = len(self.declarations)
        self.declarations.append("")  # reserves the place before the types it refers to
        comment = _comment(schema, "")
        if "properties" in schema:
            body = f"export interface {name} {scope.object_of(schema, '')}\n"
        else:
            body = f"export type {name} = {scope.type_of(schema)};\n"
        self.declarations[index] = comment + body
        return name

    def _free_name(self, base_name: str) -> str:
        parts = [part for part in _NO_IDENTIFIER.split(base_name) if part]
        base = "".join(part[0].upper() + part[1:] for part in parts) or "Value"
        if not _IDENTIFIER.match(base):
            base = f"T{base}"
        name, number = base, 2
        while name in self._taken:
            name, number = f"{base}{number}", number + 1
        self._taken.add(name)
        return name


class _Scope:
    """A schema with its definitions."""

    def __init__(self, writer: _Writer, definitions: Mapping[str, Schema]) -> None:
        self.definitions = definitions
        self._writer = writer

    def type_of(self, schema: Any, indent: str = "") -> str:
        """Return a schema as a type."""
        if not isinstance(schema, Mapping):
            return "unknown"
        if "$ref" in schema:
            return self._reference(str(schema["$ref"]))
        if "const" in schema:
            return json.dumps(schema["const"])
        if "enum" in schema:
            return _union(json.dumps(value) for value in schema["enum"])
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return _union(self.type_of(each, indent) for each in schema[word])
        if "allOf" in schema:
            return " & ".join(_grouped(self.type_of(each, indent)) for each in schema["allOf"])
        kinds = schema.get("type")
        if isinstance(kinds, list):
            return _union(self._of_kind(str(kind), schema, indent) for kind in kinds)
        return self._of_kind(str(kinds), schema, indent)

    def _of_kind(self, kind: str, schema: Schema, indent: str) -> str:
        if kind == "array":
            return self._array(schema, indent)
        if kind == "object":
            return self.object_of(schema, indent)
        return _SIMPLE.get(kind, "unknown")

    def _array(self, schema: Schema, indent: str) -> str:
        if "prefixItems" in schema:
            first = [self.type_of(each, indent) for each in schema["prefixItems"]]
            is_closed = schema.get("items") is False or schema.get("maxItems") == len(first)
            rest = [] if is_closed else [f"...{_grouped(self.type_of(schema.get('items')))}[]"]
            return f"[{', '.join([*first, *rest])}]"
        return f"{_grouped(self.type_of(schema.get('items'), indent))}[]"

    def object_of(self, schema: Schema, indent: str) -> str:
        """Return an object as fields, or as an index signature."""
        if "properties" not in schema:
            return (
                f"{{ [key: string]: {self.type_of(schema.get('additionalProperties'), indent)} }}"
            )
        required = schema.get("required", ())
        inner = indent + "  "
        lines = [
            f"{_comment(field, inner)}{inner}{_key(name)}{'' if name in required else '?'}: "
            f"{self.type_of(field, inner)};\n"
            for name, field in schema["properties"].items()
        ]
        return f"{{\n{''.join(lines)}{indent}}}"

    def _reference(self, reference: str) -> str:
        name = reference.removeprefix("#/$defs/")
        if name == reference or name not in self.definitions:
            return "unknown"
        return self._writer.declare(name, self.definitions[name], self)


def _union(types: Iterable[str]) -> str:
    unique = list(dict.fromkeys(types))
    return "unknown" if "unknown" in unique or not unique else " | ".join(unique)


def _grouped(type_: str) -> str:
    return f"({type_})" if " | " in type_ or " & " in type_ else type_


def _key(name: str) -> str:
    return name if _IDENTIFIER.match(name) else json.dumps(name)


def _comment(schema: Any, indent: str) -> str:
    text = schema.get("description") if isinstance(schema, Mapping) else None
    if not isinstance(text, str) or not text.strip():
        return ""
    lines = [line.strip() for line in text.strip().replace("*/", "* /").splitlines()]
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    body = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{body}{indent} */\n"
