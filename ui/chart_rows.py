"""Convert a stream's values to rows of a chart: objects whose fields are numbers and text."""

from __future__ import annotations

import json
from typing import Any, get_args

from reflex_base.utils.types import get_attribute_access_type

from .text_numbers import TextNumber, field_names, is_scalar

Rows = list[dict[str, Any]]


def rows_expression(type_: Any, is_last: bool) -> str:
    """Return the JavaScript expression of the rows; `$` is the hook's result.

    Args:
        type_: The type of the values on the page.
        is_last: Return a function of the number of rows in place of the rows.
    """
    if is_scalar(type_):
        records = "$.records.slice(Math.max(0, $.records.length - count))"
        value = "Number(one.data)" if type_ is TextNumber else "one.data"
        fields = f"{{offset: one.offset, time_ms: one.time_ms, value: {value}}}"
        rows = f"{records if is_last else '$.records'}.map((one) => ({fields}))"
        return f"((count) => {rows})" if is_last else rows
    numbers = _text_numbers(type_)
    if not numbers:
        return "$.last" if is_last else "$.data"
    keys = [json.dumps(name) for name in numbers]  # a key of a TypedDict may be any string
    fields = ", ".join(f"{key}: one?.[{key}] && Number(one[{key}])" for key in keys)
    rows = f"{'$.last(count)' if is_last else '$.data'}.map((one) => ({{...one, {fields}}}))"
    return f"((count) => {rows})" if is_last else rows


def _text_numbers(type_: Any) -> list[str]:
    """Return the fields that are numbers in Python and text in JSON."""
    types = {name: get_attribute_access_type(type_, name) for name in field_names(type_) or ()}
    # If the stream's values may be None, Reflex gives their fields the type `X | None`.
    return sorted(name for name, its in types.items() if TextNumber in (its, *get_args(its)))
