"""What a stream is called and what it carries: shared by tasks and pages, free of I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from gateway.errors import InvalidValue
from gateway.records import check_stream_id

T = TypeVar("T")


@dataclass(frozen=True)
class StreamDefinition(Generic[T]):
    """A stream's id and the type of its records.

    Make one with `streams.define`; it is then used by tasks (`append`), backends (`read`) and
    pages (`use_realtime_stream`).

    Attributes:
        id: 1 to 64 characters of letters, digits, `-`, `_`, `.`.
        type: Anything that Pydantic's TypeAdapter takes.

    Raises:
        InvalidId: the id is outside its rule.
        InvalidValue: Pydantic can make no schema of the type.
    """

    id: str
    type: Any = field(default=str)

    def __post_init__(self) -> None:
        check_stream_id(self.id)
        try:
            _ = self.adapter
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise InvalidValue(f"stream {self.id!r}: {error}") from error

    @cached_property
    def adapter(self) -> TypeAdapter[T]:
        """The type's validator."""
        return TypeAdapter(self.type)

    def encode(self, value: T) -> bytes:
        """Check a value against the type and return it as JSON bytes.

        Raises:
            InvalidValue: names the stream, the field and the value.
        """
        try:
            checked = self.adapter.validate_python(value)
            data = self.adapter.dump_json(checked)
            if b"null" in data:
                # JSON has no NaN and no infinity: they come out as null, which no reader could
                # take for a number. Here the writer still hears of it.
                self.adapter.validate_json(data)
            return data
        except (ValidationError, PydanticSerializationError) as error:
            raise InvalidValue(f"stream {self.id!r}: {describe(error)}") from None

    def decode(self, data: bytes) -> T:
        """Read a record's JSON bytes as the type.

        Raises:
            InvalidValue: names the stream, the field and the value.
        """
        try:
            return self.adapter.validate_json(data)
        except ValidationError as error:
            raise InvalidValue(f"stream {self.id!r}: {describe(error)}") from None


def describe(error: Exception) -> str:
    """Say in one line which field of which value a type refused."""
    if not isinstance(error, ValidationError):
        return str(error)
    faults = []
    for fault in error.errors(include_url=False)[:3]:
        where = ".".join(str(part) for part in fault["loc"]) or "the value"
        shown = repr(fault["input"])
        faults.append(f"{where}: {fault['msg']} (got {shown[:80]})")
    more = error.error_count() - len(faults)
    return "; ".join(faults) + (f"; and {more} more" if more > 0 else "")
