"""`/ask/RUN`: a question, its tool calls, and the answer while it is streamed."""

from __future__ import annotations

import reflex as rx
from reflex.vars import ObjectVar

from demo_app.pages.home import answered_by, question_form
from demo_app.pages.layout import (
    as_json,
    card,
    code,
    connection_state,
    error_callout,
    run_badge,
    run_frame,
)
from demo_app.state import RunView
from demo_app.streams import Decision, answer, decision, stop
from gateway.ui import InputStreamHook, ToolCall, use_input_stream, use_realtime_run_with_streams


def ask() -> rx.Component:
    """Render the question, the tool calls and the answer."""
    run = use_realtime_run_with_streams(
        RunView.id,
        [answer],
        access_token=RunView.access_token,
        max_records=None,
        on_error=RunView.renew,
    )
    parts = run[answer].parts
    stopping = use_input_stream(RunView.id, stop, access_token=RunView.access_token)
    deciding = use_input_stream(RunView.id, decision, access_token=RunView.access_token)
    return run_frame(
        error_callout(run.error),
        rx.flex(
            rx.heading(RunView.question, size="6", as_="h1"),
            run_badge(run),
            connection_state(run[answer]),
            rx.spacer(),
            rx.cond(run.is_executing, _stop_button(stopping)),
            align="center",
            spacing="3",
            wrap="wrap",
        ),
        rx.cond(run.is_failed, error_callout(run.run.error.message)),
        error_callout(stopping.error),
        error_callout(deciding.error),
        rx.cond(
            parts.tool_calls.length() > 0,
            card(
                rx.vstack(
                    rx.foreach(parts.tool_calls, lambda call: _call(call, deciding)),
                    spacing="2",
                    align="stretch",
                ),
                title="Tool calls",
            ),
        ),
        card(
            rx.cond(
                parts.text,
                rx.box(_answer(parts.text), id="answer", overflow_x="auto"),
                rx.cond(
                    run.is_finished,
                    rx.text("There is no answer.", color_scheme="gray"),
                    rx.hstack(rx.spinner(), rx.text("Looking…", color_scheme="gray")),
                ),
            ),
            title="Answer",
        ),
        card(question_form(), answered_by(), title="Ask another"),
        rx.link("The run in detail", href="/runs/" + RunView.id, size="2"),
    )


def _stop_button(stopping: InputStreamHook[str]) -> rx.Component:
    return rx.button(
        rx.icon("square", size=14),
        "Stop",
        on_click=stopping.send("please"),
        loading=stopping.is_pending,
        color_scheme="red",
        variant="soft",
        id="stop",
    )


def _answer(text: rx.Var[str]) -> rx.Component:
    # An answer quotes the question: markup in it must be shown as text, and $ is not a formula.
    return rx.markdown(text, use_raw=False, use_math=False, use_katex=False)


def _call(call: ObjectVar[ToolCall], deciding: InputStreamHook[Decision]) -> rx.Component:
    color = rx.match(
        call.state,
        ("streaming", "gray"),
        ("waiting", "amber"),
        ("running", "blue"),
        ("done", "green"),
        "red",
    )

    def choice(words: str, icon: str, approved: bool, color: str) -> rx.Component:
        return rx.button(
            rx.icon(icon, size=14),
            words,
            on_click=deciding.send({"call_id": call.id, "approved": approved}),
            disabled=deciding.is_pending,
            color_scheme=color,
            variant="soft",
            size="2",
            class_name=words.lower(),
        )

    return rx.box(
        rx.el.details(
            rx.el.summary(
                rx.badge(call.state, color_scheme=color, size="1"),
                " ",
                rx.code(call.name, margin_x="0.25rem", size="2"),
                " ",
                rx.text(call.input.to_string(), as_="span", size="1", color_scheme="gray"),
                style={"cursor": "pointer", "overflow_wrap": "anywhere"},
            ),
            code(as_json(call.output), margin_top="0.5rem"),
        ),
        rx.cond(
            call.state == "waiting",
            rx.flex(
                rx.text("May this file be read?", size="2"),
                choice("Approve", "check", True, "green"),
                choice("Reject", "x", False, "red"),
                spacing="2",
                align="center",
                margin_top="0.5rem",
                wrap="wrap",
            ),
        ),
        class_name="tool-call",
    )
