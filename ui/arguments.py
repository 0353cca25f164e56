"""Check the arguments of hooks when the page is built.

Without these checks a wrong argument would have an effect in the browser only: an error of the
gateway, or a page that stays empty.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple

from reflex.vars import Var

from gateway.errors import InvalidId
from gateway.model.records import check_run_id, check_stream_id
from gateway.sdk.definitions import StreamDefinition

from .argument_errors import argument_error, format_value
from .foreach_guard import reject_loop_variable
from .text_numbers import unwrap

RUN_FIELDS = ("payload", "output", "metadata")  # fields that a hook can leave out
RUN_LOGS = ("$run", "$streams")  # streams that the gateway writes: PROTOCOL.md 4
MAX_THROTTLE_MS = 60_000  # the limits of `subscribe`: PROTOCOL.md 4
MAX_RUNS = 1_000
MAX_TAGS = 20


def check_arguments(hook: str, arguments: Mapping[str, Any], **rules: str) -> None:
    """Check arguments by their names; an argument without a rule is not checked.

    Args:
        hook: The name of the called function, for the message.
        arguments: Its arguments by name: its `locals()`, called in the function's first line.
        rules: By argument, the name of its rule if it is not the argument's own name.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: names the hook, the argument, its value, the allowed values and the remedy.
    """
    for argument, value in arguments.items():
        name = rules.get(argument, argument)
        rule = _RULES.get(name)
        if rule is None:
            continue
        if isinstance(value, Var):
            reject_loop_variable(argument, value)
        if not rule.allows(value):
            is_swapped = name == "run_id" and _is_stream(value, arguments.get("stream"))
            remedy = f"Write {hook}(run_id, stream, …)" if is_swapped else rule.remedy
            secret = name == "access_token"
            shown = format_value(value, secret=secret)
            raise argument_error(hook, argument, shown, rule.allowed, remedy)


def var_may_be(var: Var[Any], *kinds: type) -> bool:
    """Whether a Var's type allows a value of one of these types."""
    members = typing.get_args(var._var_type) if _is_union(var._var_type) else (var._var_type,)
    known = [unwrap(member) for member in members if member is not types.NoneType]
    return not known or any(_may_be(member, kinds) for member in known)


def _is_union(type_: Any) -> bool:
    return typing.get_origin(type_) in (typing.Union, types.UnionType)


def _may_be(type_: Any, kinds: tuple[type, ...]) -> bool:
    if typing.get_origin(type_) is typing.Literal:
        return any(isinstance(value, kinds) for value in typing.get_args(type_))
    class_ = typing.get_origin(type_) or type_
    if class_ is Any or not isinstance(class_, type):
        return True  # the type is unknown, for instance a type variable
    return issubclass(class_, kinds) and not (class_ is bool and bool not in kinds)


# ---- the rules ----


class Rule(NamedTuple):
    """The rule for an argument.

    Attributes:
        allows: Returns whether a value is allowed.
        allowed: The allowed values in words, for the message.
        remedy: How to correct the call, for the message.
    """

    allows: Callable[[Any], bool]
    allowed: str
    remedy: str


def _is_id(value: Any, check_id: Callable[[str], str]) -> bool:
    try:
        check_id(value)
    except InvalidId:
        return False
    return True


def _is_run_id(value: Any) -> bool:
    return isinstance(value, str) and _is_id(value, check_run_id)


def _is_stream_id(value: Any) -> bool:
    return isinstance(value, str) and (value in RUN_LOGS or _is_id(value, check_stream_id))


# Whether a run id and a stream are swapped.
def _is_stream(run_id: Any, stream: Any) -> bool:
    if isinstance(run_id, StreamDefinition):
        return True
    is_run = isinstance(stream, Var) or _is_run_id(stream)
    return isinstance(run_id, str) and _is_stream_id(run_id) and is_run


def _text(value: Any) -> bool:
    return var_may_be(value, str) if isinstance(value, Var) else isinstance(value, str)


def _text_or_none(value: Any) -> bool:
    return value is None or _text(value)


def _run_id(value: Any) -> bool:
    if isinstance(value, Var):
        return var_may_be(value, str)
    return value is None or value == "" or _is_run_id(value)


def _number(low: int, high: float = float("inf")) -> Callable[[Any], bool]:
    def allows(value: Any) -> bool:
        if isinstance(value, Var):
            return var_may_be(value, int, float)
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return allows


_from_0, _from_1 = _number(0), _number(1)


def _stream(value: Any) -> bool:
    if isinstance(value, Var):
        return var_may_be(value, str)
    return isinstance(value, StreamDefinition) or _is_stream_id(value)


def _start(value: Any) -> bool:
    if isinstance(value, Var):
        return var_may_be(value, str, Mapping)
    if not isinstance(value, Mapping):
        return value in ("beginning", "latest")
    match dict(value):
        case {"last": last, **more} if not more:
            return _from_1(last)
        case {"position": position, **more} if not more:
            return _text(position)
    return False


def _attempt(value: Any) -> bool:
    if isinstance(value, Var):
        return var_may_be(value, int, str)
    return value is None or value == "latest" or _from_1(value)


def _skip(value: Any) -> bool:
    is_list = isinstance(value, Sequence | set | frozenset) and not isinstance(value, str)
    return is_list and all(isinstance(each, str) and each in RUN_FIELDS for each in value)


def _tag(value: Any) -> bool:
    if isinstance(value, Var):
        return var_may_be(value, str, Sequence, set)
    if isinstance(value, str):
        return True
    return isinstance(value, Sequence) and len(value) <= MAX_TAGS and all(map(_text, value))


def _streams(value: Any) -> bool:
    if value is None:
        return True
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return is_list and all(isinstance(each, StreamDefinition) for each in value)


def _task(value: Any) -> bool:
    if isinstance(value, StreamDefinition | Var):
        return False
    return _is_stream_id(value) or _is_stream_id(getattr(value, "id", None))


def _literal(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | Decimal | Enum | Var)


_TEXT = "a text, a Var of one, or None"

_RULES: Mapping[str, Rule] = {
    "run_id": Rule(
        _run_id,
        "a run's id (run_ and 1 to 60 letters and digits), a Var of one, or None",
        "Give the `id` of what `trigger` returned",
    ),
    "batch_id": Rule(_text_or_none, _TEXT, "Give the batch's id"),
    "stream": Rule(
        _stream,
        "a definition from `streams.define`, a stream's id (1 to 64 of A-Z a-z 0-9 - _ .) or a Var "
        "of one",
        "Give the definition that the task appends to",
    ),
    "task_types": Rule(
        lambda value: value is None or hasattr(value, "output_type"),
        "a function with `@task`, or None",
        "Give the task, not its id",
    ),
    "definition": Rule(
        lambda value: isinstance(value, StreamDefinition),
        "a definition from `streams.define` or `streams.input`",
        "Give the definition, not its id",
    ),
    "streams": Rule(
        _streams,
        "a list of definitions from `streams.define`, or None for all",
        "Give [definition, …]",
    ),
    "access_token": Rule(_text_or_none, _TEXT, "Mint one with `tokens.mint` in an event handler"),
    "throttle_ms": Rule(
        _number(0, MAX_THROTTLE_MS),
        f"a whole number of milliseconds from 0 to {MAX_THROTTLE_MS:_}, or a Var of one",
        "Leave it out for 50",
    ),
    "start": Rule(
        _start,
        '"beginning", "latest", {"last": n} with n from 1, or {"position": "…"}',
        'Leave it out for "beginning"',
    ),
    "attempt": Rule(
        _attempt, 'a whole number from 1, "latest" or None', "Leave it out for all attempts"
    ),
    "max_records": Rule(
        lambda value: value is None or _from_0(value),
        "a whole number from 0, a Var of one, or None for all",
        "Leave it out for 1000",
    ),
    "enabled": Rule(
        lambda value: isinstance(value, bool | Var), "True, False or a Var", "Leave it out for True"
    ),
    "skip": Rule(
        _skip,
        f"a list of fields, any of {', '.join(RUN_FIELDS)}; a Var is not possible",
        "Write the names, such as skip=['payload']",
    ),
    "gateway_url": Rule(
        _text_or_none, _TEXT, "Give the gateway's address, or its path on the app's backend"
    ),
    "limit": Rule(
        _number(1, MAX_RUNS),
        f"a whole number from 1 to {MAX_RUNS:_}, or a Var of one",
        "Leave it out for 50",
    ),
    "tag": Rule(
        _tag,
        f"a tag, a list of up to {MAX_TAGS} tags, or a Var of one or of a list",
        "Give the tags that the runs were triggered with",
    ),
    "task": Rule(
        _task,
        "a function with `@task`, or a task's id",
        "Decorate the function with `@task`, and give it without calling it",
    ),
    "count": Rule(_from_0, "a whole number from 0, or a Var of one", "Give how many values"),
    "last": Rule(_from_0, "a whole number from 0, or a Var of one", "Give how many values"),
    "value": Rule(
        _literal,
        "a text, a number, a boolean, None, or a Var of one",
        "Compare a field that holds a plain value",
    ),
}
