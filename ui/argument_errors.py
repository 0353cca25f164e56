"""Error messages for wrong arguments."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from reflex.vars import Var
from reflex_base.constants.state import FIELD_MARKER

from gateway.errors import InvalidValue
from gateway.sdk.definitions import StreamDefinition


def argument_error(hook: str, argument: str, value: str, allowed: str, remedy: str) -> InvalidValue:
    """Make the error of a wrong argument."""
    return InvalidValue(f"{hook}: {argument} is {value}; it must be {allowed}. {remedy}.")


def format_value(value: Any, *, secret: bool = False) -> str:
    """Format a value for an error message."""
    if isinstance(value, Var):
        name = str(value).rpartition(".")[2].removesuffix(FIELD_MARKER)
        return f"the Var {name:.60} of type {getattr(value._var_type, '__name__', value._var_type)}"
    if isinstance(value, StreamDefinition):
        return f"the stream {value.id!r}"
    if secret:
        return f"a value of type {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}… ({len(text)} characters)"


def closest_first(name: object, known: Iterable[str]) -> str:
    """Format the known names for an error message, the most similar one first."""
    names = sorted(known)
    meant = difflib.get_close_matches(str(name), names, n=1)
    return ", ".join([*meant, *(each for each in names if each not in meant)]) or "none"


def as_json(value: Any) -> bytes | None:
    """Return a value as JSON; None if it contains a Var, whose value only the browser knows."""
    try:
        return json.dumps(value).encode()
    except (TypeError, ValueError):  # a Var, or a type with a serializer in Reflex
        return None


def check_keys(hook: str, given: Mapping[Any, Any], known: Iterable[str]) -> None:
    """Reject an unknown key.

    Raises:
        InvalidValue: names the key and the known ones.
    """
    names = set(known)
    for key in given:
        if not isinstance(key, Var) and key not in names:
            allowed = f"any of {closest_first(key, names)}"
            raise argument_error(hook, "a key of the value", repr(key), allowed, "Mend the name")
