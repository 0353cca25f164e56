"""`/runs/RUN`: one run, with the data that any client can read."""

from __future__ import annotations

from typing import Any

import reflex as rx
from reflex.vars import ObjectVar

from demo_app.pages.layout import (
    as_json,
    card,
    code,
    connection_state,
    error_callout,
    load_more_button,
    run_badge,
    run_frame,
    status_badge,
)
from demo_app.state import RunView
from gateway.ui import (
    PageRun,
    RealtimeRun,
    use_realtime_children,
    use_realtime_run,
    use_realtime_stream,
)

RAW_RECORDS = 50  # shown per stream


def run_detail() -> rx.Component:
    """Render a run's status, times, values, children and streams, and a token to copy."""
    run = use_realtime_run(RunView.id, access_token=RunView.access_token, on_error=RunView.renew)
    return run_frame(
        error_callout(run.error),
        rx.flex(
            rx.heading("Run of ", rx.code(RunView.task), size="6", as_="h1"),
            run_badge(run),
            connection_state(run),
            align="center",
            spacing="3",
            wrap="wrap",
        ),
        rx.text(RunView.id, size="1", color_scheme="gray", id="run-id"),
        rx.grid(
            _time_line(run),
            _values(run),
            columns=rx.breakpoints(initial="1", md="1fr 2fr"),
            spacing="5",
            align="start",
        ),
        _children(),
        _streams(),
        _token(),
    )


def _time_line(run: RealtimeRun) -> rx.Component:
    def moment(label: str, at: Any) -> rx.Component:
        return rx.cond(
            at,
            rx.flex(
                rx.text(label, size="2"),
                rx.text(
                    at,
                    size="1",
                    color_scheme="gray",
                    style={"font_variant_numeric": "tabular-nums"},
                ),
                justify="between",
                wrap="wrap",
            ),
        )

    now = run.run
    return card(
        moment("Triggered", now.created_at),
        moment("Started", now.started_at),
        moment("Cancellation requested", now.cancel_requested_at),
        moment("Finished", now.finished_at),
        rx.cond(
            now.parent_id,
            rx.link("Parent run", href="/runs/" + now.parent_id.to(str), size="2"),
        ),
        title="Time line",
    )


def _values(run: RealtimeRun) -> rx.Component:
    now = run.run
    return card(
        rx.text("Payload", size="1", color_scheme="gray"),
        code(as_json(now.payload), id="payload"),
        rx.cond(
            run.run.metadata.length() > 0,
            rx.fragment(
                rx.text("Metadata", size="1", color_scheme="gray"),
                code(as_json(now.metadata), id="metadata"),
            ),
        ),
        rx.cond(
            run.is_success,
            rx.fragment(
                rx.text("Output", size="1", color_scheme="gray"),
                code(as_json(now.output), id="output"),
            ),
        ),
        rx.cond(
            now.error,
            error_callout(now.error.type + ": " + now.error.message),
        ),
        title="Input and output",
    )


def _children() -> rx.Component:
    children = use_realtime_children(
        RunView.id, access_token=RunView.access_token, skip=["payload", "output"]
    )
    return rx.cond(
        children.count > 0,
        card(
            rx.vstack(rx.foreach(children.runs, _child), spacing="2"),
            load_more_button(children),
            title="Children",
        ),
    )


def _child(run: ObjectVar[PageRun]) -> rx.Component:
    return rx.flex(
        rx.link(
            rx.text(run.id, size="1", style={"overflow_wrap": "anywhere"}),
            href="/runs/" + run.id.to(str),
        ),
        status_badge(run.status),
        spacing="2",
        align="center",
        wrap="wrap",
        class_name="child",
    )


def _streams() -> rx.Component:
    return rx.fragment(*(_raw_stream(id) for id in ("progress", "summary", "answer", "events")))


def _raw_stream(id: str) -> rx.Component:
    stream = use_realtime_stream(
        RunView.id,
        stream=id,
        access_token=RunView.access_token,
        start={"last": RAW_RECORDS},
        max_records=RAW_RECORDS,
        throttle_ms=200,
    )
    lines: rx.Var[str] = rx.Var(
        f"{stream.records!s}.map((record) => JSON.stringify(record)).join('\\n')",
        _var_data=stream.records._get_all_var_data(),
    )
    return rx.cond(
        stream.count > 0,
        card(
            rx.flex(
                rx.heading("Stream ", rx.code(id), size="3", as_="h2"),
                connection_state(stream),
                spacing="3",
                align="center",
            ),
            rx.text(f"The last {RAW_RECORDS} records, as sent.", size="1", color_scheme="gray"),
            code(lines, follow=True, id=f"stream-{id}"),
        ),
    )


def _token() -> rx.Component:
    return card(
        rx.text(
            "This token reads only this run and its streams. It expires after one hour. Paste it "
            "into any WebSocket client:",
            size="2",
            color_scheme="gray",
        ),
        _copyable(RunView.paste_token, "token"),
        rx.text("In a terminal, from the project's folder:", size="2", color_scheme="gray"),
        _copyable(RunView.command, "command"),
        title="Watch it from anywhere",
    )


def _copyable(text: Any, id: str) -> rx.Component:
    return rx.flex(
        code(text, id=id),
        rx.icon_button(
            rx.icon("copy", size=14),
            on_click=[rx.set_clipboard(text), rx.toast.success("Copied")],
            variant="soft",
            aria_label=f"Copy the {id}",
        ),
        spacing="2",
        align="center",
        width="100%",
    )
