"""Types of the Vars: records, AI answers, lists, values that may be None."""

from __future__ import annotations

import types
import typing
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from functools import cache
from typing import Any, Generic, Literal, TypeVar

from reflex.vars import ObjectVar

from gateway.sdk.assembler import AssembledCall, AssembledFinish, AssembledParts

from .text_numbers import unwrap

T = TypeVar("T")

SubscriptionStatus = Literal["idle", "connecting", "live", "reconnecting", "ended", "error"]

Parts = AssembledParts
"""An AI answer, assembled from the parts received so far."""

ToolCall = AssembledCall
"""A tool call of an AI answer, with its state."""

Finish = AssembledFinish
"""Why an AI answer is complete, and the tokens it used."""


@dataclass(frozen=True)
class SourceParts:
    """The part of an AI answer that one run has written.

    Attributes:
        source: The run; None for a client outside any run.
        parts: The parts of this run, assembled.
    """

    source: str | None
    parts: Parts


@dataclass(frozen=True)
class StreamRecord(Generic[T]):
    """A record as the gateway sends it.

    Source:
        PROTOCOL.md, section 5.
    """

    offset: int
    time_ms: int
    source: str | None
    attempt: int | None
    data: T


def list_of(type_: Any) -> Any:
    """Return the type of a list of values of a type."""
    return types.GenericAlias(list, (type_,))


def optional(type_: Any) -> Any:
    """Return the type of a value that may be None."""
    return type_ if type_ is Any else type_ | None


@cache
def record_type(type_: Any) -> type[Any]:
    """Return the class of a record whose value has this type.

    Reflex reads the types of fields from a class, and cannot resolve them in a generic class.
    """
    head = [("offset", int), ("time_ms", int), ("source", str | None), ("attempt", int | None)]
    fields = [*head, ("data", type_)]
    return make_dataclass("StreamRecord", fields, frozen=True)


@cache
def warn_about_hidden_fields(type_: Any) -> None:
    """Warn, once for each type, about fields that methods of Var hide.

    Args:
        type_: A dataclass, a Pydantic model, a TypedDict, or a union of them.
    """
    hidden = [name for name in _field_names(type_) if hasattr(ObjectVar, name)]
    if hidden:
        shown = ", ".join(hidden)
        name = getattr(type_, "__name__", str(type_))
        warnings.warn(
            f"{name} has fields that a Var's own methods hide: {shown}. "
            f'Reach them by index: latest["{hidden[0]}"].',
            stacklevel=4,
        )


def _field_names(type_: Any) -> Iterator[str]:
    if isinstance(type_, types.UnionType) or typing.get_origin(type_) is typing.Union:
        for member in typing.get_args(type_):
            yield from _field_names(unwrap(member))
    elif isinstance(type_, type):
        for class_ in type_.__mro__:
            names = vars(class_).get("__annotations__", {})
            yield from (name for name in names if not name.startswith("_"))
