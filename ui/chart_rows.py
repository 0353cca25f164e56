"""A stream's values as rows of a chart: objects whose values are numbers and text."""

from __future__ import annotations

import json
from typing import Any, get_args

from reflex_base.utils.types import get_attribute_access_type

from .text_numbers import TextNumber, field_names, is_without_fields

Rows = list[dict[str, Any]]


def rows_of(type_: Any, is_last: bool) -> str:
    """Return the JavaScript that makes rows of the values of a stream; `$` is the hook's result.

    Args:
        type_: The type of the values on the page.
        is_last: Return a function of the number of values, in place of the rows themselves.
    """
    if is_without_fields(type_):
        records = "$.records.slice(Math.max(0, $.records.length - count))"
        value = "Number(one.data)" if type_ is TextNumber else "one.data"
        fields = f"{{offset: one.offset, time_ms: one.time_ms, value: {value}}}"
        rows = f"{records if is_last else '$.records'}.map((one) => ({fields}))"
        return f"((count) => {rows})" if is_last else rows
    numbers = _text_numbers(type_)
    if not numbers:
        return "$.last" if is_last else "$.data"
    keys = [json.dumps(name) for name in numbers]  # a key of a TypedDict may be any text
    fields = ", ".join(f"{key}: one?.[{key}] && Number(one[{key}])" for key in keys)
    rows = f"{'$.last(count)' if is_last else '$.data'}.map((one) => ({{...one, {fields}}}))"
    return f"((count) => {rows})" if is_last else rows


def _text_numbers(type_: Any) -> list[str]:
    """Return the fields that are numbers in Python and text in JSON."""
    types = {name: get_attribute_access_type(type_, name) for name in field_names(type_) or ()}
    # In a stream whose values may be None, the fields may be None too.
    return sorted(name for name, its in types.items() if TextNumber in (its, *get_args(its)))
