"""Hooks for pages: follow streams and runs, and use what comes as Vars.

    progress = use_realtime_stream(State.run_id, stream=progress_stream, access_token=State.token)
    return rx.progress(value=progress.latest.current, max=progress.latest.total)

Everything in the browser (one socket, reconnecting, resuming, sharing) is done by `ui/client`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from types import GenericAlias
from typing import Any, TypeVar, overload

from reflex.event import EventChain, EventType
from reflex.vars import LiteralVar, Var
from reflex_base.constants.state import FIELD_MARKER

from gateway.sdk.definitions import StreamDefinition
from ui.vars import Hook, RealtimeRun, RealtimeStream

T = TypeVar("T")


class LoopVariableError(TypeError):
    """A hook was called with a loop variable of `rx.foreach`.

    React allows no hook in a loop: make the item a component of its own with `@rx.memo`.
    """

    def __init__(self, argument: str, loop_variable: str) -> None:
        super().__init__(
            f"{argument} reads {loop_variable!r}, a loop variable of rx.foreach, and a hook cannot "
            "be called in a loop. Make the item a component of its own:\n\n"
            "    @rx.memo\n"
            "    def run_card(run_id: rx.Var[str]) -> rx.Component:\n"
            "        progress = use_realtime_stream(run_id, stream=..., access_token=...)\n"
            "        return rx.text(progress.status)\n\n"
            "    rx.foreach(State.run_ids, lambda run_id: run_card(run_id=run_id))"
        )


@overload
def use_realtime_stream(
    run_id: str | Var[Any] | None,
    stream: StreamDefinition[T],
    *,
    access_token: str | Var[Any] | None = None,
    throttle_ms: int | Var[Any] = 50,
    start: str | Mapping[str, Any] | Var[Any] = "beginning",
    max_records: int | Var[Any] | None = 1000,
    enabled: bool | Var[Any] = True,
    gateway_url: str | Var[Any] | None = None,
    on_record: EventType[Any, Any] | EventType[Any] | EventType[()] | None = None,
    on_end: EventType[str] | EventType[()] | None = None,
    on_error: EventType[dict[str, str]] | EventType[()] | None = None,
) -> RealtimeStream[T]: ...
@overload
def use_realtime_stream(
    run_id: str | Var[Any] | None,
    stream: str | Var[Any],
    *,
    access_token: str | Var[Any] | None = None,
    throttle_ms: int | Var[Any] = 50,
    start: str | Mapping[str, Any] | Var[Any] = "beginning",
    max_records: int | Var[Any] | None = 1000,
    enabled: bool | Var[Any] = True,
    gateway_url: str | Var[Any] | None = None,
    on_record: EventType[Any, Any] | EventType[Any] | EventType[()] | None = None,
    on_end: EventType[str] | EventType[()] | None = None,
    on_error: EventType[dict[str, str]] | EventType[()] | None = None,
) -> RealtimeStream[Any]: ...
def use_realtime_stream(
    run_id: str | Var[Any] | None,
    stream: StreamDefinition[Any] | str | Var[Any],
    *,
    access_token: str | Var[Any] | None = None,
    throttle_ms: int | Var[Any] = 50,
    start: str | Mapping[str, Any] | Var[Any] = "beginning",
    max_records: int | Var[Any] | None = 1000,
    enabled: bool | Var[Any] = True,
    gateway_url: str | Var[Any] | None = None,
    on_record: EventType[Any, Any] | EventType[Any] | EventType[()] | None = None,
    on_end: EventType[str] | EventType[()] | None = None,
    on_error: EventType[dict[str, str]] | EventType[()] | None = None,
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
        max_records: How many records `data` and `records` keep, the newest; None: all.
        enabled: While false, the status is `idle`.
        gateway_url: Address of a gateway elsewhere, or its path on the app's backend. None: mounted
            at the root of the backend.
        on_record: Called for each record that arrives, with its value and, if it takes two
            arguments, `{offset, time_ms, source}`. With `start="beginning"` that includes the
            records from before.
        on_end: Called with the reason when the stream has ended.
        on_error: Called with `{code, message}` when the gateway refuses, for instance with
            `token_expired`.

    Returns:
        The stream's Vars: `latest`, `data`, `text`, `parts`, `status`, `error`, …

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.

    Source:
        PROTOCOL.md, sections 4 and 5.
    """
    id_, type_ = (stream.id, stream.type) if isinstance(stream, StreamDefinition) else (stream, Any)
    options = {
        "runId": run_id,
        "stream": id_,
        "token": access_token,
        "throttleMs": throttle_ms,
        "start": start,
        "maxRecords": max_records,
        "enabled": enabled,
        "gatewayUrl": gateway_url,
        "onRecord": _handler(on_record, {"value": type_, "meta": dict[str, Any]}),
        "onEnd": _handler(on_end, {"reason": str}),
        "onError": _handler(on_error, {"error": dict[str, str]}),
    }
    return RealtimeStream(hook_of("useRealtimeStream", options), type_)


def use_realtime_run(
    run_id: str | Var[Any] | None,
    *,
    access_token: str | Var[Any] | None = None,
    throttle_ms: int | Var[Any] = 50,
    enabled: bool | Var[Any] = True,
    gateway_url: str | Var[Any] | None = None,
    on_end: EventType[str] | EventType[()] | None = None,
    on_error: EventType[dict[str, str]] | EventType[()] | None = None,
) -> RealtimeRun:
    """Follow a run: its status, metadata, output and error. Every argument may be a Var.

    Args:
        run_id: The run; while it is None or "", the status is `idle`.
        access_token: May read the run; see `use_realtime_stream`.
        throttle_ms: At most one update per this many milliseconds.
        enabled: While false, the status is `idle`.
        gateway_url: See `use_realtime_stream`.
        on_end: Called with the reason when the run is over.
        on_error: Called with `{code, message}` when the gateway refuses.

    Returns:
        The run's Vars: `run` (typed), `is_executing`, `is_completed`, `status`, `error`, …

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.

    Source:
        PROTOCOL.md, section 6.
    """
    options = {
        "runId": run_id,
        "token": access_token,
        "throttleMs": throttle_ms,
        "enabled": enabled,
        "gatewayUrl": gateway_url,
        "onEnd": _handler(on_end, {"reason": str}),
        "onError": _handler(on_error, {"error": dict[str, str]}),
    }
    return RealtimeRun(hook_of("useRealtimeRun", options))


class RealtimeRunWithStreams(RealtimeRun):
    """A run and some of its streams. An error of one of them is seen on that one only."""

    def __init__(self, hook: Hook, streams: Mapping[str, RealtimeStream[Any]]) -> None:
        super().__init__(hook)
        self._streams = streams

    def stream(self, definition: StreamDefinition[T]) -> RealtimeStream[T]:
        """Give one of the streams.

        Raises:
            KeyError: it was not among those that the hook was called with.
        """
        return self._streams[definition.id]

    def __getitem__(self, definition: StreamDefinition[T]) -> RealtimeStream[T]:
        return self.stream(definition)


def use_realtime_run_with_streams(
    run_id: str | Var[Any] | None,
    streams: Sequence[StreamDefinition[Any]],
    *,
    access_token: str | Var[Any] | None = None,
    throttle_ms: int | Var[Any] = 50,
    max_records: int | Var[Any] | None = 1000,
    enabled: bool | Var[Any] = True,
    gateway_url: str | Var[Any] | None = None,
    on_end: EventType[str] | EventType[()] | None = None,
    on_error: EventType[dict[str, str]] | EventType[()] | None = None,
) -> RealtimeRunWithStreams:
    """Follow a run together with some of its streams, over the same connection.

    Only what the page uses is subscribed to.

    Args:
        run_id: The run; while it is None or "", the status is `idle`.
        streams: Definitions; `result[definition]` gives each its typed Vars.
        access_token: May read the run; see `use_realtime_stream`.
        throttle_ms: At most one update per this many milliseconds, of the run and of each stream.
        max_records: How many records each stream keeps; None: all.
        enabled: While false, the status is `idle`.
        gateway_url: See `use_realtime_stream`.
        on_end: Called with the reason when the run is over.
        on_error: Called with `{code, message}` when the gateway refuses the run or a stream.

    Returns:
        The run's Vars, and those of each stream.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
    """
    shared: dict[str, Any] = {
        "access_token": access_token,
        "throttle_ms": throttle_ms,
        "enabled": enabled,
        "gateway_url": gateway_url,
        "on_error": on_error,
    }
    run = use_realtime_run(run_id, on_end=on_end, **shared)
    followed = {
        stream.id: use_realtime_stream(run_id, stream, max_records=max_records, **shared)
        for stream in streams
    }
    return RealtimeRunWithStreams(run._hook, followed)


def hook_of(function: str, options: Mapping[str, Any]) -> Hook:
    """Make the call of one of the client's hooks, leaving out what was not given.

    Raises:
        LoopVariableError: an option is a loop variable of `rx.foreach`.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if options.get("maxRecords", 0) is None:
        given["maxRecords"] = None
    for name, value in given.items():
        _refuse_loop_variable(name, value)
    return Hook(function, given)


def _handler(handler: Any, arguments: Mapping[str, Any]) -> Var[Any] | None:
    """Make a handler dispatch through Reflex's own event queue, as a component's trigger does."""
    if handler is None:
        return None

    return LiteralVar.create(EventChain.create(handler, args_spec=_args_spec(arguments)))


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


# A state's field is always reached through its state (`state.field_rx_state_`), so a name with the
# marker that stands free can only be a loop's. Without a name of the user's, an index is a hash.
_LOOP_VARIABLE = re.compile(
    rf"(?<![\w.$])(?:([A-Za-z_]\w*?){FIELD_MARKER}|(index_[0-9a-f]{{32}}))(?!\w)"
)
_STRING_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')


def _refuse_loop_variable(option: str, value: Any) -> None:
    code = _STRING_LITERAL.sub('""', str(LiteralVar.create(value)))
    found = _LOOP_VARIABLE.search(code)
    if found:
        raise LoopVariableError(_snake_case(option), found[1] or "index")


def _snake_case(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)
