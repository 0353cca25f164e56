"""What a type accepts is read back equal; what cannot be is refused, and the field is named."""

import datetime as dt
import decimal
import json
import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import pytest
from pydantic import (
    BaseModel,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SecretStr,
)

from gateway import streams
from gateway.errors import InvalidValue
from gateway.sdk.values.encoding import Values
from gateway.sdk.values.equality import unwritable
from tests.support.sdk.values import (
    NAN,
    Aliased,
    Animal,
    Anything,
    Box,
    ById,
    ByTag,
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
    deep,
)


class AllHidden(BaseModel):
    name: str
    note: str = Field(exclude=True)


class Cached(BaseModel):
    number: int
    _cache: object = PrivateAttr(default_factory=object)


class Vector:
    """Neither a model nor a dataclass, and equal to itself alone."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)


AnyVector = Annotated[
    Vector,
    PlainValidator(lambda value: value if isinstance(value, Vector) else Vector(*value)),
    PlainSerializer(lambda value: value.numbers),
]


def read_back(type_: Any, value: Any, **options: Any) -> Any:
    values = Values[Any](type_, "stream 'x'", **options)
    return values.decode(values.encode(value))


def test_an_instance_whose_field_has_a_wrong_type_is_refused():
    for type_, value, where in (
        (Progress, Progress("one"), "current: .*'one'"),
        (Progress, Progress("1"), "current: '1' would be read back as 1"),
        (Progress, Progress(1, 3, ["a", "b"]), r"item: .*\['a', 'b'\]"),
        (list[Progress], [Progress(1), Progress("one")], r"1\.current: .*'one'"),
        (dict[str, Progress], {"k": Progress("one")}, r"k\.current: .*'one'"),
        (Progress | None, Progress("one"), "current: .*'one'"),
        (Sequence[Progress], (Progress("one"),), r"0\.current: .*'one'"),
        (Box[Progress], Box[Progress](content=Progress("one")), r"content\.current: .*'one'"),
        (Animal, Dog.model_construct(kind="dog", name=3), r"dog\.name: .*3"),
        (ByTag, Dog.model_construct(kind="dog", name=3), r"dog\.name: .*3"),
        (Options, {"first": 1, "step": Progress("one")}, r"step\.current: .*'one'"),
        (Pair, Pair("one"), ".*'one'"),
    ):
        with pytest.raises(InvalidValue, match=f"^stream 'x': {where}"):
            Values[Any](type_, "stream 'x'").encode(value)


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
def test_a_number_that_json_does_not_have_never_becomes_null(value):
    for type_, holder, where in (
        (float | None, value, "the value"),
        (Progress, Progress(1, loss=value), "loss"),
        (ById, ById(1, value), "loss"),
        (list[float | None], [None, value], "1"),
        (Any, value, "the value"),
        (Any, [[Progress(1, loss=value)]], r"0\.0\.loss"),
        (Any, deque([1, value]), "1"),
        (dict, {"a": {"b": value}}, r"a\.b"),
        (Anything, Anything(value={"a": (1, value)}), r"value\.a\.1"),
        (Anything, Anything(number=value), "number"),
        (Tree, Tree(below=[Tree(about=[value])]), r"below\.0\.about\.0"),
        (Loose, Loose(number=1, other=value), "other"),
        (JsonValue, {"a": [value]}, r"a\.0"),
    ):
        with pytest.raises(InvalidValue, match=rf"{where}: .* JSON has no NaN and no infinity"):
            read_back(type_, holder)
    with pytest.raises(InvalidValue):
        read_back(NotANumber, NotANumber(loss=value))
    with pytest.raises(InvalidValue):
        read_back(dict[str, float], {"loss": value})


def test_encode_rejects_lossy_value_and_names_the_loss():
    for type_, value, why in (
        (Progress, Longer(1), "Longer would become Progress"),
        (Hidden, Hidden(name="a", note="b"), "note: 'b' would be read back as None"),
        (AllHidden, AllHidden(name="a", note="b"), "note: Field required"),
        (Login, Login(password="p"), "password: .*the stars of a secret only"),
        (Any, {"login": SecretStr("p")}, "login: .*the stars of a secret only"),
        (Text, Text(numbers="[1]"), "numbers: JSON input should be string"),
        (OneWay, OneWay(number=1), "number: Field required"),
        (Counting, Counting(number=1), "number: 2 would be read back as 3"),
        (dict[tuple[int, int], str], {(1, 2): "a"}, r"1,2\.\[key\]: Input should be"),
        (Any, {1: "a", "1": "b"}, r"\{1: 'a', '1': 'b'\} would be read back as \{'1': 'b'\}"),
        (Any, (number for number in [1]), "generator would become list"),
        (Iterable[int], iter([1, "two"]), "Input should be a valid integer"),
        (Progress, Progress(1, item=dt.date(2026, 1, 1)), "item: .* would be read back as '2026"),
        (Anything, Anything.model_construct(number=1, at=dt.date(2026, 1, 1)), "at: .*date"),
        (dt.timedelta | str, object(), "Input should be"),
        (
            str,
            "half \ud83d",
            r"the value: 'half \\ud83d' has half of a surrogate pair: .*not allowed",
        ),
        (Any, {"a": [1, ("b", "\ud83d")]}, r"a\.1\.1: '\\ud83d' has half of a surrogate pair"),
        (list[Progress], [Progress(1, item="\udc00")], r"0\.item: .* has half of a surrogate pair"),
        (float, NAN, "the value: nan would be read back as None: JSON has no NaN"),
        (list[float], [1.0, math.inf], "1: inf would be read back as None: JSON has no NaN"),
        (
            Any,
            {"a": {(1, 2): 3}},
            r"a: \{\(1, 2\): 3\} would be read back .* keys in JSON are texts",
        ),
        (Any, {"a": [1, object()]}, r"a\.1: <object .* has no JSON: Unable to serialize"),
        (list[bytes], [b"a", b"\xff"], r"1: b'\\xff' has no JSON: .*invalid utf-8"),
        (Any, {"a": {b"\xff": 1}}, r"a: the key b'\\xff' has no JSON"),
        (Any, {"a": [10**5000]}, r"a\.0: a whole number of 16610 bits is beyond 2\*\*53"),
        (list[int], [1, 10**5000], r"1: a whole number of 16610 bits is beyond 2\*\*53"),
        (Any, deep(230), "recursion limit exceeded"),
        (Any, deep(5000), "Maximum serialization depth exceeded"),
    ):
        with pytest.raises(InvalidValue, match=why) as refused:
            read_back(type_, value)
        assert len(refused.value.message) < 1000


def test_search_for_what_has_no_json_ends_in_values_that_share_parts():
    shared = [1]
    for _ in range(60):
        shared = [shared, shared]  # 2**60 paths
    cycle: list[Any] = []
    cycle.append(cycle)
    assert unwritable([shared, cycle, "\ud83d"]) == r"2: '\ud83d' has half of a surrogate pair"


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**64, 10**30])
def test_an_integer_that_pages_would_round_is_refused_unless_it_is_text(value):
    for type_, holder, where in (
        (int, value, "the value"),
        (Any, value, "the value"),
        (list[int], [1, value], "1"),
        (dict[str, Any], {"a": [{"id": value}]}, r"a\.0\.id"),
        (Progress, Progress(value), "current"),
    ):
        with pytest.raises(InvalidValue, match=rf"{where}: {value} is beyond 2\*\*53 .* as text"):
            read_back(type_, holder)
    assert read_back(LargeInteger, value) == value
    assert read_back(str, str(value)) == str(value)
    assert read_back(Any, f"[{value},{value}]") == f"[{value},{value}]"


def test_numbers_up_to_the_limit_and_floats_are_exact():
    numbers = [2**53, -(2**53), 9007199254740991.0, 1e300, 1.2345678901234567e19, 5e-324]
    assert read_back(list[float], numbers) == numbers
    assert read_back(Any, numbers) == numbers
    assert read_back(list[int], [2**53, -(2**53)]) == [2**53, -(2**53)]


def test_fields_go_by_their_names_or_as_the_model_says_and_are_read_either_way():
    for value, written in (
        (Aliased(userId=5), {"user_id": 5}),
        (WrittenByAlias(userId=5), {"userId": 5}),
        (TwoAliases(x=5), {"a": 5}),
    ):
        stream = streams.define("aliased", type(value))
        data = stream.encode(value)
        assert json.loads(data) == written
        assert set(stream.json_schema()["properties"]) == set(written)
        assert stream.decode(data) == value
    assert streams.define("aliased", Aliased).decode(b'{"userId":5}') == Aliased(userId=5)


def test_an_input_is_written_as_its_schema_says():
    approval = streams.input("aliased-input", Aliased)
    assert approval.encode(Aliased(userId=5)) == b'{"userId":5}'
    assert approval.decode(b'{"userId":5}') == Aliased(userId=5)
    sized = streams.input("computed-input", Computed)
    assert sized.encode(Computed(width=2)) == b'{"width":2}'
    assert read_back(Text, Text(numbers="[1]"), is_input=True) == Text(numbers="[1]")


def test_computed_fields_are_written_and_do_not_hinder_reading():
    stream = streams.define("computed", Computed)
    data = stream.encode(Computed(width=3))
    assert json.loads(data) == {"width": 3, "area": 9}
    assert stream.decode(data) == Computed(width=3)
    with pytest.raises(InvalidValue, match="other: Extra inputs are not permitted"):
        stream.encode({"width": 3, "other": 1})


def test_where_any_json_may_be_a_value_is_what_its_json_is():
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    for value, read in (
        (Progress(1), {"current": 1, "total": 3, "item": "a", "loss": None}),
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
        (moment, "2026-01-01T00:00:00Z"),
        ({"color": Color.RED, "sum": decimal.Decimal("1.50")}, {"color": "red", "sum": "1.50"}),
    ):
        assert read_back(Any, value) == read
        assert read_back(Anything, Anything(value=value)).value == read
        assert read_back(Loose, Loose(number=1, other=value)).other == read
        assert read_back(Tree, Tree(below=[Tree(about=value)])).below[0].about == read


def test_a_value_that_is_equal_in_another_way_is_accepted():
    assert read_back(Progress, Progress(1, loss=2)) == Progress(1, loss=2.0)
    assert read_back(Progress, {"current": "1"}) == Progress(1)
    assert read_back(Sequence[int], (1, 2)) == [1, 2]
    assert list(read_back(Iterable[int], (number for number in (1, 2)))) == [1, 2]
    assert read_back(Cached, Cached(number=1)).number == 1
    assert read_back(ById, ById(1, 2)).loss == 2
    assert read_back(AnyVector, Vector(1, 2.5)).numbers == [1, 2.5]
    with pytest.raises(InvalidValue, match=r"numbers\.0: nan would be read back as None"):
        read_back(AnyVector, Vector(NAN))


Hourly = Annotated[dt.datetime, PlainSerializer(lambda when: when.replace(minute=0).isoformat())]


class FallBack(dt.tzinfo):
    """A zone in the night in which it has an hour twice: `fold` says which one is meant."""

    def utcoffset(self, when):
        return dt.timedelta(hours=1 if when is not None and when.fold else 2)

    def dst(self, when):
        return None


@pytest.mark.parametrize("fold", [0, 1])
def test_a_time_in_the_hour_that_a_zone_has_twice_is_accepted(fold):
    """Python calls such a time unequal to every one of another zone."""
    moment = dt.datetime(2020, 10, 25, 2, 30, fold=fold, tzinfo=FallBack())
    assert read_back(dt.datetime, moment).isoformat() == moment.isoformat()
    assert read_back(list[dt.datetime], [moment])[0].isoformat() == moment.isoformat()
    with pytest.raises(InvalidValue, match="would be read back as"):
        read_back(Hourly, moment)


def test_a_value_that_changes_after_it_was_accepted_is_written_as_it_was():
    value = Progress(1)
    data = (stream := streams.define("changing", Progress)).encode(value)
    value.current = 2
    assert stream.decode(data) == Progress(1)
