"""Numbers that JSON carries as text: pages reject arithmetic and keep every digit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NewType, NotRequired

import pytest
import reflex as rx
from pydantic import BaseModel, Field, PlainSerializer, computed_field
from reflex.vars import ArrayVar, NumberVar, ObjectVar, StringVar
from typing_extensions import TypedDict

from gateway.errors import InvalidValue
from gateway.sdk.definitions import StreamDefinition
from gateway.ui import use_input_stream, use_realtime_stream, use_task_trigger
from gateway.ui.text_numbers import TextNumberVar, page_type

BIG = 844197938335842304  # a 64-bit id

TextId = Annotated[int, PlainSerializer(str)]
Price = NewType("Price", Decimal)


@dataclass
class Offer:
    price: Decimal
    fee: Decimal | None
    count: int
    name: str


class Fee(TypedDict):
    amount: Annotated[Decimal, Field(ge=0)]
    note: NotRequired[Decimal]


class Order(BaseModel):
    id: TextId
    seller: TextId | None
    share: Annotated[Decimal, PlainSerializer(float, return_type=float)]
    offers: list[Offer]
    fees: dict[str, Fee]
    pair: tuple[Decimal, int]
    either: Offer | Fee
    parts: list[Order] = []

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> Price:
        return Price(Decimal(1))


@dataclass
class Plain:
    count: int
    size: Annotated[float, Field(gt=0)]


class TextState(rx.State):
    price: float = 1.5
    offers: list[str] = []

    @rx.event
    def got(self, value: Offer) -> None: ...

    @rx.event
    def got_text(self, value: str) -> None: ...


def stream_of(type_: Any, **more: Any) -> Any:
    stream = StreamDefinition[Any]("values", type_)
    return use_realtime_stream("run_x", stream=stream, access_token="t", **more)


def latest_of(type_: Any) -> Any:
    return stream_of(type_).latest


FOUND = {
    "the stream itself": lambda: latest_of(Decimal),
    "a new type": lambda: latest_of(Price),
    "a value of a list": lambda: stream_of(Decimal).data[0],
    "a record's data": lambda: stream_of(Offer).records[0].data.price,
    "the newest": lambda: stream_of(Offer).last(3)[0].price,
    "by source": lambda: stream_of(Offer).group_by_source["run_y"][0].price,
    "a field": lambda: latest_of(Offer).price,
    "an optional field": lambda: latest_of(Offer).fee,
    "an optional stream": lambda: latest_of(Offer | None).price,
    "an integer as text": lambda: latest_of(Order).id,
    "an optional integer as text": lambda: latest_of(Order).seller,
    "a computed field": lambda: latest_of(Order).total,
    "a field of a field in a list": lambda: latest_of(Order).offers[0].price,
    "a field of a typed dict": lambda: latest_of(Order).fees["a"].amount,
    "a key that need not be there": lambda: latest_of(Order).fees["a"]["note"],
    "a member of a tuple": lambda: latest_of(Order).pair[0],
    "of a class that holds itself": lambda: latest_of(Order).parts[0].parts[0].offers[0].price,
    "one of several classes": lambda: latest_of(Offer | Plain).price,
}


@pytest.mark.parametrize("found", FOUND.values(), ids=FOUND.keys())
def test_text_number_is_text_at_any_depth(found: Any) -> None:
    assert isinstance(found(), TextNumberVar)


def test_other_numbers_stay_numbers() -> None:
    order = latest_of(Order)
    for var in (order.share, order.pair[1], order.offers[0].count, latest_of(Plain).size):
        assert isinstance(var, NumberVar)
    assert isinstance(order.offers[0].name, StringVar)
    assert isinstance(order.either, ObjectVar)


@pytest.mark.parametrize(
    "type_", [int, Any, Plain, list[Plain], dict[str, Plain | None], Offer | int]
)
def test_type_without_text_numbers_is_unchanged(type_: Any) -> None:
    assert (page_type(type_) is type_) == (type_ != Offer | int)


CALCULATED = {
    "price + 1": lambda a, b: a + 1,
    "1 + price": lambda a, b: 1 + a,
    "price + fee": lambda a, b: a + b,
    "price - fee": lambda a, b: a - b,
    "10 - price": lambda a, b: 10 - a,
    "price * 2": lambda a, b: a * 2,
    "price / 2": lambda a, b: a / 2,
    "price // 2": lambda a, b: a // 2,
    "price % 2": lambda a, b: a % 2,
    "price ** 2": lambda a, b: a**2,
    "-price": lambda a, b: -a,
    "round(price)": lambda a, b: round(a),
    "price < fee": lambda a, b: a < b,
    "price >= 1": lambda a, b: a >= 1,
    "price == 1.5": lambda a, b: a == 1.5,
    "price != Decimal": lambda a, b: a != Decimal("1.5"),
    "price == a state's number": lambda a, b: a == TextState.price,
}


@pytest.mark.parametrize("calculate", CALCULATED.values(), ids=CALCULATED.keys())
def test_arithmetic_is_rejected_when_page_is_built(calculate: Any) -> None:
    latest = latest_of(Offer)
    with pytest.raises(TypeError, match=r"carries as text .*\.to\(float\)"):
        calculate(latest.price, latest.fee)


def test_arithmetic_in_foreach_is_rejected() -> None:
    offers = stream_of(Offer).data
    assert isinstance(offers, ArrayVar)
    rx.foreach(offers, lambda offer: rx.text(offer.price, " €")).render()
    with pytest.raises(TypeError, match="carries as text"):
        rx.foreach(offers, lambda offer: rx.text(offer.price + 1)).render()
    with pytest.raises(TypeError, match="carries as text"):
        rx.foreach(stream_of(Decimal).data, lambda price: rx.text(price * 2)).render()


def test_page_shows_digits_and_converts_on_request() -> None:
    stream = stream_of(Offer)
    now = stream.latest
    shown = {
        "price": (now.price, "1.50"),
        "price and text": (now.price + " €", "1.50 €"),
        "text and price": ("€ " + now.price, "€ 1.50"),
        "name and price": (now.name + now.price, "x1.50"),
        "formatted": (rx.Var.create(f"{now.price}!"), "1.50!"),
        "the same digits": (now.price == "1.50", True),
        "other digits": (now.price == "1.5", False),
        "not the same digits": (now.price != "1.5", True),
        "converted": (now.price.to(float) + 1, 2.5),
        "converted to a whole number": (now.price.to(int) + 1, 2.5),
        "both": (now.price.to(NumberVar) + now.fee.to(float), 1.75),
        "compared": (now.price.to(float) > 1, True),
    }
    record = StreamDefinition[Offer]("offers", Offer).encode(
        Offer(Decimal("1.50"), Decimal("0.25"), 1, "x")
    )
    assert evaluated(stream, record, [var for var, _ in shown.values()]) == [
        wanted for _, wanted in shown.values()
    ]


def evaluated(stream: Any, latest: bytes, vars: list[Any]) -> Any:
    """Return the values of Vars, evaluated by JavaScript."""
    node = shutil.which("node", path=Path(sys.executable).parent) or shutil.which("node")
    if node is None:
        pytest.skip("no node found: `make setup` installs it into .venv")
    expressions = ", ".join(str(var) for var in vars)
    script = (
        f"const {stream._hook.name} = {{ latest: {latest.decode()} }};"
        f"console.log(JSON.stringify([{expressions}]))"
    )
    done = subprocess.run([node, "-e", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "handler",
    [
        TextState.got,
        lambda value, meta: TextState.got(value),
        lambda v: TextState.got_text(v.price),
    ],
)
def test_handler_receives_value_in_its_type(handler: Any) -> None:
    assert "onRecord" in str(stream_of(Offer, on_record=handler).latest._get_all_var_data().hooks)


def test_handler_with_arithmetic_is_rejected() -> None:
    with pytest.raises(TypeError, match="carries as text"):
        stream_of(Offer, on_record=lambda value: TextState.got_text(value.price + 1))


@pytest.mark.parametrize(
    ("field", "value", "literal"),
    [
        ("price", Decimal("1.50"), '"1.50"'),
        ("price", "1.50", '"1.50"'),
        ("count", 3, "3"),
        ("name", "x", '"x"'),
    ],
)
def test_where_compares_digits(field: str, value: Any, literal: str) -> None:
    assert f'["where", "{field}", {literal}]' in str(stream_of(Offer).where(field, value))


def test_where_compares_digits_of_state_number() -> None:
    assert "JSON.stringify" in str(stream_of(Offer).where("price", TextState.price))


def sends() -> list[Any]:
    approval = use_input_stream("run_x", StreamDefinition[Any]("in", Any), access_token="t")
    return [approval.send, use_task_trigger("t", access_token="t").trigger]


@pytest.mark.parametrize("value", [BIG, -BIG, [BIG], {"a": {"b": BIG}}, Plain(BIG, 1.0)])
def test_integer_beyond_2_53_is_not_sent(value: Any) -> None:
    for send in sends():
        with pytest.raises(InvalidValue, match=rf"holds -?{BIG}; .* up to {2**53} exactly"):
            send({"value": value})
    with pytest.raises(InvalidValue, match=f"where.*holds {BIG}"):
        stream_of(Plain).where("count", BIG)


def test_sent_value_keeps_its_digits() -> None:
    digits = "0.1000000000000000055511151231257827"
    offer = Offer(Decimal(digits), None, 2**53, "x")
    order = {"offers": [offer, Decimal(digits)], "state": TextState.price, "ok": True}
    for send in sends():
        sent = str(send(order))
        assert sent.count(f'"{digits}"') == 2
        assert "9007199254740992" in sent
        assert str(TextState.price) in sent
        assert "true" in sent
