"""Typed Vars that read the state of a stream or a run from the browser's store."""

from __future__ import annotations

import types
from decimal import Decimal
from typing import Any, Generic, cast, overload

from reflex.vars import ArrayVar, BooleanVar, NumberVar, ObjectVar, StringVar, Var
from reflex_base.utils.types import get_attribute_access_type
from typing_extensions import TypeVar

from .argument_errors import argument_error, closest_first, format_value
from .arguments import check_arguments
from .chart_rows import Rows, rows_expression
from .hook_call import HookCall
from .page_models import PageRun, TaskTypes, payload_type, run_type
from .text_numbers import (
    TextNumber,
    TextNumberVar,
    field_names,
    page_type,
    to_digits,
    to_exact_json,
    unwrap,
)
from .var_types import (
    Parts,
    SourceParts,
    StreamRecord,
    SubscriptionStatus,
    list_of,
    optional,
    record_type,
    warn_about_hidden_fields,
)

T = TypeVar("T")
E = TypeVar("E")
R = TypeVar("R", default=Any)

_WHERE = "use_realtime_stream(…).where"


class WithError:
    """Vars of the error of a hook that the gateway can reject."""

    def __init__(self, hook: HookCall) -> None:
        self._hook = hook

    @property
    def error(self) -> StringVar[str]:
        """The message of the gateway's rejection; "" without one.

        A new token that is rejected sets it too; the subscription continues with the old token.
        """
        return cast("StringVar[str]", self._hook.read('($.error?.message ?? "")', str))

    @property
    def error_code(self) -> StringVar[str]:
        """The error's code, such as `forbidden` or `token_expired`; "" without an error."""
        return cast("StringVar[str]", self._hook.read('($.error?.code ?? "")', str))


class SubscriptionVars(WithError):
    """Vars that a stream, a run and a set of runs have in common."""

    def _is(self, status: SubscriptionStatus) -> BooleanVar:
        return cast(BooleanVar, self._hook.read(f'($.status === "{status}")', bool))

    @property
    def status(self) -> StringVar[str]:
        """State of the subscription: a word of `SubscriptionStatus`, or the reason of its end.

        A subscription that ended with `completed` has the status `ended`. Otherwise its status is
        the reason: `failed`, `canceled`, `crashed`, `expired`, `timed_out` or `deleted`. `is_ended`
        is true for all of them.
        """
        is_cut = '($.status === "ended" && $.endReason !== "completed")'
        return cast("StringVar[str]", self._hook.read(f"({is_cut} ? $.endReason : $.status)", str))

    @property
    def is_idle(self) -> BooleanVar:
        """The run id or the token is missing, or the hook is disabled."""
        return self._is("idle")

    @property
    def is_connecting(self) -> BooleanVar:
        """The gateway has not answered yet."""
        return self._is("connecting")

    @property
    def is_live(self) -> BooleanVar:
        """The page receives new records as they are appended."""
        return self._is("live")

    @property
    def is_reconnecting(self) -> BooleanVar:
        """The connection was lost. The page may be stale; the subscription resumes without loss."""
        return self._is("reconnecting")

    @property
    def is_ended(self) -> BooleanVar:
        """No further record will arrive; `end_reason` says why."""
        return self._is("ended")

    @property
    def is_error(self) -> BooleanVar:
        """The gateway rejected the subscription; `error` says why. A fresh token resumes it."""
        return self._is("error")

    @property
    def end_reason(self) -> StringVar[str]:
        """`completed`, `failed`, `canceled`, `timed_out`, `deleted`, …; "" before the end."""
        return cast("StringVar[str]", self._hook.read('($.endReason ?? "")', str))


class _TypedVar:
    """A Var whose type follows from the type of the stream's values, or of the task's output."""

    def __init__(self, js: str) -> None:
        self._js = js

    @overload
    def __get__(self, of: None, owner: type[Any]) -> _TypedVar: ...
    @overload
    def __get__(self, of: _TypedVars[bool], owner: type[Any]) -> BooleanVar: ...
    @overload
    def __get__(self, of: _TypedVars[int], owner: type[Any]) -> NumberVar[int]: ...
    @overload
    def __get__(self, of: _TypedVars[float], owner: type[Any]) -> NumberVar[float]: ...
    @overload
    def __get__(self, of: _TypedVars[str], owner: type[Any]) -> StringVar[str]: ...
    @overload
    def __get__(self, of: _TypedVars[Decimal], owner: type[Any]) -> TextNumberVar: ...
    @overload
    def __get__(self, of: _TypedVars[list[E]], owner: type[Any]) -> ArrayVar[list[E]]: ...
    @overload
    def __get__(self, of: _TypedVars[T], owner: type[Any]) -> ObjectVar[T]: ...
    def __get__(self, of: Any, owner: type[Any]) -> Any:
        if of is None:
            return self
        warn_about_hidden_fields(of._type)
        return of._hook.read(self._js, optional(of._type))


class _TypedVars(SubscriptionVars, Generic[T]):
    """Vars of a subscription whose values have one type."""

    def __init__(self, hook: HookCall, type_: Any) -> None:
        super().__init__(hook)
        self._type = unwrap(page_type(type_))


class RealtimeStream(_TypedVars[T]):
    """A stream on a page. Its attributes are Vars.

    Each component that uses one of them renders separately when a record arrives; all components
    share one subscription.
    """

    latest = _TypedVar("$.latest")
    """The last value; None before the first."""

    def __init__(self, hook: HookCall, type_: Any) -> None:
        super().__init__(hook, type_)
        warn_about_hidden_fields(self._type)

    @property
    def data(self) -> ArrayVar[list[T]]:
        """The newest values, at most `max_records`, oldest first."""
        return cast("ArrayVar[list[T]]", self._hook.read("$.data", list_of(self._type)))

    @property
    def records(self) -> ArrayVar[list[StreamRecord[T]]]:
        """The values with their metadata.

        Each has `offset`, `time_ms`, `source` (the run that wrote it, if it is another run) and
        `attempt` (of that run; None means the first).
        """
        type_ = list_of(record_type(self._type))
        return cast("ArrayVar[list[StreamRecord[T]]]", self._hook.read("$.records", type_))

    @property
    def text(self) -> StringVar[str]:
        """All string values joined, including those beyond `max_records`."""
        return cast("StringVar[str]", self._hook.read("$.text", str))

    @property
    def count(self) -> NumberVar[int]:
        """Number of records received."""
        return cast("NumberVar[int]", self._hook.read("$.count", int))

    @property
    def gap_count(self) -> NumberVar[int]:
        """Number of gaps: positions whose records were deleted before the page could read them."""
        return cast("NumberVar[int]", self._hook.read("$.gaps.length", int))

    @property
    def hint(self) -> StringVar[str]:
        """Why the stream is empty, if the run has ended without writing to it; otherwise "".

        The id may be misspelt, for instance. The browser's console shows the hint too.
        """
        return cast("StringVar[str]", self._hook.read('($.hint ?? "")', str))

    def last(self, count: int | Var[Any]) -> ArrayVar[list[T]]:
        """Return the newest values, oldest first.

        Args:
            count: Number of values, from 0; at most `max_records` are available.

        Raises:
            InvalidValue: `count` is not a whole number from 0.
        """
        check_arguments("use_realtime_stream(…).last", {"count": count})
        return cast("ArrayVar[list[T]]", self._hook.read("$.last", list_of(self._type), count))

    def rows(self, *, last: int | Var[Any] | None = None) -> ArrayVar[list[dict[str, Any]]]:
        """Return the values as `data` of a chart, oldest first.

            rx.recharts.line_chart(rx.recharts.line(data_key="done"), data=progress.rows(last=100))

        An object is a row; its fields that JSON carries as text become numbers. A value without
        fields becomes the row `{offset, time_ms, value}`.

        Args:
            last: Number of values, the newest; None for all that the page has.

        Raises:
            InvalidValue: `last` is not a whole number from 0.
        """
        if last is None:
            rows = self._hook.read(rows_expression(self._type, is_last=False), Rows)
        else:
            check_arguments("use_realtime_stream(…).rows", {"last": last})
            rows = self._hook.read(rows_expression(self._type, is_last=True), Rows, last)
        return cast("ArrayVar[list[dict[str, Any]]]", rows)

    def where(self, field: str, value: Any) -> ArrayVar[list[T]]:
        """Return the values on the page whose field has a given value, oldest first.

        Args:
            field: A field of the stream's objects.
            value: A plain value or a Var: a string, a number, a boolean or None.

        Raises:
            InvalidValue: the stream's records have no such field, or the value is not plain.
        """
        check_arguments(_WHERE, {"value": value})
        self._check_field(field)
        if get_attribute_access_type(self._type, field) is TextNumber:
            value = to_digits(value)
        spec = ["where", field, to_exact_json(value, f"where({field!r}, …)")]
        return cast("ArrayVar[list[T]]", self._view(spec, list_of(self._type)))

    def _check_field(self, field: Any) -> None:
        names = field_names(self._type)
        if not isinstance(field, str):
            value, allowed = format_value(field), "the name of a field"
            raise argument_error(_WHERE, "field", value, allowed, "Write it as text")
        if names is not None and field not in names:
            allowed = f"a field of the stream's records: {closest_first(field, names)}"
            raise argument_error(_WHERE, "field", repr(field), allowed, "Mend the name")

    @property
    def group_by_source(self) -> ObjectVar[dict[str, list[T]]]:
        """The values on the page by the id of the run that wrote them; "" for other clients."""
        type_ = types.GenericAlias(dict, (str, list_of(self._type)))
        return cast("ObjectVar[dict[str, list[T]]]", self._view(["by_source"], type_))

    def _view(self, spec: list[Any], type_: Any) -> Any:
        hook = self._hook.with_options(view=spec)
        return hook.read("$.view", type_, spec)

    @property
    def parts(self) -> ObjectVar[Parts]:
        """The AI answer of a stream of parts: text, tool calls, sources and so on."""
        hook = self._hook.with_options(parts=True)
        return cast("ObjectVar[Parts]", hook.read("$.parts", Parts))

    @property
    def parts_by_source(self) -> ArrayVar[list[SourceParts]]:
        """The AI answer of each run that writes to the stream, in the order of their first part.

        Sub-agents append with `target="parent"`; `parts` would mix their texts.
        """
        hook = self._hook.with_options(partsBySource=True)
        type_ = list_of(SourceParts)
        return cast("ArrayVar[list[SourceParts]]", hook.read("$.partsBySource", type_))


class RealtimeRun(_TypedVars[R]):
    """A run on a page.

    `status` is the status of the subscription; `run.status` is the status of the run.
    """

    output = _TypedVar("($.run?.output ?? null)")
    """The task's return value; None before it returns. Typed if the hook has the task."""

    def __init__(self, hook: HookCall, task: TaskTypes[R] | None = None) -> None:
        super().__init__(hook, Any if task is None else task.output_type)
        self._payload_type = payload_type(task)

    def _of_run(self, name: str) -> BooleanVar:
        return cast(BooleanVar, self._hook.read(f"($.run?.{name} ?? false)", bool))

    @property
    def run(self) -> ObjectVar[PageRun]:
        """The current state of the run; None before the gateway has answered."""
        type_ = run_type(optional(self._payload_type), optional(self._type)) | None
        return cast("ObjectVar[PageRun]", self._hook.read("$.run", type_))

    @property
    def payload(self) -> ObjectVar[Any]:
        """The arguments of the run by the names of the task's parameters; None if excluded.

        Typed if the hook has the task.
        """
        warn_about_hidden_fields(self._payload_type)
        type_ = dict[str, Any] if self._payload_type is Any else self._payload_type
        return cast("ObjectVar[Any]", self._hook.read("($.run?.payload ?? null)", type_ | None))

    @property
    def is_queued(self) -> BooleanVar:
        """The run waits for its start time, for a free slot, or for its next attempt."""
        return self._of_run("is_queued")

    @property
    def is_executing(self) -> BooleanVar:
        """The run executes; true also while it `is_waiting`."""
        return self._of_run("is_executing")

    @property
    def is_waiting(self) -> BooleanVar:
        """The run has started and waits for a time, a token or other runs."""
        return self._of_run("is_waiting")

    @property
    def is_finished(self) -> BooleanVar:
        """The run has ended, with any result: completed, failed, canceled, expired or timed out."""
        return self._of_run("is_finished")

    @property
    def is_completed(self) -> BooleanVar:
        """The same as `is_finished`, under the name that Trigger.dev's hooks use.

        True for a failed run too. A run that returned its output `is_success`.
        """
        return self._of_run("is_completed")

    @property
    def is_success(self) -> BooleanVar:
        """The run has ended and returned its output: its status is `completed`."""
        return self._of_run("is_success")

    @property
    def is_failed(self) -> BooleanVar:
        """The run has ended without output: failed, crashed, expired or timed out."""
        return self._of_run("is_failed")

    @property
    def is_canceled(self) -> BooleanVar:
        """The run was canceled."""
        return self._of_run("is_canceled")
