"""Rows of a chart from a stream's values."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
import reflex as rx
from reflex.vars import Var
from typing_extensions import TypedDict

from gateway.errors import InvalidValue
from gateway.sdk.definitions import StreamDefinition
from gateway.ui import use_realtime_stream
from tests.support.clients.npm import tool


@dataclass
class Sale:
    shop: str
    count: int
    price: Decimal


def stream_of(type_: Any) -> Any:
    return use_realtime_stream("run_a", StreamDefinition("sales", type_))


def evaluated(rows: Var[Any], values: list[Any]) -> Any:
    """Evaluate rows in Node for a stream that has these values."""
    records = [{"offset": i, "time_ms": 1000 + i, "data": one} for i, one in enumerate(values)]
    name = str(rows).replace("(", " ").replace(".", " ").split()
    (hook,) = {word for word in name if word.startswith("realtime_")}
    script = (
        f"const records = {json.dumps(records)}, data = records.map((one) => one.data);"
        f"const {hook} = {{records, data, last: (n) => data.slice(data.length - n)}};"
        f"console.log(JSON.stringify({rows!s}))"
    )
    done = subprocess.run([tool("node"), "--eval", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SALES = [
    {"shop": "a", "count": 1, "price": "1.5"},
    {"shop": "b", "count": 2, "price": None},
    {"shop": "c", "count": 3, "price": "3"},
]


def test_rows_have_numbers_for_text_numbers() -> None:
    sales = stream_of(Sale)
    rows = [{**one, "price": one["price"] and float(one["price"])} for one in SALES]
    assert evaluated(sales.rows(), SALES) == rows
    assert evaluated(sales.rows(last=2), SALES) == rows[1:]


def test_rows_allow_none_and_any_field_name() -> None:
    names: dict[str, Any] = {"unit-price": Decimal, 'the "old" one': Decimal}
    priced = TypedDict("priced", names)  # type: ignore[misc]
    values = [{"unit-price": "1.5", 'the "old" one': "2"}, None]
    rows = evaluated(stream_of(priced | None).rows(), values)
    assert rows == [{"unit-price": 1.5, 'the "old" one': 2}, {}]


@pytest.mark.parametrize(
    ("type_", "values", "charted"),
    [(float, [1.5, 2.5], [1.5, 2.5]), (Decimal, ["1.5", "2"], [1.5, 2]), (int | None, [1], [1])],
)
def test_values_without_fields_become_rows(type_: Any, values: Any, charted: Any) -> None:
    rows = [{"offset": i, "time_ms": 1000 + i, "value": value} for i, value in enumerate(charted)]
    assert evaluated(stream_of(type_).rows(), values) == rows
    assert evaluated(stream_of(type_).rows(last=1), values) == rows[-1:]
    assert evaluated(stream_of(type_).rows(last=9), values) == rows
    assert evaluated(stream_of(type_).rows(last=0), values) == []


@pytest.mark.parametrize("type_", [Sale, float, dict[str, int], Any, Sale | None])
def test_chart_accepts_rows_as_data(type_: Any) -> None:
    for rows in (stream_of(type_).rows(), stream_of(type_).rows(last=100)):
        chart = rx.recharts.line_chart(rx.recharts.line(data_key="count"), data=rows)
        assert str(rows) in str(chart.render())


def test_rows_rejects_invalid_count() -> None:
    with pytest.raises(InvalidValue, match="last"):
        stream_of(Sale).rows(last=-1)
