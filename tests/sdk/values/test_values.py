"""What a type accepts is read back equal; what cannot be is refused, and the field is named."""

import datetime as dt
import decimal
import enum
import json
import math
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Json,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    SecretStr,
    Tag,
    computed_field,
    field_serializer,
    model_serializer,
)
from typing_extensions import TypedDict

from gateway import connect, metadata, runs, streams, task, wait
from gateway.errors import InvalidValue
from gateway.integrations import _model_streams, _run_tracking
from gateway.sdk.values.encoding import Values
from gateway.sdk.values.equality import unwritable

NAN = math.nan


@dataclass
class Progress:
    current: int
    total: int = 3
    item: str = "a"
    loss: float | None = None


@dataclass
class Longer(Progress):
    more: int = 1


@dataclass(eq=False)
class ById:
    number: int
    loss: float | None = None


@dataclass
class Started:
    number: int
    total: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.total = self.number + 1


class Aliased(BaseModel):
    user_id: int = Field(alias="userId")


class WrittenByAlias(Aliased):
    model_config = ConfigDict(serialize_by_alias=True)


class TwoAliases(BaseModel):
    a: int = Field(validation_alias=AliasChoices("x", "y"), serialization_alias="z")


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int

    @computed_field
    def area(self) -> int:
        return self.width**2


class Text(BaseModel):
    numbers: Json[list[int]]


class Hidden(BaseModel):
    name: str
    note: str | None = Field(None, exclude=True)


class AllHidden(BaseModel):
    name: str
    note: str = Field(exclude=True)


class Login(BaseModel):
    password: SecretStr


class OpenLogin(Login):
    @field_serializer("password", when_used="json")
    def show(self, value: SecretStr) -> str:
        return value.get_secret_value()


class Cached(BaseModel):
    number: int
    _cache: object = PrivateAttr(default_factory=object)


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")
    number: int


class Anything(BaseModel):
    value: Any = None
    number: float | None = None
    at: dt.datetime | str = ""


class Tree(BaseModel):
    label: str = ""
    about: Any = None
    below: list["Tree"] = []


class Counting(BaseModel):
    number: Annotated[int, AfterValidator(lambda value: value + 1)]


class OneWay(BaseModel):
    number: int

    @model_serializer
    def write(self) -> dict[str, int]:
        return {"other": self.number}


class NotANumber(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    loss: float


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str = ""


class Pair(NamedTuple):
    left: int
    right: str = "x"


class Options(TypedDict):
    first: int
    step: NotRequired[Progress]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


class Vector:
    """Neither a model nor a dataclass, and equal to itself alone."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)


AnyVector = Annotated[
    Vector,
    PlainValidator(lambda value: value if isinstance(value, Vector) else Vector(*value)),
    PlainSerializer(lambda value: value.numbers),
]
Animal = Annotated[Cat | Dog, Field(discriminator="kind")]
ByTag = Annotated[
    Annotated[Cat, Tag("cat")] | Annotated[Dog, Tag("dog")],
    Discriminator(lambda value: value["kind"] if isinstance(value, dict) else value.kind),
]
LargeInteger = Annotated[int, PlainSerializer(str)]


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


def test_what_is_lost_on_the_way_is_refused_and_named():
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
        (Any, _deep(230), "recursion limit exceeded"),
        (Any, _deep(5000), "Maximum serialization depth exceeded"),
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


def _deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


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


# Properties: a value of each type, and the same with a part of another type in it.

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
def test_what_is_accepted_is_read_back_equal(data, is_input):
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


# Everywhere: payloads, outputs, inputs, answers, metadata.


@pytest.fixture
async def runtime():
    async with connect(store="memory:") as made:
        yield made


async def test_a_payload_is_checked_like_a_record(runtime):
    @task
    async def work(step: Progress | None = None, more: Any = None, who: Aliased | None = None): ...

    for payload, where in (
        ({"step": Progress("one")}, "step.current"),
        ({"step": Progress(1, loss=NAN)}, "step.loss: nan"),
        ({"more": {"a": NAN}}, "more.a: nan"),
        ({"more": 2**60}, "more: 1152921504606846976 is beyond"),
    ):
        with pytest.raises(InvalidValue, match=f"^task 'work': {where}"):
            await work.trigger(**payload)
    assert (await work.trigger_and_wait(who=Aliased(userId=5))).ok
    assert len(await runs.list()) == 1


async def test_an_output_is_checked_like_a_record(runtime):
    made: list[Any] = []

    @task
    async def typed() -> Progress | None:
        return made[-1]

    @task
    async def untyped():
        return made[-1]

    for value in (Progress(1, loss=NAN), Progress("one"), Progress(2**60)):
        made.append(value)
        result = await typed.trigger_and_wait()
        assert result.error is not None and result.error.type == "InvalidValue"
        assert result.error.message.startswith("task 'typed': the output: ")
    for value in (NAN, {"a": [NAN]}, Progress(1, loss=NAN), 2**60):
        made.append(value)
        result = await untyped.trigger_and_wait()
        assert result.error is not None and result.error.type == "InvalidValue"
    made.append(Progress(5))
    assert (await typed.trigger_and_wait()).output == Progress(5)


async def test_an_output_keeps_the_forms_that_only_json_mode_reads(runtime):
    class Sent(BaseModel):
        model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", strict=True)
        data: bytes
        at: dt.datetime

    sent = Sent(data=b"\xff\x00", at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))

    @task
    async def give(sent: Sent) -> Sent:
        return sent

    result = await give.trigger_and_wait(sent)
    assert result.ok, result.error
    assert result.output == sent


async def test_an_input_of_an_aliased_model_arrives(runtime):
    approval = streams.input("aliased-approval", Aliased)

    @task
    async def asks() -> int:
        return (await approval.once(timeout_s=10)).user_id

    run = await asks.trigger()
    await approval.send(run.id, Aliased(userId=7))
    assert (await run.wait()).output == 7
    with pytest.raises(InvalidValue, match=r"userId: .*'x'"):
        approval.send(run.id, Aliased.model_construct(user_id="x"))


async def test_an_answer_is_checked_by_its_own_class(runtime):
    @task
    async def asks() -> int:
        token = await wait.create_token(Aliased)
        for answer in (Progress("one"), {"a": NAN}, 2**60):
            with pytest.raises(InvalidValue):
                await wait.complete_token(token.id, answer)
        await wait.complete_token(token.id, Aliased(userId=4))
        return (await wait.for_token(token)).user_id

    result = await asks.trigger_and_wait()
    assert result.ok, result.error
    assert result.output == 4


async def test_metadata_is_checked_like_a_record(runtime):
    @dataclass
    class State:
        step: Progress | None = None
        loss: float | None = None
        when: dt.date | None = None

    state = metadata.typed(State)

    @task
    async def work() -> None:
        for change in (
            lambda: state.set("step", Progress("one")),
            lambda: state.set("loss", NAN),
            lambda: metadata.set("a", {"b": NAN}),
            lambda: metadata.set("a", 2**53 + 1),
            lambda: metadata.set("a", 10**5000),
            lambda: metadata.set("a", _deep(100_000)),
            lambda: metadata.append("a", [Progress(1, loss=NAN)]),
        ):
            with pytest.raises(InvalidValue, match=r"metadata '(step|loss|a)'"):
                change()
        state.set("when", dt.date(2026, 1, 2))
        assert state.current() == State(when=dt.date(2026, 1, 2))

    result = await work.trigger_and_wait()
    assert result.ok, result.error
    for value in (NAN, 2**53 + 1, object()):
        with pytest.raises(InvalidValue, match=r"^metadata: "):
            await work.options(metadata={"a": value}).trigger()
    assert (await runs.retrieve(result.run_id)).metadata == {"when": "2026-01-02"}


def test_numbers_of_a_model_that_a_page_would_round_become_text():
    text = f'{{"id": {2**60}, "more": [{2**53}, 1.5]}}'
    assert _model_streams.parse_json(text) == (True, {"id": str(2**60), "more": [2**53, 1.5]})
    assert _model_streams.to_json({"id": 2**60, "loss": NAN}) == {"id": str(2**60), "loss": "nan"}
    assert isinstance(_model_streams.to_json(_deep(150)), str)
    assert _run_tracking.to_json_value({"id": 2**70, "loss": -math.inf, "n": None}) == {
        "id": str(2**70),
        "loss": "-Infinity",
        "n": None,
    }
