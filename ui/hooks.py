"""Hooks for pages: follow streams and runs, and use what comes as Vars.

    progress = use_realtime_stream(State.run_id, stream=progress_stream, access_token=State.token)
    return rx.progress(value=progress.latest.current, max=progress.latest.total)

Everything in the browser (one socket, reconnecting, resuming, sharing) is done by `ui/client`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import GenericAlias
from typing import Any, cast, overload

from reflex.event import EventChain, EventType
from reflex.vars import LiteralVar, ObjectVar, StringVar, Var
from reflex_base.utils.exceptions import EventHandlerArgTypeMismatchError
from typing_extensions import TypeVar

from gateway.sdk.definitions import StreamDefinition

from .arguments import check
from .loop_variables import refuse_loop_variable
from .mounted import warn_without_gateway
from .page_runs import PageRun, PageStream, TaskTypes
from .refusals import refused, shown, similar
from .text_numbers import page_type
from .vars import Hook, RealtimeRun, RealtimeStream

T = TypeVar("T")
R = TypeVar("R", default=Any)

BESIDE = frozenset({"onComplete", "onEnd", "onTokenExpiring"})  # handlers of a run, not of a stream


@overload
def use_realtime_stream(
    run_id: str | Var[Any] | None,
    stream: StreamDefinition[T],
    *,
    access_token: str | Var[Any] | None = None,
    throttle_ms: int | Var[Any] = 50,
    start: str | Mapping[str, Any] | Var[Any] = "beginning",
    attempt: int | str | Var[Any] | None = None,
    max_records: int | Var[Any] | None = 1000,
    enabled: bool | Var[Any] = True,
    gateway_url: str | Var[Any] | None = None,
    on_record: EventType[Any, Any] | EventType[Any] | EventType[()] | None = None,
    on_end: EventType[str] | EventType[()] | None = None,
    on_error: EventType[dict[str, str]] | EventType[()] | None = None,
    on_token_expiring: EventType[()] | None = None,
) -> RealtimeStream[T]: ...
@overload
def use_realtime_stream(
    run_id: str | Var[Any] | None,
    stream: str | Var[Any],
    *,
    access_token: str | Var[Any] | None = None,
    throttle_ms: int | Var[Any] = 50,
    start: str | Mapping[str, Any] | Var[Any] = "beginning",
    attempt: int | str | Var[Any] | None = None,
    max_records: int | Var[Any] | None = 1000,
    enabled: bool | Var[Any] = True,
    gateway_url: str | Var[Any] | None = None,
    on_record: EventType[Any, Any] | EventType[Any] | EventType[()] | None = None,
    on_end: EventType[str] | EventType[()] | None = None,
    on_error: EventType[dict[str, str]] | EventType[()] | None = None,
    on_token_expiring: EventType[()] | None = None,
) -> RealtimeStream[Any]: ...
def use_realtime_stream(
    run_id: str | Var[Any] | None,
    stream: StreamDefinition[Any] | str | Var[Any],
    *,
    access_token: str | Var[Any] | None = None,
    throttle_ms: int | Var[Any] = 50,
    start: str | Mapping[str, Any] | Var[Any] = "beginning",
    attempt: int | str | Var[Any] | None = None,
    max_records: int | Var[Any] | None = 1000,
    enabled: bool | Var[Any] = True,
    gateway_url: str | Var[Any] | None = None,
    on_record: EventType[Any, Any] | EventType[Any] | EventType[()] | None = None,
    on_end: EventType[str] | EventType[()] | None = None,
    on_error: EventType[dict[str, str]] | EventType[()] | None = None,
    on_token_expiring: EventType[()] | None = None,
) -> RealtimeStream[Any]:
    """Follow a stream of a run. Every argument may be a Var.

    However many components use the result, and however often the hook is called for the same
    stream, the page has one subscription and each value comes once.

    Args:
        run_id: The run; while it is None or "", the status is `idle`.
        stream: A definition, whose type the result's Vars have, or a stream id.
        access_token: May read the stream. While a Var's value is None or "", it is awaited. Another
            one replaces it in place, and goes on where an expired one stopped. Left out: the
            gateway asks for none.
        throttle_ms: At most one update per this many milliseconds.
        start: `"beginning"`, `"latest"`, `{"last": n}` or `{"position": "…"}`.
        attempt: Of what the run itself wrote, only that of one attempt: a number, or `"latest"`
            (the newest that has written; what an earlier one wrote disappears when it begins).
            What other runs and clients wrote is always shown. None: of all attempts.
        max_records: How many records `data` and `records` keep, the newest; None: all.
        enabled: While false, the status is `idle`.
        gateway_url: Address of a gateway elsewhere, or its path on the app's backend. None: mounted
            at the root of the backend.
        on_record: Called for each record that arrives, with its value and, if it takes two
            arguments, `{offset, time_ms, source, attempt}`. With `start="beginning"` that includes
            the records from before.
        on_end: Called with the reason when the stream has ended.
        on_error: Called with `{code, message}` when the gateway refuses, for instance with
            `token_expired`.
        on_token_expiring: Called once when four fifths of the token's life are over. Let it give
            the Var of `access_token` a new value, which then replaces the old one in place. A new
            one that is refused is seen in `error`, and what is shown goes on until the old one
            expires.

    Returns:
        The stream's Vars: `latest`, `data`, `text`, `parts`, `status`, `error`, …

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument is of a wrong type or outside its rule; names what is allowed.

    Source:
        PROTOCOL.md, sections 4 and 5.
    """
    check("use_realtime_stream", locals())
    id_, type_ = (stream.id, stream.type) if isinstance(stream, StreamDefinition) else (stream, Any)
    options = {
        "runId": run_id,
        "stream": id_,
        "token": access_token,
        "throttleMs": throttle_ms,
        "start": start,
        "attempt": attempt,
        "maxRecords": max_records,
        "enabled": enabled,
        "gatewayUrl": gateway_url,
        "onRecord": handler_of(
            on_record,
            {"value": page_type(type_), "meta": dict[str, Any]},
            {"value": type_, "meta": dict[str, Any]},
        ),
        "onEnd": handler_of(on_end, {"reason": str}),
        "onError": handler_of(on_error, {"error": dict[str, str]}),
        "onTokenExpiring": handler_of(on_token_expiring, {}),
    }
    return RealtimeStream(hook_of("useRealtimeStream", options), type_)


def use_realtime_run(
    run_id: str | Var[Any] | None,
    *,
    task: TaskTypes[R] | None = None,
    access_token: str | Var[Any] | None = None,
    throttle_ms: int | Var[Any] = 50,
    enabled: bool | Var[Any] = True,
    skip: Sequence[str] = (),
    gateway_url: str | Var[Any] | None = None,
    on_complete: EventType[Any] | EventType[()] | None = None,
    on_end: EventType[str] | EventType[()] | None = None,
    on_error: EventType[dict[str, str]] | EventType[()] | None = None,
    on_token_expiring: EventType[()] | None = None,
) -> RealtimeRun[R]:
    """Follow a run: its status, metadata, output and error. Every argument may be a Var.

    A page that uses nothing of the result does not follow the run, and no handler is called.

    Args:
        run_id: The run; while it is None or "", the status is `idle`.
        task: Whose run it is. `payload`, `output` and those of `run` then have its types.
        access_token: May read the run; see `use_realtime_stream`.
        throttle_ms: At most one update per this many milliseconds.
        enabled: While false, the status is `idle`.
        skip: Fields to leave out: any of `payload`, `output`, `metadata`.
        gateway_url: See `use_realtime_stream`.
        on_complete: Called once with the run when it is over, however it went; also for a run that
            was over before the page was opened. A lost connection is not the end.
        on_end: Called with the reason when the run is over.
        on_error: Called with `{code, message}` when the gateway refuses.
        on_token_expiring: See `use_realtime_stream`.

    Returns:
        The run's Vars: `run` (typed), `is_executing`, `is_completed`, `status`, `error`, …

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument is of a wrong type or outside its rule; names what is allowed.

    Source:
        PROTOCOL.md, section 6.
    """
    check("use_realtime_run", locals(), task="task_types")
    options = {
        "runId": run_id,
        "token": access_token,
        "throttleMs": throttle_ms,
        "enabled": enabled,
        "skip": list(skip) or None,
        "gatewayUrl": gateway_url,
        "onComplete": handler_of(on_complete, {"run": PageRun}, {"run": dict[str, Any]}),
        "onEnd": handler_of(on_end, {"reason": str}),
        "onError": handler_of(on_error, {"error": dict[str, str]}),
        "onTokenExpiring": handler_of(on_token_expiring, {}),
    }
    return RealtimeRun(hook_of("useRealtimeRun", options), task)


class RealtimeRunWithStreams(RealtimeRun[R]):
    """A run and its streams. An error of one of them is seen on that one only."""

    def __init__(
        self,
        hook: Hook,
        options: Mapping[str, Any],
        streams: frozenset[str] | None,
        task: TaskTypes[R] | None = None,
    ) -> None:
        super().__init__(hook, task)
        self._options = options  # of any of its streams
        self._streams = streams
        # A page that shows streams only has to hear of the run all the same.
        self._beside = hook if hook.options.keys() & BESIDE else None

    @property
    def _all_streams(self) -> Hook:
        options = {name: value for name, value in self._options.items() if name != "stream"}
        return Hook("useRealtimeStreams", options, self._beside)

    @property
    def streams(self) -> ObjectVar[dict[str, PageStream]]:
        """All streams of the run by their ids, as they appear.

        Each has `id`, `data`, `latest`, `text`, `count`, `status`, `end_reason` and `error`, also
        as the loop variable of `rx.foreach(result.streams, lambda item: item[1].latest)`.
        """
        type_ = dict[str, PageStream]
        return cast("ObjectVar[dict[str, PageStream]]", self._all_streams.read("$.streams", type_))

    @property
    def streams_error(self) -> StringVar[str]:
        """Why the list of the streams cannot be read; "" when it can."""
        return cast("StringVar[str]", self._all_streams.read('($.error?.message ?? "")', str))

    def stream(self, definition: StreamDefinition[T]) -> RealtimeStream[T]:
        """Give one of the streams, typed.

        Raises:
            InvalidValue: it is not a definition.
            KeyError: it was not among those that the hook was called with.
        """
        if not isinstance(definition, StreamDefinition):
            raise refused(
                "use_realtime_run_with_streams",
                "the stream in result[…]",
                shown(definition),
                "a definition from `streams.define`",
                'Give the definition; an id alone goes with `use_realtime_stream(run_id, "id")`',
            )
        if self._streams is not None and definition.id not in self._streams:
            raise KeyError(
                f"use_realtime_run_with_streams was called without the stream {definition.id!r}; "
                f"its streams are: {similar(definition.id, self._streams)}. Add the definition to "
                "`streams`, or leave `streams` out for any"
            )
        options = {**self._options, "stream": definition.id}
        return RealtimeStream(Hook("useRealtimeStream", options, self._beside), definition.type)

    def __getitem__(self, definition: StreamDefinition[T]) -> RealtimeStream[T]:
        return self.stream(definition)


def use_realtime_run_with_streams(
    run_id: str | Var[Any] | None,
    streams: Sequence[StreamDefinition[Any]] | None = None,
    *,
    task: TaskTypes[R] | None = None,
    access_token: str | Var[Any] | None = None,
    throttle_ms: int | Var[Any] = 50,
    attempt: int | str | Var[Any] | None = None,
    max_records: int | Var[Any] | None = 1000,
    enabled: bool | Var[Any] = True,
    skip: Sequence[str] = (),
    gateway_url: str | Var[Any] | None = None,
    on_complete: EventType[Any] | EventType[()] | None = None,
    on_end: EventType[str] | EventType[()] | None = None,
    on_error: EventType[dict[str, str]] | EventType[()] | None = None,
    on_token_expiring: EventType[()] | None = None,
) -> RealtimeRunWithStreams[R]:
    """Follow a run together with its streams, over the same connection.

    Only what the page uses is subscribed to: `result[definition]` that one stream,
    `result.streams` all that the run has, as they appear.

    Args:
        run_id: The run; while it is None or "", the status is `idle`.
        streams: Definitions; `result[definition]` gives each its typed Vars. None: any.
        task: See `use_realtime_run`.
        access_token: May read the run; see `use_realtime_stream`.
        throttle_ms: At most one update per this many milliseconds, of the run and of each stream.
        attempt: Which attempt's records each stream shows; see `use_realtime_stream`.
        max_records: How many records each stream keeps; None: all.
        enabled: While false, the status is `idle`.
        skip: Fields of the run to leave out: any of `payload`, `output`, `metadata`.
        gateway_url: See `use_realtime_stream`.
        on_complete: See `use_realtime_run`.
        on_end: Called with the reason when the run is over.
        on_error: Called with `{code, message}` when the gateway refuses the run or a stream.
        on_token_expiring: Called once for the run and its streams; see `use_realtime_stream`.

    Returns:
        The run's Vars, and those of each stream.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument is of a wrong type or outside its rule; names what is allowed.
    """
    check("use_realtime_run_with_streams", locals(), task="task_types")
    shared: dict[str, Any] = {
        "access_token": access_token,
        "throttle_ms": throttle_ms,
        "enabled": enabled,
        "gateway_url": gateway_url,
        "on_error": on_error,
    }
    run = use_realtime_run(
        run_id,
        skip=skip,
        on_complete=on_complete,
        on_end=on_end,
        on_token_expiring=on_token_expiring,
        **shared,
    )
    # The id is put in by `stream`.
    stream = use_realtime_stream(run_id, "any", attempt=attempt, max_records=max_records, **shared)
    options = stream._hook.options
    named = None if streams is None else frozenset(stream.id for stream in streams)
    return RealtimeRunWithStreams(run._hook, options, named, task)


def hook_of(function: str, options: Mapping[str, Any]) -> Hook:
    """Make the call of one of the client's hooks, leaving out what was not given.

    Raises:
        LoopVariableError: an option is a loop variable of `rx.foreach`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if options.get("maxRecords", 0) is None:
        given["maxRecords"] = None
    for name, value in given.items():
        refuse_loop_variable(name, value)
    if "gatewayUrl" not in given:
        warn_without_gateway()
    return Hook(function, given)


def handler_of(handler: Any, *arguments: Mapping[str, Any]) -> Var[Any] | None:
    """Make a handler dispatch through Reflex's own event queue, as a component's trigger does.

    Args:
        handler: What the hook was given.
        arguments: Names and types of what it is called with; several: its own may be any of these.
    """
    if handler is None:
        return None

    refused: list[EventHandlerArgTypeMismatchError] = []
    for each in arguments:
        try:
            return LiteralVar.create(EventChain.create(handler, args_spec=_args_spec(each)))
        except EventHandlerArgTypeMismatchError as error:
            refused.append(error)
    raise refused[0]


def _args_spec(arguments: Mapping[str, Any]) -> Callable[..., tuple[Var[Any], ...]]:
    # Reflex reads the names and types of what a trigger gives from the function's signature, and
    # the type of a record is known only now.
    def spec(*values: Var[Any]) -> tuple[Var[Any], ...]:
        return values

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in arguments]
    annotations = {name: GenericAlias(Var, (type_,)) for name, type_ in arguments.items()}
    spec.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spec.__annotations__ = {
        **annotations,
        "return": GenericAlias(tuple, tuple(annotations.values())),
    }
    return spec
