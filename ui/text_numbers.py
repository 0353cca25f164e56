"""Numbers that JSON carries as text, which keeps all digits: Decimals, and integers typed so.

JavaScript would concatenate them (`"1.5" + 1` is `"1.51"`) and compare them as text. So the Var of
such a number has the operations of text, and rejects arithmetic when the page is built.
"""

from __future__ import annotations

import dataclasses
import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from functools import reduce
from typing import Annotated, Any, NoReturn, NotRequired, Required, TypedDict, Union

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUserError
from reflex.vars import NumberVar, StringVar, Var

from gateway.errors import InvalidValue
from gateway.model.limits import MAX_INTEGER


class TextNumber(str):
    """The type of a number's digits on a page."""

    __slots__ = ()


def _refused(operation: str) -> Callable[..., Any]:
    def refuse(self: TextNumberVar, *_: Any) -> NoReturn:
        raise TypeError(
            f"{operation} of {self!s}: its value is a number that JSON carries as text (a Decimal, "
            "or an integer declared as text); JavaScript would join the digits or round them. "
            "Calculate in the task and append the result; or declare the field as float, or "
            "convert here with .to(float), where rounding does no harm"
        )

    return refuse


_refuse_equal, _refuse_add = _refused("comparing (==)"), _refused("arithmetic (+)")


class TextNumberVar(StringVar[str], python_types=TextNumber):
    """A number as text: a page can show it, join it to text and compare it with text."""

    __hash__ = Var.__hash__
    __sub__ = __rsub__ = _refused("arithmetic (-)")
    __mul__ = __rmul__ = _refused("arithmetic (*)")
    __truediv__ = __rtruediv__ = _refused("arithmetic (/)")
    __floordiv__ = __rfloordiv__ = _refused("arithmetic (//)")
    __mod__ = __rmod__ = _refused("arithmetic (%)")
    __pow__ = __rpow__ = _refused("arithmetic (**)")
    __neg__ = __pos__ = __abs__ = __round__ = _refused("arithmetic")
    __lt__ = __le__ = __gt__ = __ge__ = _refused("comparing (<, >)")

    def __add__(self, other: Any) -> Any:
        """Concatenate with text."""
        return super().__add__(other) if _is_text(other) else _refuse_add(self)

    def __radd__(self, other: Any) -> Any:
        """Concatenate with text."""
        return super().__radd__(other) if _is_text(other) else _refuse_add(self)

    def __eq__(self, other: Any) -> Any:
        """Compare with text, character by character: "1.5" is not "1.50"."""
        return _refuse_equal(self) if _is_number(other) else super().__eq__(other)

    def __ne__(self, other: Any) -> Any:
        """Compare with text, character by character."""
        return _refuse_equal(self) if _is_number(other) else super().__ne__(other)

    def to(self, output: Any, var_type: Any = None) -> Any:
        """Convert; to `int` or `float`, JavaScript may round the number."""
        if output in (int, float, NumberVar):
            type_ = var_type or (float if output is NumberVar else output)
            data = self._get_all_var_data()
            return Var(f"Number({self!s})", _var_type=type_, _var_data=data).guess_type()
        return super().to(output, var_type)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | StringVar) and not isinstance(value, TextNumberVar)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal | NumberVar)


def to_digits(value: Any) -> Any:
    """Return a number, or a Var of one, as text; any other value unchanged."""
    if not _is_number(value):
        return value
    return value.to_string() if isinstance(value, Var) else str(value)


# ---- types ----


_QUALIFIERS = (Required, NotRequired, getattr(typing, "ReadOnly", Required))  # of TypedDict fields


def unwrap(type_: Any) -> Any:
    """Return a type without its alias, annotations and qualifiers."""
    while True:
        if typing.get_origin(type_) in (Annotated, *_QUALIFIERS):
            type_ = typing.get_args(type_)[0]
        elif hasattr(type_, "__value__"):  # `type X = ...`
            type_ = type_.__value__
        elif hasattr(type_, "__supertype__"):  # NewType
            type_ = type_.__supertype__
        else:
            return type_


def page_type(type_: Any) -> Any:
    """Return a type with `TextNumber` in place of each number that JSON carries as text.

    A class with such fields is replaced by another with the same field names. Any other type is
    returned unchanged.
    """
    if is_text_number(type_):
        return TextNumber
    plain = unwrap(type_)
    if _is_object(plain):
        return _page_class(plain)
    inner = tuple(_inner(plain))
    given = tuple(page_type(each) for each in inner)
    if given == inner:
        return type_
    if _is_union(plain):
        return reduce(operator.or_, given)
    return types.GenericAlias(typing.get_origin(plain), given)


def is_text_number(type_: Any) -> bool:
    """Whether a type is a number, or a number or None, in Python and text in JSON."""
    while typing.get_origin(type_) in _QUALIFIERS:
        (type_,) = typing.get_args(type_)
    plain = unwrap(type_)
    members = typing.get_args(plain) if _is_union(plain) else (plain,)
    numbers = [member for member in map(unwrap, members) if member is not type(None)]
    if not numbers or not all(_is_number_type(each) for each in numbers):
        return False
    if not any(issubclass(each, Decimal) for each in numbers) and type_ is plain:
        return False  # without an annotation, an int or a float is a number in JSON
    try:
        schema = TypeAdapter(type_).json_schema(mode="serialization")
    except PydanticUserError:
        return False
    kinds = {each.get("type") for each in schema.get("anyOf", [schema])}
    return kinds - {"null"} == {"string"}


def _is_union(type_: Any) -> bool:
    return typing.get_origin(type_) in (Union, types.UnionType)


def _is_number_type(type_: Any) -> bool:
    return isinstance(type_, type) and (
        issubclass(type_, int | float | Decimal) and not issubclass(type_, bool | Enum)
    )


def _is_object(type_: Any) -> bool:
    return isinstance(type_, type) and (
        issubclass(type_, BaseModel)
        or dataclasses.is_dataclass(type_)
        or hasattr(type_, "__required_keys__")
    )


def _has_text_numbers(type_: Any, seen: set[Any]) -> bool:
    if is_text_number(type_):
        return True
    plain = unwrap(type_)
    if _is_object(plain):
        if plain in seen:
            return False
        seen.add(plain)
    return any(_has_text_numbers(each, seen) for each in _inner(plain))


def _inner(type_: Any) -> Iterator[Any]:
    plain = unwrap(type_)
    if _is_object(plain):
        yield from _fields(plain).values()
    elif typing.get_origin(plain) is not typing.Literal:
        yield from typing.get_args(plain)


def _fields(class_: Any) -> Mapping[str, Any]:
    """Return the types of a class's fields by name, with their annotations."""
    if issubclass(class_, BaseModel):
        fields = {
            name: Annotated[(field.annotation, *field.metadata)]
            if field.metadata
            else field.annotation
            for name, field in class_.model_fields.items()
        }
        computed = class_.model_computed_fields.items()
        return fields | {name: field.return_type for name, field in computed}
    try:
        return typing.get_type_hints(class_, include_extras=True)
    except NameError:  # a name is imported under TYPE_CHECKING only
        return {}


def is_scalar(type_: Any) -> bool:
    """Whether a type is known to be text, a number, a boolean or None."""
    plain = unwrap(type_)
    members = typing.get_args(plain) if _is_union(plain) else (plain,)
    return all(unwrap(each) in (*_WITHOUT_FIELDS, types.NoneType) for each in members)


def field_names(type_: Any) -> frozenset[str] | None:
    """Return the names of a type's fields in JSON.

    Returns:
        Names and aliases; empty for a type without fields, such as text; None if the names are
        unknown, as for a dict.
    """
    plain = unwrap(type_)
    if _is_union(plain):
        members = [each for each in typing.get_args(plain) if each is not types.NoneType]
        names = [field_names(member) for member in members]
        return None if None in names else frozenset().union(*filter(None, names))
    if not _is_object(plain):
        return frozenset() if plain in _WITHOUT_FIELDS else None
    if not issubclass(plain, BaseModel):
        return frozenset(_fields(plain)) or None
    if plain.model_config.get("extra") == "allow":
        return None
    fields = plain.model_fields.values()
    aliases = {alias for each in fields for alias in (each.alias, each.serialization_alias)}
    return frozenset(aliases - {None}) | frozenset(_fields(plain))


_WITHOUT_FIELDS = (str, int, float, bool, bytes, Decimal, TextNumber)

_page_classes: dict[Any, Any] = {}  # by class; holds an unfinished one while a class nests itself


def _page_class(class_: Any) -> Any:
    if class_ not in _page_classes:
        if not _has_text_numbers(class_, set()):
            return _page_classes.setdefault(class_, class_)
        name = class_.__name__
        made: Any = (
            TypedDict(name, {})  # type: ignore[operator]
            if hasattr(class_, "__required_keys__")
            else dataclasses.make_dataclass(name, ())
        )
        _page_classes[class_] = made
        fields = _fields(class_).items()
        made.__annotations__ = {name: unwrap(page_type(hint)) for name, hint in fields}
    return _page_classes[class_]


# ---- values ----


def to_exact_json(value: Any, name: str) -> Any:
    """Return a value as a page can send it without rounding: Decimals as text.

    Args:
        value: A JSON-serializable value, which may contain Vars.
        name: Name of the value in the error message.

    Raises:
        InvalidValue: it contains a whole number that JavaScript would round.
    """
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise InvalidValue(
            f"{name} holds {value}; a page knows whole numbers up to {MAX_INTEGER} exactly: give "
            "it as text"
        )
    if isinstance(value, BaseModel):
        return to_exact_json(value.model_dump(mode="json"), name)
    if isinstance(value, Mapping):
        return {key: to_exact_json(member, name) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [to_exact_json(item, name) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Var):
        keys = [field.name for field in dataclasses.fields(value)]
        return {key: to_exact_json(getattr(value, key), name) for key in keys}
    return value
