"""The id of a stream and the type of its records; shared by tasks and pages. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from gateway.model.records import check_stream_id
from gateway.sdk.values.encoding import Values

T = TypeVar("T")


@dataclass(frozen=True)
class StreamDefinition(Generic[T]):
    """A stream's id and the type of its records.

    Made by `streams.define`. Tasks use it to `append`, backends to `read`, and pages in
    `use_realtime_stream`.

    Attributes:
        id: 1 to 64 characters of letters, digits, `-`, `_`, `.`.
        type: Any type that Pydantic's TypeAdapter accepts.

    Raises:
        InvalidId: the id is not allowed.
        InvalidValue: Pydantic can make no schema of the type.
    """

    id: str
    type: Any = field(default=str)

    def __post_init__(self) -> None:
        check_stream_id(self.id)
        _ = self._values  # raises for a type without a schema

    @cached_property
    def _values(self) -> Values[T]:
        return Values(self.type, f"stream {self.id!r}")

    @property
    def adapter(self) -> TypeAdapter[T]:
        """The type's validator."""
        return self._values.adapter

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the written records.

        Raises:
            PydanticUserError: the type has none.
        """
        return self.adapter.json_schema(mode="serialization", by_alias=self._values.by_alias)

    def encode(self, value: T) -> bytes:
        """Check a value against the type and return JSON that `decode` reads as an equal value.

        Raises:
            InvalidValue: names the stream, the field and the value.
        """
        return self._values.encode(value)

    def decode(self, data: bytes) -> T:
        """Decode a record's JSON bytes as the type.

        Raises:
            InvalidValue: names the stream, the field and the value.
        """
        return self._values.decode(data)
