"""Hooks for sets of runs and for all streams of a run, and views: the emitted JavaScript."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import reflex as rx
from reflex.vars import ArrayVar, BooleanVar, NumberVar, ObjectVar, StringVar, Var, VarData
from reflex_base.utils.exceptions import EventFnArgMismatchError, VarAttributeError

from gateway.sdk.definitions import StreamDefinition
from gateway.ui import (
    LoopVariableError,
    PageRun,
    PageStream,
    use_realtime_batch,
    use_realtime_children,
    use_realtime_run,
    use_realtime_run_with_streams,
    use_realtime_runs_with_tag,
    use_realtime_stream,
)
from gateway.ui.var_types import warn_about_hidden_fields


@dataclass
class Line:
    level: str
    text: str


LINES = StreamDefinition[Line]("lines", Line)


class SetState(rx.State):
    tag: str = ""
    tags: list[str] = []
    run_id: str = ""
    run_ids: list[str] = []
    level: str = "error"

    @rx.event
    def done(self, run: dict[str, Any]) -> None: ...

    @rx.event
    def done_typed(self, run: PageRun) -> None: ...

    @rx.event
    def done_without(self) -> None: ...


def line_of(var: Var[Any]) -> str:
    data = var._get_all_var_data()
    assert data is not None
    return data.hooks[-1]


def test_set_is_a_tag_several_tags_a_batch_or_a_parent() -> None:
    for hook, named in (
        (use_realtime_runs_with_tag("x"), '["tag"] : "x"'),
        (use_realtime_runs_with_tag(["x", "y"]), '["tags"] : ["x", "y"]'),
        (use_realtime_runs_with_tag(SetState.tag), f'["tag"] : {SetState.tag!s}'),
        (use_realtime_runs_with_tag(SetState.tags), f'["tags"] : {SetState.tags!s}'),
        (use_realtime_batch("batch_1"), '["batch"] : "batch_1"'),
        (use_realtime_children(SetState.run_id), f'["parent"] : {SetState.run_id!s}'),
    ):
        line = line_of(hook.runs)
        assert "= useRealtimeRuns(" in line
        assert f'["runs"] : ({{ {named} }})' in line


def test_set_options_are_passed_to_the_client() -> None:
    line = line_of(
        use_realtime_runs_with_tag(
            "x", access_token="t", limit=10, skip=["payload", "output"], throttle_ms=200
        ).status
    )
    for option in ('["limit"] : 10', '["skip"] : ["payload", "output"]', '["throttleMs"] : 200'):
        assert option in line
    assert '["skip"]' not in line_of(use_realtime_runs_with_tag("x").status)


def test_skip_applies_to_run_and_not_to_its_streams() -> None:
    result = use_realtime_run_with_streams("run_a", access_token="t", skip=["payload", "output"])
    assert '["skip"] : ["payload", "output"]' in line_of(result.is_completed)
    assert '["skip"]' not in line_of(result.streams)


def test_runs_are_typed_as_loop_variable_too() -> None:
    mine = use_realtime_runs_with_tag("x")
    assert isinstance(mine.runs, ArrayVar)
    assert isinstance(mine.count, NumberVar)
    assert isinstance(mine.has_more, BooleanVar)
    assert isinstance(mine.is_full, BooleanVar)
    assert str(mine.is_full).endswith(".isFull")
    assert isinstance(mine.status, StringVar)
    assert isinstance(mine.error, StringVar)
    seen = []

    def row(run: Any) -> rx.Component:
        seen.append(run)
        return rx.cond(run.is_failed, rx.text(run.error.message), rx.text(run.status))

    component = rx.box(rx.foreach(mine.runs, row))
    assert line_of(mine.runs) in component._get_all_hooks()
    (run,) = seen[:1]
    for name in (
        "is_queued",
        "is_executing",
        "is_waiting",
        "is_finished",
        "is_completed",
        "is_success",
    ):
        assert isinstance(getattr(run, name), BooleanVar)
    assert isinstance(run.duration_ms, NumberVar)
    assert isinstance(run.tags, ArrayVar)
    assert isinstance(run.metadata["step"], Var)
    with pytest.raises(VarAttributeError):
        _ = run.statsu


def test_page_models_have_no_hidden_fields() -> None:
    warn_about_hidden_fields(PageRun)
    warn_about_hidden_fields(PageStream)


def test_load_more_is_an_event() -> None:
    mine = use_realtime_runs_with_tag("x")
    button = rx.button("More", on_click=mine.load_more, disabled=~mine.has_more)
    assert ".loadMore" in str(button.render())
    assert line_of(mine.runs) in button._get_all_hooks()


def test_set_hook_rejects_loop_variable() -> None:
    for call in (
        lambda item: use_realtime_runs_with_tag(item).runs,
        lambda item: use_realtime_children(item).runs,
        lambda item: use_realtime_batch("b", limit=item).runs,
        lambda item: use_realtime_run_with_streams(item).streams,
        lambda item: use_realtime_stream("run_a", LINES).where("level", item),
    ):
        with pytest.raises(LoopVariableError, match="'item'"):
            rx.foreach(SetState.run_ids, _row_of(call))


def _row_of(call: Any) -> Any:
    return lambda item: rx.text(call(item).to_string())


def test_streams_of_run_are_typed_by_id_and_in_foreach() -> None:
    result = use_realtime_run_with_streams(SetState.run_id, access_token="t")
    assert "= useRealtimeStreams(" in line_of(result.streams)
    assert '["stream"]' not in line_of(result.streams)
    assert isinstance(result.streams, ObjectVar)
    assert isinstance(result.streams["run"].text, StringVar)
    assert isinstance(result.streams["run"].data, ArrayVar)
    seen = []

    def row(item: Any) -> rx.Component:
        seen.append(item)
        return rx.text(item[0], item[1].count)

    rx.box(rx.foreach(result.streams, row))
    assert isinstance(seen[0][1].count, NumberVar)
    assert isinstance(seen[0][1].error, StringVar)
    assert isinstance(result.run.status, StringVar)


def test_stream_of_run_is_typed_by_definition() -> None:
    result = use_realtime_run_with_streams("run_a", access_token="t")
    assert isinstance(result[LINES].latest.level, StringVar)
    alone = use_realtime_stream("run_a", LINES, access_token="t")
    assert line_of(result[LINES].status) == line_of(alone.status)


def test_page_run_has_the_fields_of_the_client() -> None:
    result = use_realtime_run("run_a", skip=["payload"])
    assert '["skip"] : ["payload"]' in line_of(result.run)
    assert str(result.is_failed).endswith("?.is_failed ?? false)")
    assert isinstance(result.run.is_canceled, BooleanVar)
    assert isinstance(result.is_waiting, BooleanVar)


@pytest.mark.parametrize(
    "handler", [SetState.done, SetState.done_typed, SetState.done_without, rx.console_log("done")]
)
def test_on_complete_dispatches_with_the_run(handler: Any) -> None:
    line = line_of(use_realtime_run("run_a", on_complete=handler).status)
    assert '["onComplete"] : ((_run) => ' in line


def test_run_handlers_are_called_when_only_streams_are_used() -> None:
    result = use_realtime_run_with_streams("run_a", on_complete=SetState.done)
    for var in (result.streams, result[LINES].latest, result[LINES].last(3)):
        data = var._get_all_var_data()
        assert data is not None
        assert sum("useRealtimeRun(" in line for line in data.hooks) == 1
    quiet = use_realtime_run_with_streams("run_a").streams._get_all_var_data()
    assert quiet is not None
    assert not any("useRealtimeRun(" in line for line in quiet.hooks)


def test_value_of_where_is_passed_unchanged() -> None:
    stream = use_realtime_stream("run_a", LINES)
    assert str(stream.where("level", "$.a")).endswith('.view(["where", "level", "$.a"])')


def test_views_have_the_types_of_the_stream() -> None:
    stream = use_realtime_stream("run_a", LINES)
    errors = stream.where("level", SetState.level)
    assert isinstance(errors, ArrayVar)
    assert isinstance(errors[0].text, StringVar)
    assert f'["view"] : ["where", "level", {SetState.level!s}]' in line_of(errors)
    assert f'.view(["where", "level", {SetState.level!s}])' in str(errors)
    assert isinstance(stream.last(3)[0].text, StringVar)
    assert str(stream.last(3)).endswith(".last(3)")
    groups = stream.group_by_source
    assert isinstance(groups, ObjectVar)
    assert isinstance(groups["run_b"][0].text, StringVar)
    assert '["view"]' not in line_of(stream.data)


@pytest.mark.parametrize(
    "hook",
    [
        lambda handler: use_realtime_stream("run_a", LINES, on_token_expiring=handler),
        lambda handler: use_realtime_run("run_a", on_token_expiring=handler),
        lambda handler: use_realtime_run_with_streams("run_a", on_token_expiring=handler),
        lambda handler: use_realtime_runs_with_tag("x", on_token_expiring=handler),
        lambda handler: use_realtime_batch("b", on_token_expiring=handler),
        lambda handler: use_realtime_children("run_a", on_token_expiring=handler),
    ],
)
def test_on_token_expiring_handler_has_no_arguments(hook: Any) -> None:
    line = line_of(hook(SetState.done_without).status)
    assert '["onTokenExpiring"] : ((...args) => ' in line
    assert "onTokenExpiring" not in line_of(hook(None).status)
    with pytest.raises(EventFnArgMismatchError):
        hook(SetState.done)


def test_token_expiry_handler_is_shared_by_run_and_streams() -> None:
    result = use_realtime_run_with_streams(
        "run_a", [LINES], on_token_expiring=SetState.done_without
    )
    data = VarData.merge(
        *(var._get_all_var_data() for var in (result.status, result.streams, result[LINES].latest))
    )
    assert data is not None
    assert sum("onTokenExpiring" in line for line in data.hooks) == 1
