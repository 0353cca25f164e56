"""Hooks for actions of a page: send a value to a run, trigger a task.

approval = use_input_stream(State.run_id, approval_stream, access_token=State.token)
rx.button("Approve", on_click=approval.send({"ok": True}), loading=approval.is_pending)

job = use_realtime_task_trigger("generate-text", access_token=State.trigger_token)
rx.button("Go", on_click=job.trigger({"prompt": State.prompt}))
rx.text(job.run.status)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from reflex.vars import ArrayVar, BooleanVar, NumberVar, StringVar, Var
from reflex.vars.function import FunctionVar

from gateway.errors import InvalidValue
from gateway.sdk.definitions import StreamDefinition

from .argument_errors import argument_error, as_json, check_keys, format_value
from .arguments import check_arguments
from .hook_call import HookCall, make_call
from .hooks import RealtimeRunWithStreams, use_realtime_run, use_realtime_run_with_streams
from .text_numbers import field_names, to_exact_json
from .vars import RealtimeRun, RealtimeStream, WithError

T = TypeVar("T")


class _Action(WithError):
    @property
    def is_pending(self) -> BooleanVar:
        """A call is executing or queued.

        The calls of one hook run one at a time, in order; up to 32 may be pending. A double click
        is one call: the hook drops a call whose value equals that of the previous call while that
        one is pending. To send equal values in a row, add a field that differs.
        """
        return cast(BooleanVar, self._hook.read("$.isPending", bool))

    @property
    def error(self) -> StringVar[str]:
        """The error of the last failed call; "" without one.

        A later success does not clear it. The next call that starts while none is pending does.
        """
        return super().error

    @property
    def count(self) -> NumberVar[int]:
        """Number of successful calls since the page was opened."""
        return cast("NumberVar[int]", self._hook.read("$.count", int))

    def _call(self, function: str, argument: Any) -> FunctionVar[Any]:
        # Reflex appends the event's own arguments; the client's function ignores them.
        callable_ = self._hook.read(f"$.{function}", None)
        return cast("FunctionVar[Any]", callable_.to(FunctionVar).partial(argument))


class InputStreamHook(_Action, Generic[T]):
    """Sends values to an input of a run."""

    def __init__(self, hook: HookCall, definition: StreamDefinition[T]) -> None:
        super().__init__(hook)
        self._definition = definition

    def send(self, value: T | Mapping[str, Any] | Var[Any]) -> FunctionVar[Any]:
        """Return an event that sends a value, for `on_click` and other triggers.

        Args:
            value: A value of the input's type: JSON-serializable values or Vars. This call checks
                the parts that are not Vars; the gateway checks the whole value.

        Raises:
            InvalidValue: the value does not match the input's type.
        """
        value = to_exact_json(value, "the value")
        self._check(value)
        return self._call("send", value)

    def _check(self, value: Any) -> None:
        hook = "use_input_stream(…).send"
        names = field_names(self._definition.type)
        if isinstance(value, Mapping) and names:
            check_keys(hook, value, names)
        data = as_json(value)
        if data is not None:
            try:
                self._definition.decode(data)
            except InvalidValue as error:
                raise InvalidValue(f"{hook}: {error.message}") from None


class TaskTrigger(_Action):
    """Triggers a task from the page."""

    def __init__(self, hook: HookCall, task: Any) -> None:
        super().__init__(hook)
        self._task = task

    def trigger(self, payload: Mapping[str, Any] | Var[Any]) -> FunctionVar[Any]:
        """Return an event that triggers the task with these keyword arguments.

        Args:
            payload: JSON-serializable values or Vars by the names of the task's parameters. If the
                hook has the task and not its id alone, this call checks the names, and the values
                that are not Vars.

        Raises:
            InvalidValue: the payload does not match the task's parameters.
        """
        payload = to_exact_json(payload, "the payload")
        self._check(payload)
        return self._call("trigger", payload)

    def _check(self, payload: Any) -> None:
        hook = "use_task_trigger(…).trigger"
        if isinstance(payload, StringVar | NumberVar | BooleanVar | ArrayVar) or not isinstance(
            payload, Mapping | Var
        ):
            allowed = "an object of the task's keyword arguments, or a Var of one"
            remedy = 'Write .trigger({"name": value})'
            raise argument_error(hook, "the payload", format_value(payload), allowed, remedy)
        check_payload = getattr(self._task, "check_arguments", None)
        if check_payload is None or isinstance(payload, Var):
            return  # the gateway checks
        try:
            check_payload({name: as_json(value) for name, value in payload.items()})
        except InvalidValue as error:
            raise InvalidValue(f"{hook}: {error.message}") from None

    @property
    def run_id(self) -> StringVar[str]:
        """Id of the run that the last successful call triggered; "" before the first."""
        return cast("StringVar[str]", self._hook.read('($.handle?.id ?? "")', str))

    @property
    def access_token(self) -> StringVar[str]:
        """A token that may read this run; "" before the first."""
        return cast("StringVar[str]", self._hook.read('($.handle?.access_token ?? "")', str))


class RealtimeTaskTrigger(TaskTrigger):
    """Triggers a task and subscribes to its run."""

    def __init__(self, hook: HookCall, task: Any, follow: Mapping[str, Any]) -> None:
        super().__init__(hook, task)
        self.realtime: RealtimeRun = use_realtime_run(
            self.run_id, task=_typed(task), access_token=self.access_token, **follow
        )

    @property
    def run(self) -> Any:
        """The current state of the run; None before the first trigger."""
        return self.realtime.run


class RealtimeTaskTriggerWithStreams(TaskTrigger):
    """Triggers a task and subscribes to its run and the run's streams."""

    def __init__(
        self,
        hook: HookCall,
        task: Any,
        streams: Sequence[StreamDefinition[Any]],
        follow: Mapping[str, Any],
    ) -> None:
        super().__init__(hook, task)
        self.realtime: RealtimeRunWithStreams = use_realtime_run_with_streams(
            self.run_id, streams, task=_typed(task), access_token=self.access_token, **follow
        )

    @property
    def run(self) -> Any:
        """The current state of the run; None before the first trigger."""
        return self.realtime.run

    def __getitem__(self, definition: StreamDefinition[T]) -> RealtimeStream[T]:
        return self.realtime[definition]


def _typed(task: Any) -> Any:
    return None if isinstance(task, str) else task


def use_input_stream(
    run_id: str | Var[Any] | None,
    stream: StreamDefinition[T],
    *,
    access_token: str | Var[Any] | None,
    gateway_url: str | Var[Any] | None = None,
) -> InputStreamHook[T]:
    """Send values to an input of a run: an approval, a stop, an answer.

    While the connection is lost, a call waits for it. Each value is written once.

    Args:
        run_id: The run.
        stream: The input's definition, from `streams.input`.
        access_token: A token that may append to it: `write:streams:RUN/ID`.
        gateway_url: See `use_realtime_stream`.

    Returns:
        An object whose `send(value)` returns an event; `is_pending`, `error`, `count` are Vars.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument has a wrong type or value; the message names the allowed ones.
    """
    check_arguments("use_input_stream", locals(), stream="definition")
    options = {
        "runId": run_id,
        "stream": stream.id,
        "token": access_token,
        "gatewayUrl": gateway_url,
    }
    return InputStreamHook(make_call("useInputStream", options), stream)


def use_task_trigger(
    task: str | Any,
    *,
    access_token: str | Var[Any] | None,
    gateway_url: str | Var[Any] | None = None,
) -> TaskTrigger:
    """Trigger a task from the page.

    Args:
        task: The task, or its id.
        access_token: A trigger token, from `tokens.mint_trigger`.
        gateway_url: See `use_realtime_stream`.

    Returns:
        An object whose `trigger(payload)` returns an event; `run_id`, `access_token`, `is_pending`
        and `error` are Vars.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument has a wrong type or value; the message names the allowed ones.
    """
    check_arguments("use_task_trigger", locals())
    return TaskTrigger(_trigger_hook(task, access_token, gateway_url), task)


def use_realtime_task_trigger(
    task: str | Any,
    *,
    access_token: str | Var[Any] | None,
    gateway_url: str | Var[Any] | None = None,
    **follow: Any,
) -> RealtimeTaskTrigger:
    """Trigger a task from the page and subscribe to its run.

    Args:
        task: The task, or its id.
        access_token: A trigger token, from `tokens.mint_trigger`.
        gateway_url: See `use_realtime_stream`.
        follow: Options of `use_realtime_run`.

    Returns:
        The result of `use_task_trigger`, with `run` and `realtime`.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument has a wrong type or value; the message names the allowed ones.
    """
    check_arguments("use_realtime_task_trigger", locals() | follow)
    hook = _trigger_hook(task, access_token, gateway_url)
    return RealtimeTaskTrigger(hook, task, {"gateway_url": gateway_url, **follow})


def use_realtime_task_trigger_with_streams(
    task: str | Any,
    streams: Sequence[StreamDefinition[Any]],
    *,
    access_token: str | Var[Any] | None,
    gateway_url: str | Var[Any] | None = None,
    **follow: Any,
) -> RealtimeTaskTriggerWithStreams:
    """Trigger a task from the page and subscribe to its run and the run's streams.

    Args:
        task: The task, or its id.
        streams: Definitions; `result[definition]` has the typed Vars of each.
        access_token: A trigger token, from `tokens.mint_trigger`.
        gateway_url: See `use_realtime_stream`.
        follow: Options of `use_realtime_run_with_streams`.

    Returns:
        The result of `use_realtime_task_trigger`, with the streams.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument has a wrong type or value; the message names the allowed ones.
    """
    check_arguments("use_realtime_task_trigger_with_streams", locals() | follow)
    hook = _trigger_hook(task, access_token, gateway_url)
    return RealtimeTaskTriggerWithStreams(
        hook, task, streams, {"gateway_url": gateway_url, **follow}
    )


def _trigger_hook(
    task: str | Any, access_token: str | Var[Any] | None, gateway_url: str | Var[Any] | None
) -> HookCall:
    id = task if isinstance(task, str) else task.id
    options = {"task": id, "token": access_token, "gatewayUrl": gateway_url}
    return make_call("useTaskTrigger", options)
