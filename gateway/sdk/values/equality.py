"""Compares a value with the one decoded from its JSON, and names the first difference. No I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from math import isfinite
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import to_json

from gateway.model.limits import JSON_DEPTH, MAX_INTEGER
from gateway.sdk.values.core_schema import Open

Path = tuple[Any, ...]

_SHOWN_CHARACTERS = 80
_SHOWN_BITS = 256
_PATH_CHARACTERS = 200
_SECRETS = (SecretStr, SecretBytes)
_MISSING = object()


def difference(given: Any, read: Any, open_: Open, path: Path) -> str | None:
    """Describe the first difference of a value from its decoded JSON; None if they are equal."""
    if _is_equal(given, read):
        return None
    if isinstance(read, Iterator):  # a lazy Iterable validates its items only when it is iterated
        for _ in read:
            pass
        return None
    parts = _parts(given, read) if _are_alike(given, read, open_) else None
    if parts is None and open_ is True:
        parts = _parts_of_json(given, read)
    if parts is None:
        is_json = open_ is True and type(given) is not type(read) and not _is_lost(given, read)
        return None if is_json else _changed(given, read, path)
    for name, one, other in parts:
        fault = difference(one, other, _at_field(open_, name), (*path, _label(given, name)))
        if fault is not None:
            return fault
    return None


def _are_alike(given: Any, read: Any, open_: Open) -> bool:
    if type(given) is type(read):
        return True
    is_sequence = isinstance(open_, dict) and ... in open_
    return is_sequence and isinstance(given, Sequence) and isinstance(read, Sequence)


def _is_equal(given: Any, read: Any) -> bool:
    try:
        same = given == read
        if not isinstance(same, bool):  # arrays compare element by element
            same = bool(same.all())
        if not same and isinstance(given, datetime):
            # `==` is false between two zones in an hour that one of them repeats or skips.
            return given.tzinfo is not read.tzinfo and given - read == timedelta(0)
        return same or (given != given and repr(given) == repr(read))  # NaN, written as text
    except Exception:
        return False


def _parts(given: Any, read: Any) -> list[tuple[Any, Any, Any]] | None:
    """Pair the parts of two values of one class; None if the class has no parts to compare."""
    if isinstance(given, Mapping):
        same = given.keys() == read.keys()
        return [(key, given[key], read[key]) for key in given] if same else None
    if isinstance(given, list | tuple) or isinstance(read, list | tuple):
        same = len(given) == len(read)
        return list(zip(range(len(given)), given, read, strict=True)) if same else None
    # Private attributes and caches are not part of a value, and may differ.
    names = _fields_of(given)
    if names is None:
        return None
    return [(name, getattr(given, name, _MISSING), getattr(read, name, _MISSING)) for name in names]


def _fields_of(value: Any) -> list[str] | None:
    if isinstance(value, BaseModel):
        return [*type(value).model_fields, *(value.model_extra or ())]
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value) if field.compare]
    equals: Any = type(value).__eq__
    if equals is not object.__eq__:
        return None  # the class defines its own equality
    slots = [name for base in type(value).__mro__ for name in getattr(base, "__slots__", ())]
    return [*slots, *getattr(value, "__dict__", ())]


def _label(value: Any, name: Any) -> Any:
    """Return a field's name as in Pydantic's errors."""
    field = type(value).model_fields.get(name) if isinstance(value, BaseModel) else None
    return field.alias if field is not None and field.alias else name


def _at_field(open_: Open, name: Any) -> Open:
    if isinstance(open_, dict):
        below: Any = open_.get(name, open_.get("*", False))
        return below  # type: ignore[no-any-return]
    return open_


def _parts_of_json(given: Any, read: Any) -> list[tuple[Any, Any, Any]] | None:
    """Pair the parts of a value with the parts of its JSON, where the type is `Any`."""
    if isinstance(given, Mapping) and isinstance(read, dict):
        # Fewer keys: two keys have the same JSON. A tuple as a key is written as a text, which may
        # be another key's text too.
        same = len(given) == len(read) and not any(isinstance(key, tuple) for key in given)
        pairs = zip(read, given.values(), read.values(), strict=False)
        return list(pairs) if same else None
    if isinstance(given, Collection) and isinstance(read, list):
        return list(zip(range(len(read)), given, read, strict=False))
    if isinstance(read, dict):
        return [(name, getattr(given, name, read[name]), read[name]) for name in read]
    return None


def _is_lost(given: Any, read: Any) -> bool:
    if isinstance(given, Iterator | Mapping):
        return True  # an iterator is used up, so it cannot be compared; a mapping has lost a key
    return _is_no_number(given) or (isinstance(given, _SECRETS) and read == str(given))


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not isfinite(value)


def _changed(given: Any, read: Any, path: Path) -> str:
    why = ""
    if _is_no_number(given):
        why = ": JSON has no NaN and no infinity"
    elif isinstance(given, Mapping) and not all(isinstance(key, str) for key in given):
        why = ": keys in JSON are texts; one is lost or changed"
    elif isinstance(given, _SECRETS):
        why = ": JSON has the stars of a secret only"
    elif type(given) is not type(read):
        why = f" ({type(given).__name__} would become {type(read).__name__})"
    return f"{at(path)}: {shown(given)} would be read back as {shown(read)}{why}"


_DIGITS = bytes.maketrans(b"0123456789[:", b"0" * 10 + b",,")
_LONG = b"0" * 16  # 2**53 has 16 digits


def has_long_integer(data: bytes) -> bool:
    """Whether a value may start with 16 digits or more. A string can look like one.

    A regular expression takes ten times as long.
    """
    digits = data.translate(_DIGITS)
    return (
        b"," + _LONG in digits
        or b",-" + _LONG in digits
        or digits.startswith((_LONG, b"-" + _LONG))
    )


def large_integer(value: Any, path: Path = ()) -> str | None:
    """Describe the first integer that a page would round; None if there is none."""
    if isinstance(value, int):
        if abs(value) <= MAX_INTEGER:
            return None
        return (
            f"{at(path)}: {shown(value)} is beyond 2**53 = {MAX_INTEGER}, up to which pages have "
            "whole numbers exactly; declare it as text, for example "
            "Annotated[int, PlainSerializer(str)]"
        )
    if isinstance(value, dict):
        parts: Any = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        return None
    faults = (large_integer(part, (*path, name)) for name, part in parts)
    return next((fault for fault in faults if fault is not None), None)


def exact(value: Any, levels: int = JSON_DEPTH) -> Any:
    """Return external JSON with texts in place of numbers that a page cannot represent exactly.

    Raises:
        ValueError: the value is nested deeper than a record can be.
    """
    if levels == 0:
        raise ValueError(f"it is nested deeper than {JSON_DEPTH} levels")
    if isinstance(value, dict):
        return {key: exact(part, levels - 1) for key, part in value.items()}
    if isinstance(value, list):
        return [exact(part, levels - 1) for part in value]
    is_large = isinstance(value, int) and abs(value) > MAX_INTEGER
    return str(value) if is_large or _is_no_number(value) else value


def unwritable(value: Any) -> str | None:
    """Name the first part of a value that has no JSON, after the serializer has refused it."""
    return _unwritable(value, (), set())


def _unwritable(value: Any, path: Path, seen: set[int]) -> str | None:
    if isinstance(value, str):
        is_whole = not any("\ud800" <= character <= "\udfff" for character in value)
        return None if is_whole else f"{at(path)}: {shown(value)} has half of a surrogate pair"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return large_integer(value, path)
    if isinstance(value, int | float | None):
        return None
    is_leaf = isinstance(value, bytes | set | frozenset)
    parts = None if is_leaf or len(path) == JSON_DEPTH else _parts(value, value)
    if not parts:
        return f"{at(path)}: {shown(value)} has no JSON" if not _has_json(value) else None
    if id(value) in seen:  # a cycle, or shared by many
        return None
    seen.add(id(value))
    for name, one, _ in parts:
        if isinstance(value, Mapping) and not _has_json({name: None}):
            return f"{at(path)}: the key {shown(name)} has no JSON"
        fault = _unwritable(one, (*path, _label(value, name)), seen)
        if fault is not None:
            return fault
    return None


def _has_json(value: Any) -> bool:
    try:
        to_json(value)
    except Exception:  # any exception: the code may be the user's
        return False
    return True


def no_number(value: Any, path: Sequence[Any]) -> str | None:
    """Describe a NaN or an infinity at a path of a value; None if there is another value."""
    for name in path:
        try:
            is_open = isinstance(value, Mapping | list | tuple)
            value = value[name] if is_open else getattr(value, name)
        except (LookupError, TypeError, AttributeError):  # an alias, or a choice of a union
            return None
    return _changed(value, None, tuple(path)) if _is_no_number(value) else None


def at(path: Sequence[Any]) -> str:
    """Format the path of a field."""
    return ".".join(str(part) for part in path)[:_PATH_CHARACTERS] or "the value"


def shown(value: Any) -> str:
    """Format the beginning of a value."""
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS:
        return (
            f"a whole number of {value.bit_length()} bits"  # Python refuses to format larger ones
        )
    try:
        return repr(value)[:_SHOWN_CHARACTERS]
    except Exception:  # a class of the user
        return object.__repr__(value)
