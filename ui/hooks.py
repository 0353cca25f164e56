"""Hooks that subscribe a page to streams and runs. Their results are typed Vars.

    progress = use_realtime_stream(State.run_id, stream=progress_stream, access_token=State.token)
    return rx.progress(value=progress.latest.current, max=progress.latest.total)

The client in `ui/client` does the work in the browser: one socket, reconnecting, resuming, sharing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, overload

from reflex.event import EventType
from reflex.vars import ObjectVar, StringVar, Var
from typing_extensions import TypeVar

from gateway.sdk.definitions import StreamDefinition

from .argument_errors import argument_error, closest_first, format_value
from .arguments import check_arguments
from .hook_call import HookCall, event_handler, make_call
from .page_models import PageRun, PageStream, TaskTypes
from .text_numbers import page_type
from .vars import RealtimeRun, RealtimeStream

T = TypeVar("T")
R = TypeVar("R", default=Any)

RUN_HANDLERS = frozenset({"onComplete", "onEnd", "onTokenExpiring"})  # a stream does not call them


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
    """Subscribe to a stream of a run. Every argument may be a Var.

    The page has one subscription for each stream and receives each record once, however many
    components use the result and however often the hook is called.

    Args:
        run_id: The run; the status is `idle` while it is None or "".
        stream: A definition, which gives the result's Vars their type, or a stream id.
        access_token: A token that may read the stream. The hook waits while a Var's value is None
            or "". A new value replaces the token in place; after an expiry the subscription resumes
            with it. Leave it out if the gateway requires no token.
        throttle_ms: Minimum time between two updates, in milliseconds.
        start: `"beginning"`, `"latest"`, `{"last": n}` or `{"position": "…"}`.
        attempt: Shows only one attempt of the records that the run itself wrote: a number, or
            `"latest"` for the newest attempt that has written. When a new attempt starts to write,
            the records of the previous one disappear. Records of other runs and clients are always
            shown. None shows all attempts.
        max_records: Number of records, the newest, in `data` and `records`; None for all.
        enabled: The status is `idle` while it is false.
        gateway_url: Address of a gateway elsewhere, or its path on the app's backend. None: the
            gateway is mounted at the root of the backend.
        on_record: Called for each record that arrives, with its value and, if it takes two
            arguments, `{offset, time_ms, source, attempt}`. With `start="beginning"` that includes
            earlier records.
        on_end: Called with the reason when the stream has ended.
        on_error: Called with `{code, message}` when the gateway rejects the subscription, for
            instance with `token_expired`.
        on_token_expiring: Called once after four fifths of the token's lifetime. It should set the
            Var of `access_token` to a new token, which then replaces the old one in place. If the
            gateway rejects the new token, `error` says so and the subscription continues until the
            old one expires.

    Returns:
        The stream's Vars: `latest`, `data`, `text`, `parts`, `status`, `error`, …

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument has a wrong type or value; the message names the allowed ones.

    Source:
        PROTOCOL.md, sections 4 and 5.
    """
    check_arguments("use_realtime_stream", locals())
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
        "onRecord": event_handler(
            on_record,
            {"value": page_type(type_), "meta": dict[str, Any]},
            {"value": type_, "meta": dict[str, Any]},
        ),
        "onEnd": event_handler(on_end, {"reason": str}),
        "onError": event_handler(on_error, {"error": dict[str, str]}),
        "onTokenExpiring": event_handler(on_token_expiring, {}),
    }
    return RealtimeStream(make_call("useRealtimeStream", options), type_)


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
    """Subscribe to a run: its status, metadata, output and error. Every argument may be a Var.

    A page that uses no Var of the result does not subscribe, and no handler is called.

    Args:
        run_id: The run; the status is `idle` while it is None or "".
        task: The task of the run. It gives `payload`, `output` and the fields of `run` their types.
        access_token: A token that may read the run; see `use_realtime_stream`.
        throttle_ms: Minimum time between two updates, in milliseconds.
        enabled: The status is `idle` while it is false.
        skip: Fields to leave out: any of `payload`, `output`, `metadata`.
        gateway_url: See `use_realtime_stream`.
        on_complete: Called once with the run when it has finished, with any result; also for a run
            that had finished before the page was opened. A lost connection is not the end.
        on_end: Called with the reason when the run has finished.
        on_error: Called with `{code, message}` when the gateway rejects the subscription.
        on_token_expiring: See `use_realtime_stream`.

    Returns:
        The run's Vars: `run` (typed), `is_executing`, `is_finished`, `status`, `error`, …

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument has a wrong type or value; the message names the allowed ones.

    Source:
        PROTOCOL.md, section 6.
    """
    check_arguments("use_realtime_run", locals(), task="task_types")
    options = {
        "runId": run_id,
        "token": access_token,
        "throttleMs": throttle_ms,
        "enabled": enabled,
        "skip": list(skip) or None,
        "gatewayUrl": gateway_url,
        "onComplete": event_handler(on_complete, {"run": PageRun}, {"run": dict[str, Any]}),
        "onEnd": event_handler(on_end, {"reason": str}),
        "onError": event_handler(on_error, {"error": dict[str, str]}),
        "onTokenExpiring": event_handler(on_token_expiring, {}),
    }
    return RealtimeRun(make_call("useRealtimeRun", options), task)


class RealtimeRunWithStreams(RealtimeRun[R]):
    """A run and its streams. Each stream has an `error` that belongs to it alone."""

    def __init__(
        self,
        hook: HookCall,
        options: Mapping[str, Any],
        streams: frozenset[str] | None,
        task: TaskTypes[R] | None = None,
    ) -> None:
        super().__init__(hook, task)
        self._options = options  # of each stream
        self._streams = streams
        # The run's handlers are called even on a page that uses Vars of its streams only.
        self._companion = hook if hook.options.keys() & RUN_HANDLERS else None

    @property
    def _all_streams(self) -> HookCall:
        options = {name: value for name, value in self._options.items() if name != "stream"}
        return HookCall("useRealtimeStreams", options, self._companion)

    @property
    def streams(self) -> ObjectVar[dict[str, PageStream]]:
        """All streams of the run by id. A stream appears with its first record.

        Each has `id`, `data`, `latest`, `text`, `count`, `status`, `end_reason` and `error`. They
        work on a loop variable: `rx.foreach(result.streams, lambda item: item[1].latest)`.
        """
        type_ = dict[str, PageStream]
        return cast("ObjectVar[dict[str, PageStream]]", self._all_streams.read("$.streams", type_))

    @property
    def streams_error(self) -> StringVar[str]:
        """Why the gateway rejects the list of streams; "" if it does not."""
        return cast("StringVar[str]", self._all_streams.read('($.error?.message ?? "")', str))

    def stream(self, definition: StreamDefinition[T]) -> RealtimeStream[T]:
        """Return the typed Vars of a stream.

        Raises:
            InvalidValue: the argument is not a definition.
            KeyError: the hook was called with other streams.
        """
        if not isinstance(definition, StreamDefinition):
            raise argument_error(
                "use_realtime_run_with_streams",
                "the stream in result[…]",
                format_value(definition),
                "a definition from `streams.define`",
                'Give the definition; an id alone goes with `use_realtime_stream(run_id, "id")`',
            )
        if self._streams is not None and definition.id not in self._streams:
            raise KeyError(
                f"use_realtime_run_with_streams was called without the stream {definition.id!r}; "
                f"its streams are: {closest_first(definition.id, self._streams)}. Add the "
                "definition to `streams`, or leave `streams` out for any"
            )
        options = {**self._options, "stream": definition.id}
        return RealtimeStream(
            HookCall("useRealtimeStream", options, self._companion), definition.type
        )

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
    """Subscribe to a run and its streams over one connection.

    The page subscribes to the Vars that it uses: `result[definition]` subscribes to one stream,
    `result.streams` to all streams of the run.

    Args:
        run_id: The run; the status is `idle` while it is None or "".
        streams: Definitions; `result[definition]` has the typed Vars of each. None allows any.
        task: See `use_realtime_run`.
        access_token: A token that may read the run; see `use_realtime_stream`.
        throttle_ms: Minimum time between two updates of the run and of each stream, in
            milliseconds.
        attempt: The attempt whose records each stream shows; see `use_realtime_stream`.
        max_records: Number of records, the newest, of each stream; None for all.
        enabled: The status is `idle` while it is false.
        skip: Fields of the run to leave out: any of `payload`, `output`, `metadata`.
        gateway_url: See `use_realtime_stream`.
        on_complete: See `use_realtime_run`.
        on_end: Called with the reason when the run has finished.
        on_error: Called with `{code, message}` when the gateway rejects the run or a stream.
        on_token_expiring: Called once for the run and its streams; see `use_realtime_stream`.

    Returns:
        The Vars of the run and of each stream.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument has a wrong type or value; the message names the allowed ones.
    """
    check_arguments("use_realtime_run_with_streams", locals(), task="task_types")
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
    # `RealtimeRunWithStreams.stream` replaces the stream id.
    stream = use_realtime_stream(run_id, "any", attempt=attempt, max_records=max_records, **shared)
    options = stream._hook.options
    named = None if streams is None else frozenset(stream.id for stream in streams)
    return RealtimeRunWithStreams(run._hook, options, named, task)
