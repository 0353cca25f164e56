"""Hooks for what a page does: send to a run, trigger a task.

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

from .arguments import check
from .hooks import (
    RealtimeRunWithStreams,
    hook_of,
    use_realtime_run,
    use_realtime_run_with_streams,
)
from .refusals import as_json, check_keys, refused, shown
from .text_numbers import exact, field_names
from .vars import Hook, RealtimeRun, RealtimeStream, Refusable

T = TypeVar("T")


class _Action(Refusable):
    @property
    def is_pending(self) -> BooleanVar:
        """A call is under way or waits for its turn.

        The calls of one hook are made one at a time, in order; up to 32 may be pending. A double
        click is one call: a call with the value of the one right before it, which is not over yet,
        is left out. So a value that may be sent twice in a row needs something that differs.
        """
        return cast(BooleanVar, self._hook.read("$.isPending", bool))

    @property
    def error(self) -> StringVar[str]:
        """Why the last call that failed did so; "" when none did.

        It stays, also when a later call succeeds, until a call is made while none is pending.
        """
        return super().error

    @property
    def count(self) -> NumberVar[int]:
        """How many calls have succeeded since the page was opened."""
        return cast("NumberVar[int]", self._hook.read("$.count", int))

    def _call(self, function: str, argument: Any) -> FunctionVar[Any]:
        # Called with the event's own arguments behind, which the client's function ignores.
        callable_ = self._hook.read(f"$.{function}", None)
        return cast("FunctionVar[Any]", callable_.to(FunctionVar).partial(argument))


class InputStreamHook(_Action, Generic[T]):
    """Sends values to an input of a run."""

    def __init__(self, hook: Hook, definition: StreamDefinition[T]) -> None:
        super().__init__(hook)
        self._definition = definition

    def send(self, value: T | Mapping[str, Any] | Var[Any]) -> FunctionVar[Any]:
        """Make an event that sends a value, for `on_click` and the like.

        Args:
            value: Of the input's type, as JSON-able values or Vars. What is known now is checked
                now, and all of it by the gateway.

        Raises:
            InvalidValue: the value does not fit the input's type.
        """
        value = exact(value, "the value")
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

    def __init__(self, hook: Hook, task: Any) -> None:
        super().__init__(hook)
        self._task = task

    def trigger(self, payload: Mapping[str, Any] | Var[Any]) -> FunctionVar[Any]:
        """Make an event that triggers the task with these keyword arguments.

        Args:
            payload: JSON-able values or Vars by the names of the task's parameters. Where the hook
                was given the task and not its id, names are checked now, and so are values that are
                known now.

        Raises:
            InvalidValue: the payload does not fit the task.
        """
        payload = exact(payload, "the payload")
        self._check(payload)
        return self._call("trigger", payload)

    def _check(self, payload: Any) -> None:
        hook = "use_task_trigger(…).trigger"
        if isinstance(payload, StringVar | NumberVar | BooleanVar | ArrayVar) or not isinstance(
            payload, Mapping | Var
        ):
            allowed = "an object of the task's keyword arguments, or a Var of one"
            remedy = 'Write .trigger({"name": value})'
            raise refused(hook, "the payload", shown(payload), allowed, remedy)
        check_arguments = getattr(self._task, "check_arguments", None)
        if check_arguments is None or isinstance(payload, Var):
            return  # known by its id only: the gateway checks
        try:
            check_arguments({name: as_json(value) for name, value in payload.items()})
        except InvalidValue as error:
            raise InvalidValue(f"{hook}: {error.message}") from None

    @property
    def run_id(self) -> StringVar[str]:
        """Id of the run that the last successful call triggered; "" before."""
        return cast("StringVar[str]", self._hook.read('($.handle?.id ?? "")', str))

    @property
    def access_token(self) -> StringVar[str]:
        """Token that reads this run; "" before."""
        return cast("StringVar[str]", self._hook.read('($.handle?.access_token ?? "")', str))


class RealtimeTaskTrigger(TaskTrigger):
    """Triggers a task and follows the run that comes of it."""

    def __init__(self, hook: Hook, task: Any, follow: Mapping[str, Any]) -> None:
        super().__init__(hook, task)
        self.realtime: RealtimeRun = use_realtime_run(
            self.run_id, task=_typed(task), access_token=self.access_token, **follow
        )

    @property
    def run(self) -> Any:
        """The run as it is now; None before there is one."""
        return self.realtime.run


class RealtimeTaskTriggerWithStreams(TaskTrigger):
    """Triggers a task and follows the run and streams that come of it."""

    def __init__(
        self,
        hook: Hook,
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
        """The run as it is now; None before there is one."""
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

    A lost connection is waited for, and a value is written once.

    Args:
        run_id: The run.
        stream: The input's definition, from `streams.input`.
        access_token: May append to it: `write:streams:RUN/ID`.
        gateway_url: See `use_realtime_stream`.

    Returns:
        `send(value)` gives an event; `is_pending`, `error`, `count` are Vars.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument is of a wrong type or outside its rule; names what is allowed.
    """
    check("use_input_stream", locals(), stream="definition")
    options = {
        "runId": run_id,
        "stream": stream.id,
        "token": access_token,
        "gatewayUrl": gateway_url,
    }
    return InputStreamHook(hook_of("useInputStream", options), stream)


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
        `trigger(payload)` gives an event; `run_id`, `access_token`, `is_pending`, `error` are Vars.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument is of a wrong type or outside its rule; names what is allowed.
    """
    check("use_task_trigger", locals())
    return TaskTrigger(_trigger_hook(task, access_token, gateway_url), task)


def use_realtime_task_trigger(
    task: str | Any,
    *,
    access_token: str | Var[Any] | None,
    gateway_url: str | Var[Any] | None = None,
    **follow: Any,
) -> RealtimeTaskTrigger:
    """Trigger a task from the page and follow the run.

    Args:
        task: The task, or its id.
        access_token: A trigger token, from `tokens.mint_trigger`.
        gateway_url: See `use_realtime_stream`.
        follow: Options of `use_realtime_run`.

    Returns:
        As `use_task_trigger`, with `run` and `realtime`.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument is of a wrong type or outside its rule; names what is allowed.
    """
    check("use_realtime_task_trigger", locals() | follow)
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
    """Trigger a task from the page and follow the run and its streams.

    Args:
        task: The task, or its id.
        streams: Definitions; `result[definition]` gives each its typed Vars.
        access_token: A trigger token, from `tokens.mint_trigger`.
        gateway_url: See `use_realtime_stream`.
        follow: Options of `use_realtime_run_with_streams`.

    Returns:
        As `use_realtime_task_trigger`, with the streams.

    Raises:
        LoopVariableError: an argument is a loop variable of `rx.foreach`.
        InvalidValue: an argument is of a wrong type or outside its rule; names what is allowed.
    """
    check("use_realtime_task_trigger_with_streams", locals() | follow)
    hook = _trigger_hook(task, access_token, gateway_url)
    return RealtimeTaskTriggerWithStreams(
        hook, task, streams, {"gateway_url": gateway_url, **follow}
    )


def _trigger_hook(
    task: str | Any, access_token: str | Var[Any] | None, gateway_url: str | Var[Any] | None
) -> Hook:
    id = task if isinstance(task, str) else task.id
    options = {"task": id, "token": access_token, "gatewayUrl": gateway_url}
    return hook_of("useTaskTrigger", options)
