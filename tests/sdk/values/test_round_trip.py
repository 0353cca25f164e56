"""A value of any type is read back equal, or refused."""

import datetime as dt
import decimal
import json
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    SecretStr,
    field_serializer,
)

from gateway.errors import InvalidValue
from gateway.sdk.values.encoding import Values
from tests.support.sdk.values import (
    Aliased,
    Animal,
    Anything,
    Box,
    ById,
    ByTag,
    Cat,
    Color,
    Computed,
    Counting,
    Dog,
    Hidden,
    LargeInteger,
    Login,
    Longer,
    Loose,
    NotANumber,
    OneWay,
    Options,
    Pair,
    Progress,
    Text,
    Tree,
    TwoAliases,
    WrittenByAlias,
)


@dataclass
class Started:
    number: int
    total: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.total = self.number + 1


class OpenLogin(Login):
    @field_serializer("password", when_used="json")
    def show(self, value: SecretStr) -> str:
        return value.get_secret_value()


_text = st.text()
_int = st.integers() | st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1])
_float = st.floats()
_junk = st.none() | st.booleans() | _int | _float | _text | st.binary(max_size=8)
_junk |= st.datetimes() | st.decimals() | st.just(Progress(1)) | st.lists(st.none(), max_size=2)
_any = st.recursive(
    _junk,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(_text | st.integers(), inner, max_size=3)
        | st.builds(Progress, inner, inner, inner, inner)
    ),
    max_leaves=6,
)


def _with_junk(made: Any, *fields: Any) -> Any:
    """Build a class from parts, each of which may be anything."""
    return st.builds(made, *(st.one_of(one, _junk) for one in fields))


_progress = _with_junk(Progress, _int, _int, _text, st.none() | _float)
_aliased = st.builds(lambda value: Aliased.model_construct(user_id=value), _int | _junk)
_anything = st.builds(
    lambda value, number, at: Anything.model_construct(value=value, number=number, at=at),
    _any,
    st.none() | _float | _junk,
    st.datetimes() | _text | _junk,
)
_trees = st.recursive(
    st.builds(Tree, label=_text, about=_any),
    lambda inner: st.builds(Tree, label=_text, about=_any, below=st.lists(inner, max_size=2)),
    max_leaves=3,
)
_ANY_INSIDE: set[Any] = {Any, Anything, Tree, Loose}
CASES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, _text | st.text(st.characters())),
    (int, _int),
    (float, _float),
    (bytes, st.binary()),
    (list[float | None], st.lists(st.none() | _float)),
    (dict[str, int], st.dictionaries(_text, _int)),
    (dict[int, bool], st.dictionaries(_int, st.booleans())),
    (dict[float, str], st.dictionaries(_float, _text)),
    (dict[tuple[int, int], int], st.dictionaries(st.tuples(_int, _int), _int, max_size=2)),
    (set[int], st.sets(_int)),
    (frozenset[str], st.frozensets(_text)),
    (tuple[int, str], st.tuples(_int, _text)),
    (deque[int], st.builds(deque, st.lists(_int))),
    (Mapping[str, float], st.dictionaries(_text, _float)),
    (dt.datetime, st.datetimes(timezones=st.none() | st.timezones())),
    (dt.timedelta, st.timedeltas()),
    (dt.date | dt.time, st.dates() | st.times()),
    (decimal.Decimal, st.decimals()),
    (uuid.UUID, st.uuids()),
    (int | str, _int | _text),
    (int | float | bool | None, _junk),
    (dt.datetime | str, st.datetimes() | _text),
    (bytes | str, st.binary() | _text),
    (decimal.Decimal | float | int, st.decimals() | _float | _int),
    (Color, st.sampled_from(Color)),
    (Color | str, st.sampled_from(Color) | _text),
    (complex, st.complex_numbers()),
    (Progress, _progress),
    (Progress, st.builds(Longer, _int)),
    (list[Progress], st.lists(_progress, max_size=3)),
    (ById, _with_junk(ById, _int, st.none() | _float)),
    (Started, st.builds(Started, _int)),
    (Pair, _with_junk(Pair, _int, _text)),
    (Options, st.fixed_dictionaries({"first": _int}, optional={"step": _progress})),
    (Animal, st.builds(Cat, lives=_int) | st.builds(Dog, name=_text)),
    (ByTag, st.builds(Cat, lives=_int) | st.builds(Dog, name=_text)),
    (Cat | Dog | dict[str, Any], st.builds(Cat, lives=_int) | st.builds(Dog, name=_text)),
    (Box[Progress], st.builds(lambda one: Box[Progress].model_construct(content=one), _progress)),
    (Aliased, _aliased),
    (WrittenByAlias, st.builds(WrittenByAlias, userId=_int)),
    (TwoAliases, st.builds(TwoAliases, x=_int)),
    (Computed, st.builds(Computed, width=st.integers(-99, 99))),
    (Hidden, st.builds(Hidden, name=_text, note=st.none() | _text)),
    (Login, st.builds(Login, password=_text)),
    (OpenLogin, st.builds(OpenLogin, password=_text)),
    (Text, st.builds(Text, numbers=st.just("[1, 2]"))),
    (Counting, st.builds(Counting, number=_int)),
    (OneWay, st.builds(OneWay, number=_int)),
    (LargeInteger, _int),
    (NotANumber, st.builds(NotANumber, loss=_float)),
    (Any, _any),
    (Anything, _anything),
    (Tree, _trees),
    (Loose, st.builds(Loose, number=_int, other=_any)),
]


@given(st.data(), st.booleans())
def test_accepted_value_is_read_back_equal(data, is_input):
    type_, made = data.draw(st.sampled_from(CASES))
    value = data.draw(made)
    values = Values[Any](type_, "stream 'x'", is_input=is_input)
    try:
        written = values.encode(value)
    except InvalidValue as refused:
        assert refused.message.startswith("stream 'x': ")
        return
    read = values.decode(written)
    json.loads(written, parse_constant=_no_json, parse_int=_exact_on_a_page)
    if type_ in _ANY_INSIDE:
        read_again = values.decode(values.encode(read))
        assert _is_same(read, read_again)
        assert written == values.encode(read)  # a value and its JSON are written alike
    elif type_ is ById:
        assert (read.number, read.loss) == (value.number, value.loss)
    else:
        # Pydantic makes 1.0 of Decimal(1) and a Progress of a dict; instances stay as they are.
        assert _is_same(read, values.adapter.validate_python(value, by_name=True))


def _is_same(read: Any, value: Any) -> bool:
    is_nan = value != value and repr(read) == repr(value)  # of a complex or a Decimal, as text
    return (read == value or is_nan) and type(read) is type(value)


def _no_json(constant: str) -> None:
    raise AssertionError(f"JSON has no {constant}")


def _exact_on_a_page(digits: str) -> int:
    assert abs(int(digits)) <= 2**53
    return int(digits)
