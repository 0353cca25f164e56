"""A type's values as JSON. `decode` returns a value equal to the one that `encode` accepted.

Pydantic alone does not guarantee that. It accepts an instance of a class without a check of its
fields, and JSON loses some values: NaN becomes null, a secret becomes stars, a subclass becomes its
base class. So `encode` decodes the bytes it wrote and compares. Types for which validation is
enough (text, numbers, lists and dicts of them) skip the comparison. So streams of text tokens have
no extra cost.

Where a type is `Any`, its JSON is the value: a dataclass is decoded as a dict, a tuple as a list, a
datetime as text.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec
from pydantic import (
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticSerializationError

from gateway.errors import InvalidValue
from gateway.model.limits import HASHED_ITEMS, JSON_DEPTH
from gateway.model.untrusted_json import NotJson, check_depth
from gateway.sdk.values.core_schema import Form, Hashed, hashed
from gateway.sdk.values.equality import (
    at,
    difference,
    has_long_integer,
    large_integer,
    no_number,
    shown,
    unwritable,
)

T = TypeVar("T")

_MAX_FAULTS = 10_000  # in one value; Pydantic lists all or none, at 10 us each


class Values(Generic[T]):
    """Encodes and decodes the values of one type. The type is analyzed once, on first use.

    Args:
        type_: Any type that Pydantic's TypeAdapter accepts.
        subject: The owner of the values, for messages.
        is_input: Clients write values too, by the type's JSON Schema: fields have their aliases,
            and fields that are not in the schema (computed fields) are left out.

    Raises:
        InvalidValue: Pydantic cannot build a schema of the type.
    """

    def __init__(self, type_: Any, subject: str, *, is_input: bool = False) -> None:
        self._subject = subject
        self._is_input = is_input
        try:
            self.adapter: TypeAdapter[T] = TypeAdapter(type_)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise InvalidValue(f"{subject}: {error}") from error

    def encode(self, value: T) -> bytes:
        """Check a value against the type and return it as JSON bytes.

        Raises:
            InvalidValue: names the field and the value.
        """
        form = self._form
        try:
            # Accept names too: they are written, unless the model serializes by alias.
            checked = self.adapter.validate_python(value, by_alias=True, by_name=True)
            data = self.adapter.dump_json(
                checked,
                by_alias=True if self._is_input else None,  # None: as configured in the model
                round_trip=self._is_input,
                warnings=False,  # the comparison below finds such values
            )
        except ValidationError as error:
            raise self._refusal(format_validation_error(error)) from None
        except PydanticSerializationError as error:
            raise self._no_json(value, str(error)) from None
        if form.is_read_back or (form.has_floats and b"null" in data):
            self._check_read_back(checked, data)
        if form.may_be_no_json or (form.has_integers and has_long_integer(data)):
            self._check_numbers(checked, data)
        if len(data) > 2 * JSON_DEPTH:  # each level has two brackets
            self._check_depth(data)
        return data

    def plain(self, value: T) -> Any:
        """Check a value and return its JSON as Python values."""
        return msgspec.json.decode(self.encode(value))  # orjson makes large integers floats

    def decode(self, data: bytes) -> T:
        """Decode JSON bytes as the type.

        Raises:
            InvalidValue: names the field and the value.
        """
        try:
            return self._read(data)
        except ValidationError as error:
            raise self._refusal(format_validation_error(error)) from None

    @property
    def by_alias(self) -> bool:
        """Whether fields have their aliases in JSON."""
        return self._form.by_alias

    def _read(self, data: bytes) -> T:
        if self._is_input:
            self._refuse_equal_hashes(data)
        return self.adapter.validate_json(
            data, by_alias=True, by_name=True, extra=self._form.extra_when_read
        )

    def _refuse_equal_hashes(self, data: bytes) -> None:
        kind = self._hashed
        if kind == "nothing" or (kind == "integers" and not _HASHED_INTEGER.search(data)):
            return
        if data.count(b",") >= HASHED_ITEMS and (most := _most_items(data)) > HASHED_ITEMS:
            raise self._refusal(
                f"it has {most} items in one place; the limit is {HASHED_ITEMS} for a type with "
                "sets or keys of numbers, UUIDs and the like; let them be texts or a list"
            )

    def _check_read_back(self, value: T, data: bytes) -> None:
        try:
            fault = difference(value, self._read(data), self._form.open, ())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "json_invalid":  # an integer with too many digits
                raise self._no_json(value, format_validation_error(error)) from None
            raise self._refusal(
                no_number(value, first["loc"]) or format_validation_error(error)
            ) from None
        if fault is not None:
            raise self._refusal(fault)

    def _check_numbers(self, value: T, data: bytes) -> None:
        try:
            fault = large_integer(msgspec.json.decode(data), ())
        except msgspec.DecodeError as error:
            raise self._no_json(value, str(error)) from None
        if fault is not None:
            raise self._refusal(fault)

    def _check_depth(self, data: bytes) -> None:
        try:
            check_depth(data)
        except NotJson as error:
            raise self._refusal(str(error)) from None

    def _no_json(self, value: T, error: str) -> InvalidValue:
        where = unwritable(value)
        return self._refusal(f"{where}: {error}" if where else error)

    def _refusal(self, reason: str) -> InvalidValue:
        return InvalidValue(f"{self._subject}: {reason}")

    @cached_property
    def _hashed(self) -> Hashed:
        return hashed(self.adapter.core_schema)

    @cached_property
    def _form(self) -> Form:
        return Form(self.adapter.core_schema, self._is_input)


_HASHED_INTEGER = re.compile(rb"\d{18}")  # from 2**61 - 1, different integers may have equal hashes


def _most_items(data: bytes) -> int:
    """Return the size of the largest array or object in a value."""
    most = 0
    waiting: list[Any] = [[msgspec.json.decode(data)]]
    while waiting:
        part = waiting.pop()
        most = max(most, len(part))
        inner = part.values() if isinstance(part, dict) else part
        waiting += [each for each in inner if isinstance(each, list | dict)]
    return most


def format_validation_error(error: Exception) -> str:
    """Describe in one line the fields and values that a type refused."""
    if not isinstance(error, ValidationError):
        return str(error)
    if error.error_count() > _MAX_FAULTS:
        return f"{error.error_count()} faults, too many to name one"
    faults = []
    for fault in error.errors(include_url=False)[:3]:
        where = at(fault["loc"])
        faults.append(f"{where}: {fault['msg']} (got {shown(fault['input'])})")
    more = error.error_count() - len(faults)
    return "; ".join(faults) + (f"; and {more} more" if more > 0 else "")
