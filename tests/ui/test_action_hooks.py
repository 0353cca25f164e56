"""Hooks for actions of a page: the emitted JavaScript and the types of the Vars."""

from __future__ import annotations

import pytest
import reflex as rx
from reflex.vars import BooleanVar, StringVar

from gateway import streams
from gateway.ui import (
    LoopVariableError,
    use_input_stream,
    use_realtime_task_trigger,
    use_realtime_task_trigger_with_streams,
    use_task_trigger,
)

approval = streams.input("consent", dict[str, bool])
progress = streams.define("progress", int)


class Actor(rx.State):
    run_id: str = ""
    token: str = ""
    prompt: str = ""
    runs: list[str] = []


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _hooks(component: rx.Component) -> str:
    return "\n".join(component._get_all_hooks())


def test_send_returns_event_with_its_value():
    sender = use_input_stream(Actor.run_id, approval, access_token=Actor.token)
    button = rx.button("Approve", on_click=sender.send({"ok": True}), loading=sender.is_pending)
    rendered = str(button.render())
    assert ".send" in rendered and '["ok"] : true' in rendered
    assert '"stream"] : "consent"' in _hooks(button)
    assert isinstance(sender.is_pending, BooleanVar)
    assert isinstance(sender.error, StringVar)


def test_sent_value_may_read_state():
    sender = use_input_stream(Actor.run_id, approval, access_token=Actor.token)
    button = rx.button("x", on_click=sender.send(Actor.prompt))
    assert "prompt_rx_state_" in str(button.render())


def test_state_is_read_before_the_hook():
    sender = use_input_stream(Actor.run_id, approval, access_token=Actor.token)
    hooks = _hooks(rx.text(sender.error))
    assert hooks.index("useStateContext") < hooks.index("useInputStream")


def test_trigger_accepts_task_or_its_id():
    class Named:
        id = "generate-text"

    by_id = use_task_trigger("generate-text", access_token=Actor.token)
    by_task = use_task_trigger(Named(), access_token=Actor.token)
    assert str(by_id.run_id) == str(by_task.run_id)


def test_realtime_trigger_subscribes_to_its_run():
    job = use_realtime_task_trigger("generate-text", access_token=Actor.token)
    hooks = _hooks(rx.text(job.run.status))
    assert hooks.index("useTaskTrigger") < hooks.index("useRealtimeRun")
    assert ".handle?.id" in hooks and ".handle?.access_token" in hooks


def test_trigger_with_streams_has_typed_vars():
    job = use_realtime_task_trigger_with_streams(
        "generate-text", [progress], access_token=Actor.token, max_records=10
    )
    hooks = _hooks(rx.fragment(rx.text(job[progress].latest), rx.text(job.run.task)))
    assert '"stream"] : "progress"' in hooks and '"maxRecords"] : 10' in hooks
    with pytest.raises(KeyError):
        job[approval]


def test_action_hook_rejects_loop_variable_with_remedy():
    def row(run_id):
        return rx.text(use_input_stream(run_id, approval, access_token=Actor.token).error)

    with pytest.raises(LoopVariableError, match=r"@rx\.memo"):
        rx.foreach(Actor.runs, row)
