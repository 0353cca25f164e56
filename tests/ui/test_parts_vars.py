"""The typed Vars of an AI answer."""

import reflex as rx
from reflex.vars import ArrayVar, NumberVar, ObjectVar, StringVar, Var

from gateway.sdk.parts import Part
from gateway.sdk.streams import define
from gateway.ui import use_realtime_stream

ANSWER = define("answer", Part)


def options_of(var: Var) -> str:
    """Return the line of JavaScript that defines the Var."""
    (line,) = [hook for hook in var._get_all_var_data().hooks if "useRealtimeStream" in hook]
    return line


def test_every_field_of_answer_is_typed() -> None:
    parts = use_realtime_stream("run_a", ANSWER).parts
    assert isinstance(parts.text, StringVar)
    assert isinstance(parts.reasoning, StringVar)
    assert isinstance(parts.error, StringVar)
    assert isinstance(parts.finish.reason, StringVar)
    assert isinstance(parts.sources[0].url, StringVar)
    assert isinstance(parts.steps[0].index, NumberVar)
    assert isinstance(parts.steps[0].state, StringVar)
    assert isinstance(parts.data, ObjectVar)
    call = parts.tool_calls[0]
    assert isinstance(call, ObjectVar)
    assert isinstance(call.state, StringVar)
    assert isinstance(call.input_text, StringVar)
    assert isinstance(call.approval, StringVar)


def test_usage_and_data_parts_are_read_by_name() -> None:
    parts = use_realtime_stream("run_a", ANSWER).parts
    assert str(parts.finish.usage["total_tokens"]).endswith('["usage"]?.["total_tokens"]')
    assert str(parts.data["chart"]).endswith('["data"]?.["chart"]')


def test_parts_by_source_work_in_foreach() -> None:
    stream = use_realtime_stream("run_a", ANSWER)
    assert isinstance(stream.parts_by_source, ArrayVar)
    assert isinstance(stream.parts_by_source[0].parts.tool_calls[0].name, StringVar)
    shown = rx.foreach(
        stream.parts_by_source,
        lambda written: rx.box(
            rx.text(written.source),
            rx.text(written.parts.text),
            rx.foreach(written.parts.tool_calls, lambda call: rx.text(call.name, call.state)),
        ),
    )
    assert '["partsBySource"] : true' in options_of(stream.parts_by_source)
    assert ".partsBySource" in str(shown)
    assert "partsBySource" not in options_of(stream.parts)
