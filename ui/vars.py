"""Typed Vars over what the browser's store knows of a stream or a run."""

from __future__ import annotations

import hashlib
import types
import typing
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, make_dataclass, replace
from decimal import Decimal
from functools import cache, cached_property
from typing import Any, Generic, Literal, cast, overload

from reflex.vars import (
    ArrayVar,
    BooleanVar,
    LiteralVar,
    NumberVar,
    ObjectVar,
    StringVar,
    Var,
    VarData,
)
from reflex_base.utils.imports import ImportVar
from reflex_base.utils.types import get_attribute_access_type
from typing_extensions import TypeVar

from gateway.sdk.assembler import AssembledCall, AssembledFinish, AssembledParts

from .arguments import check
from .chart_rows import Rows, rows_of
from .client import library
from .page_runs import PageRun, TaskTypes, payload_type, run_type
from .refusals import refused, shown, similar
from .text_numbers import (
    TextNumber,
    TextNumberVar,
    digits,
    exact,
    field_names,
    page_type,
    plain_type,
)

T = TypeVar("T")
E = TypeVar("E")
R = TypeVar("R", default=Any)

_WHERE = "use_realtime_stream(…).where"

SubscriptionStatus = Literal["idle", "connecting", "live", "reconnecting", "ended", "error"]


Parts = AssembledParts
"""An AI answer so far, assembled from its parts."""

ToolCall = AssembledCall
"""A tool call of an AI answer and how far it has come."""

Finish = AssembledFinish
"""Why an AI answer is complete, and what it used."""


@dataclass(frozen=True)
class SourceParts:
    """What one run has written into an AI answer.

    Attributes:
        source: The run; None for a client outside any run.
        parts: Its own, assembled.
    """

    source: str | None
    parts: Parts


@dataclass(frozen=True)
class StreamRecord(Generic[T]):
    """A record as the gateway sends it.

    Source:
        PROTOCOL.md, section 5.
    """

    offset: int
    time_ms: int
    source: str | None
    attempt: int | None
    data: T


@dataclass(frozen=True)
class Hook:
    """A call of one of the client's hooks, as one line of JavaScript.

    Attributes:
        function: Name of the hook in `hooks.js`.
        options: What it is called with; plain values and Vars.
        beside: A call that is made wherever this one is, for the sake of its handlers.
    """

    function: str
    options: Mapping[str, Any]
    beside: Hook | None = None

    @cached_property
    def _call(self) -> Var[Any]:
        return LiteralVar.create({"handlerKey": self._digest(self.options), **self.options})

    @staticmethod
    def _digest(options: Mapping[str, Any]) -> str:
        text = str(LiteralVar.create(dict(options)))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @cached_property
    def name(self) -> str:
        """The JavaScript variable that holds the result; the same from build to build."""
        return f"realtime_{hashlib.sha256(self._source.encode()).hexdigest()[:12]}"

    @cached_property
    def _source(self) -> str:
        return f"{self.function}({self._call!s})"

    @cached_property
    def _var_data(self) -> VarData:
        line = f"const {self.name} = {self._source}"
        # Naming what the line reads puts the line below the hooks that provide it.
        own = VarData(
            imports={library(): [ImportVar(tag=self.function)]},
            hooks={line: self._call._get_all_var_data()},
        )
        return own if self.beside is None else VarData.merge(self.beside._var_data, own) or own

    def with_options(self, **options: Any) -> Hook:
        """Make a variant; its handlers still count as the same ones."""
        handler_key = self._digest(self.options)
        return replace(self, options={**self.options, "handlerKey": handler_key, **options})

    def read(self, js: str, type_: Any, *arguments: Any) -> Any:
        """Make a Var of an expression in which `$` stands for the hook's result.

        Args:
            js: The expression.
            type_: Of its value.
            arguments: With any, it is a function that is called with these values and Vars.
        """
        expression = js.replace("$", self.name)
        if arguments:
            given = ", ".join(str(LiteralVar.create(argument)) for argument in arguments)
            expression = f"{expression}({given})"
        return Var(_js_expr=expression, _var_type=type_, _var_data=self._var_data).guess_type()


class Refusable:
    """The Vars of a hook's result that the gateway may refuse."""

    def __init__(self, hook: Hook) -> None:
        self._hook = hook

    @property
    def error(self) -> StringVar[str]:
        """What the gateway said when it refused; "" when it did not.

        Also of a new token, while what is shown goes on with the old one.
        """
        return cast("StringVar[str]", self._hook.read('($.error?.message ?? "")', str))

    @property
    def error_code(self) -> StringVar[str]:
        """The error's code, such as `forbidden` or `token_expired`; "" when there is none."""
        return cast("StringVar[str]", self._hook.read('($.error?.code ?? "")', str))


class Subscribed(Refusable):
    """What subscriptions to a stream, to a run and to a set of runs have in common."""

    def _is(self, status: SubscriptionStatus) -> BooleanVar:
        return cast(BooleanVar, self._hook.read(f'($.status === "{status}")', bool))

    @property
    def status(self) -> StringVar[str]:
        """State of the subscription, one word of `SubscriptionStatus` or the reason of its end.

        `ended` is said of what is completed; otherwise the reason stands in its place: `failed`,
        `canceled`, `crashed`, `expired`, `timed_out` or `deleted`. `is_ended` is true of all.
        """
        is_cut = '($.status === "ended" && $.endReason !== "completed")'
        return cast("StringVar[str]", self._hook.read(f"({is_cut} ? $.endReason : $.status)", str))

    @property
    def is_idle(self) -> BooleanVar:
        """There is no run id or no token yet, or the hook is not enabled."""
        return self._is("idle")

    @property
    def is_connecting(self) -> BooleanVar:
        """Not heard of the gateway yet."""
        return self._is("connecting")

    @property
    def is_live(self) -> BooleanVar:
        """Everything new arrives as it comes."""
        return self._is("live")

    @property
    def is_reconnecting(self) -> BooleanVar:
        """The connection was lost; what is shown may be old, and nothing will be missed."""
        return self._is("reconnecting")

    @property
    def is_ended(self) -> BooleanVar:
        """Nothing will follow; `end_reason` says why."""
        return self._is("ended")

    @property
    def is_error(self) -> BooleanVar:
        """The gateway refused; `error` says why. A fresh token goes on from where it stopped."""
        return self._is("error")

    @property
    def end_reason(self) -> StringVar[str]:
        """`completed`, `failed`, `canceled`, `timed_out`, `deleted`, …; "" before the end."""
        return cast("StringVar[str]", self._hook.read('($.endReason ?? "")', str))


class _Value:
    """A Var whose type follows from that of the stream, or of the task."""

    def __init__(self, js: str) -> None:
        self._js = js

    @overload
    def __get__(self, of: None, owner: type[Any]) -> _Value: ...
    @overload
    def __get__(self, of: _Typed[bool], owner: type[Any]) -> BooleanVar: ...
    @overload
    def __get__(self, of: _Typed[int], owner: type[Any]) -> NumberVar[int]: ...
    @overload
    def __get__(self, of: _Typed[float], owner: type[Any]) -> NumberVar[float]: ...
    @overload
    def __get__(self, of: _Typed[str], owner: type[Any]) -> StringVar[str]: ...
    @overload
    def __get__(self, of: _Typed[Decimal], owner: type[Any]) -> TextNumberVar: ...
    @overload
    def __get__(self, of: _Typed[list[E]], owner: type[Any]) -> ArrayVar[list[E]]: ...
    @overload
    def __get__(self, of: _Typed[T], owner: type[Any]) -> ObjectVar[T]: ...
    def __get__(self, of: Any, owner: type[Any]) -> Any:
        if of is None:
            return self
        warn_of_hidden_fields(of._type)
        return of._hook.read(self._js, _or_none(of._type))


class _Typed(Subscribed, Generic[T]):
    """What is subscribed to, with values of one type."""

    def __init__(self, hook: Hook, type_: Any) -> None:
        super().__init__(hook)
        self._type = plain_type(page_type(type_))


class RealtimeStream(_Typed[T]):
    """A stream as the page sees it. Use its attributes wherever a Var goes.

    Each place of use renders by itself when something new comes; all of them share one
    subscription.
    """

    latest = _Value("$.latest")
    """The last value; None until there is one."""

    def __init__(self, hook: Hook, type_: Any) -> None:
        super().__init__(hook, type_)
        warn_of_hidden_fields(self._type)

    @property
    def data(self) -> ArrayVar[list[T]]:
        """The values, oldest first; at most `max_records` of them."""
        return cast("ArrayVar[list[T]]", self._hook.read("$.data", _list_of(self._type)))

    @property
    def records(self) -> ArrayVar[list[StreamRecord[T]]]:
        """The values with what is known of them.

        `offset`, `time_ms`, `source` (the run that wrote it, if another) and `attempt` (of that
        run; None: the first).
        """
        type_ = _list_of(_record_type(self._type))
        return cast("ArrayVar[list[StreamRecord[T]]]", self._hook.read("$.records", type_))

    @property
    def text(self) -> StringVar[str]:
        """All strings so far, joined; also of records that `max_records` has pushed out."""
        return cast("StringVar[str]", self._hook.read("$.text", str))

    @property
    def count(self) -> NumberVar[int]:
        """How many records came so far."""
        return cast("NumberVar[int]", self._hook.read("$.count", int))

    @property
    def gap_count(self) -> NumberVar[int]:
        """How often records were gone for good before they could be read."""
        return cast("NumberVar[int]", self._hook.read("$.gaps.length", int))

    @property
    def hint(self) -> StringVar[str]:
        """Why there is nothing, if the run has ended without such a stream; otherwise "".

        For instance because the id is misspelt. It is in the browser's console too.
        """
        return cast("StringVar[str]", self._hook.read('($.hint ?? "")', str))

    def last(self, count: int | Var[Any]) -> ArrayVar[list[T]]:
        """The newest values, oldest of them first.

        Args:
            count: At most so many, from 0, and at most `max_records`.

        Raises:
            InvalidValue: `count` is not a whole number from 0.
        """
        check("use_realtime_stream(…).last", {"count": count})
        return cast("ArrayVar[list[T]]", self._hook.read("$.last", _list_of(self._type), count))

    def rows(self, *, last: int | Var[Any] | None = None) -> ArrayVar[list[dict[str, Any]]]:
        """The values as `data` of a chart, oldest first.

            rx.recharts.line_chart(rx.recharts.line(data_key="done"), data=progress.rows(last=100))

        Objects are rows as they are, with numbers in place of numbers that JSON carries as text. A
        value without fields becomes the row `{offset, time_ms, value}`.

        Args:
            last: The newest only, so many; None: all that are kept.

        Raises:
            InvalidValue: `last` is not a whole number from 0.
        """
        if last is None:
            rows = self._hook.read(rows_of(self._type, is_last=False), Rows)
        else:
            check("use_realtime_stream(…).rows", {"last": last})
            rows = self._hook.read(rows_of(self._type, is_last=True), Rows, last)
        return cast("ArrayVar[list[dict[str, Any]]]", rows)

    def where(self, field: str, value: Any) -> ArrayVar[list[T]]:
        """The kept values one of whose fields has a given value, oldest first.

        Args:
            field: Of a stream of objects.
            value: A plain value or a Var: a string, a number, a boolean or None.

        Raises:
            InvalidValue: the stream's records have no such field, or the value is not plain.
        """
        check(_WHERE, {"value": value})
        self._check_field(field)
        if get_attribute_access_type(self._type, field) is TextNumber:
            value = digits(value)
        spec = ["where", field, exact(value, f"where({field!r}, …)")]
        return cast("ArrayVar[list[T]]", self._view(spec, _list_of(self._type)))

    def _check_field(self, field: Any) -> None:
        names = field_names(self._type)
        if not isinstance(field, str):
            raise refused(_WHERE, "field", shown(field), "the name of a field", "Write it as text")
        if names is not None and field not in names:
            allowed = f"a field of the stream's records: {similar(field, names)}"
            raise refused(_WHERE, "field", repr(field), allowed, "Mend the name")

    @property
    def group_by_source(self) -> ObjectVar[dict[str, list[T]]]:
        """The kept values by the id of the run that wrote them; "" for a client outside any."""
        type_ = types.GenericAlias(dict, (str, _list_of(self._type)))
        return cast("ObjectVar[dict[str, list[T]]]", self._view(["by_source"], type_))

    def _view(self, spec: list[Any], type_: Any) -> Any:
        hook = self._hook.with_options(view=spec)
        return hook.read("$.view", type_, spec)

    @property
    def parts(self) -> ObjectVar[Parts]:
        """The AI answer that a stream of parts makes: text, tool calls, sources and so on."""
        hook = self._hook.with_options(parts=True)
        return cast("ObjectVar[Parts]", hook.read("$.parts", Parts))

    @property
    def parts_by_source(self) -> ArrayVar[list[SourceParts]]:
        """The same for each run that writes into the stream, in the order in which they began.

        For sub-agents that append with `target="parent"`: `parts` would mix up their texts.
        """
        hook = self._hook.with_options(partsBySource=True)
        type_ = _list_of(SourceParts)
        return cast("ArrayVar[list[SourceParts]]", hook.read("$.partsBySource", type_))


class RealtimeRun(_Typed[R]):
    """A run as the page sees it.

    `status` is that of the subscription; the run's own is `run.status`.
    """

    output = _Value("($.run?.output ?? null)")
    """What the task returned; None until then. Typed if the hook was given the task."""

    def __init__(self, hook: Hook, task: TaskTypes[R] | None = None) -> None:
        super().__init__(hook, Any if task is None else task.output_type)
        self._payload_type = payload_type(task)

    def _of_run(self, name: str) -> BooleanVar:
        return cast(BooleanVar, self._hook.read(f"($.run?.{name} ?? false)", bool))

    @property
    def run(self) -> ObjectVar[PageRun]:
        """The run as it is now; None until the gateway has answered."""
        type_ = run_type(_or_none(self._payload_type), _or_none(self._type)) | None
        return cast("ObjectVar[PageRun]", self._hook.read("$.run", type_))

    @property
    def payload(self) -> ObjectVar[Any]:
        """What the run was triggered with, by the names of the task's parameters; None without.

        Typed if the hook was given the task.
        """
        warn_of_hidden_fields(self._payload_type)
        type_ = dict[str, Any] if self._payload_type is Any else self._payload_type
        return cast("ObjectVar[Any]", self._hook.read("($.run?.payload ?? null)", type_ | None))

    @property
    def is_queued(self) -> BooleanVar:
        """The run waits for its time or its turn, also between two attempts."""
        return self._of_run("is_queued")

    @property
    def is_executing(self) -> BooleanVar:
        """The run is under way, or waits for something in the middle of it."""
        return self._of_run("is_executing")

    @property
    def is_waiting(self) -> BooleanVar:
        """The run waits, in the middle of it, for time, a token or other runs."""
        return self._of_run("is_waiting")

    @property
    def is_completed(self) -> BooleanVar:
        """The run is over, however it went."""
        return self._of_run("is_completed")

    @property
    def is_success(self) -> BooleanVar:
        """The run is over and gave its output."""
        return self._of_run("is_success")

    @property
    def is_failed(self) -> BooleanVar:
        """The run is over and gave no output, though nobody canceled it."""
        return self._of_run("is_failed")

    @property
    def is_canceled(self) -> BooleanVar:
        """The run was canceled."""
        return self._of_run("is_canceled")


def _list_of(type_: Any) -> Any:
    return types.GenericAlias(list, (type_,))


def _or_none(type_: Any) -> Any:
    return type_ if type_ is Any else type_ | None


@cache
def _record_type(type_: Any) -> type[Any]:
    # Reflex reads the fields' types from a class, and does not fill in a generic one.
    head = [("offset", int), ("time_ms", int), ("source", str | None), ("attempt", int | None)]
    fields = [*head, ("data", type_)]
    return make_dataclass("StreamRecord", fields, frozen=True)


@cache
def warn_of_hidden_fields(type_: Any) -> None:
    """Warn of fields that Var's own methods hide, once a type.

    Args:
        type_: A dataclass, a Pydantic model, a TypedDict, or a union of such.
    """
    hidden = [name for name in _field_names(type_) if hasattr(ObjectVar, name)]
    if hidden:
        shown = ", ".join(hidden)
        name = getattr(type_, "__name__", str(type_))
        warnings.warn(
            f"{name} has fields that a Var's own methods hide: {shown}. "
            f'Reach them by index: latest["{hidden[0]}"].',
            stacklevel=4,
        )


def _field_names(type_: Any) -> Iterator[str]:
    if isinstance(type_, types.UnionType) or typing.get_origin(type_) is typing.Union:
        for member in typing.get_args(type_):
            yield from _field_names(plain_type(member))
    elif isinstance(type_, type):
        for class_ in type_.__mro__:
            names = vars(class_).get("__annotations__", {})
            yield from (name for name in names if not name.startswith("_"))
