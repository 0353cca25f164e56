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

from reflex.vars import BooleanVar, NumberVar, StringVar, Var
from reflex.vars.function import FunctionVar

from gateway.sdk.definitions import StreamDefinition
from ui.hooks import (
    RealtimeRunWithStreams,
    hook_of,
    use_realtime_run,
    use_realtime_run_with_streams,
)
from ui.text_numbers import exact
from ui.vars import Hook, RealtimeRun, RealtimeStream, Refusable

T = TypeVar("T")


class _Action(Refusable):
    @property
    def is_pending(self) -> BooleanVar:
        """It is under way; a second click meanwhile does nothing."""
        return cast(BooleanVar, self._hook.read("$.isPending", bool))

    @property
    def count(self) -> NumberVar[int]:
        """How often it has been done since the page was opened."""
        return cast("NumberVar[int]", self._hook.read("$.count", int))

    def _call(self, function: str, argument: Any) -> FunctionVar[Any]:
        # Called with the event's own arguments behind, which the client's function ignores.
        callable_ = self._hook.read(f"$.{function}", None)
        return cast("FunctionVar[Any]", callable_.to(FunctionVar).partial(argument))


class InputStreamHook(_Action, Generic[T]):
    """Sends values to an input of a run."""

    def send(self, value: T | Mapping[str, Any] | Var[Any]) -> FunctionVar[Any]:
        """Make an event that sends a value, for `on_click` and the like.

        Args:
            value: Of the input's type, as JSON-able values or Vars; the gateway checks it.
        """
        return self._call("send", exact(value, "the value"))


class TaskTrigger(_Action):
    """Triggers a task from the page."""

    def trigger(self, payload: Mapping[str, Any] | Var[Any]) -> FunctionVar[Any]:
        """Make an event that triggers the task with these keyword arguments."""
        return self._call("trigger", exact(payload, "the payload"))

    @property
    def run_id(self) -> StringVar[str]:
        """Id of the run that was triggered last; "" before."""
        return cast("StringVar[str]", self._hook.read('($.handle?.id ?? "")', str))

    @property
    def access_token(self) -> StringVar[str]:
        """Token that reads this run; "" before."""
        return cast("StringVar[str]", self._hook.read('($.handle?.access_token ?? "")', str))


class RealtimeTaskTrigger(TaskTrigger):
    """Triggers a task and follows the run that comes of it."""

    def __init__(self, hook: Hook, follow: Mapping[str, Any]) -> None:
        super().__init__(hook)
        self.realtime: RealtimeRun = use_realtime_run(
            self.run_id, access_token=self.access_token, **follow
        )

    @property
    def run(self) -> Any:
        """The run as it is now; None before there is one."""
        return self.realtime.run


class RealtimeTaskTriggerWithStreams(TaskTrigger):
    """Triggers a task and follows the run and streams that come of it."""

    def __init__(
        self, hook: Hook, streams: Sequence[StreamDefinition[Any]], follow: Mapping[str, Any]
    ) -> None:
        super().__init__(hook)
        self.realtime: RealtimeRunWithStreams = use_realtime_run_with_streams(
            self.run_id, streams, access_token=self.access_token, **follow
        )

    @property
    def run(self) -> Any:
        """The run as it is now; None before there is one."""
        return self.realtime.run

    def __getitem__(self, definition: StreamDefinition[T]) -> RealtimeStream[T]:
        return self.realtime[definition]


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
    """
    options = {
        "runId": run_id,
        "stream": stream.id,
        "token": access_token,
        "gatewayUrl": gateway_url,
    }
    return InputStreamHook(hook_of("useInputStream", options))


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
    """
    return TaskTrigger(_trigger_hook(task, access_token, gateway_url))


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
    """
    hook = _trigger_hook(task, access_token, gateway_url)
    return RealtimeTaskTrigger(hook, {"gateway_url": gateway_url, **follow})


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
    """
    hook = _trigger_hook(task, access_token, gateway_url)
    return RealtimeTaskTriggerWithStreams(hook, streams, {"gateway_url": gateway_url, **follow})


def _trigger_hook(
    task: str | Any, access_token: str | Var[Any] | None, gateway_url: str | Var[Any] | None
) -> Hook:
    id = task if isinstance(task, str) else task.id
    options = {"task": id, "token": access_token, "gatewayUrl": gateway_url}
    return hook_of("useTaskTrigger", options)
