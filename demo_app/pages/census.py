"""`/census/RUN`: progress and result of a census."""

from __future__ import annotations

from typing import Any

import reflex as rx
from reflex.vars import ObjectVar

from demo_app.census.reader import FileStats
from demo_app.census.totals import CensusProgress, WorkerRow
from demo_app.pages.layout import (
    card,
    code,
    connection_state,
    error_callout,
    run_badge,
    run_frame,
    tile,
    tiles,
    with_separators,
)
from demo_app.state import RunView
from demo_app.streams import summary
from gateway.ui import RealtimeRun, RealtimeStream, use_realtime_run, use_realtime_stream


def census() -> rx.Component:
    """Render progress, throughput, workers and the largest modules."""
    run = use_realtime_run(RunView.id, access_token=RunView.access_token, on_error=RunView.renew)
    now = use_realtime_stream(
        RunView.id,
        stream=summary,
        access_token=RunView.access_token,
        throttle_ms=100,
        start={"last": 1},  # each record is a complete summary
        max_records=1,
        on_error=RunView.renew,
    )
    latest = now.latest
    return run_frame(
        error_callout(now.error),
        rx.cond(
            run.is_failed,
            error_callout(run.run.error.type + ": " + run.run.error.message),
        ),
        _head(run, now),
        card(
            _bar(latest),
            tiles(
                tile("Lines", with_separators(latest.totals.lines), id="lines"),
                tile("Tokens", with_separators(latest.totals.tokens), id="tokens"),
                tile("Files a second", latest.files_per_s, id="rate"),
                tile("Seconds", latest.elapsed_s, id="seconds"),
            ),
        ),
        rx.grid(
            card(_largest(latest.largest), title="Largest modules"),
            card(
                rx.vstack(rx.foreach(latest.workers, _worker), spacing="3", align="stretch"),
                title="Child tasks",
            ),
            columns=rx.breakpoints(initial="1", md="3fr 2fr"),
            spacing="5",
            align="start",
        ),
        rx.cond(
            latest.problems.length() > 0,
            card(code(latest.problems.join("\n")), title="Files that could not be read as Python"),
        ),
    )


def _head(run: RealtimeRun, now: RealtimeStream[CensusProgress]) -> rx.Component:
    return rx.flex(
        rx.heading("Code census", size="7", as_="h1"),
        run_badge(run),
        rx.cond(
            run.is_waiting,
            rx.text("for its child tasks", size="1", color_scheme="gray", id="waits-for"),
        ),
        connection_state(now),
        rx.spacer(),
        rx.cond(
            run.is_queued | run.is_executing,
            rx.button(
                rx.icon("square", size=14),
                "Cancel",
                on_click=RunView.cancel,
                color_scheme="red",
                variant="soft",
                id="cancel",
            ),
        ),
        rx.link("The run in detail", href="/runs/" + RunView.id, size="2"),
        align="center",
        spacing="3",
        wrap="wrap",
    )


def _bar(latest: ObjectVar[CensusProgress]) -> rx.Component:
    return rx.vstack(
        rx.progress(value=latest.percent, size="3", width="100%"),
        rx.flex(
            rx.text(latest.files_done, " of ", latest.files_total, " files", size="2", id="files"),
            rx.text(latest.percent, "%", size="2", weight="bold", id="percent"),
            justify="between",
            width="100%",
        ),
        rx.text(latest.module, size="1", color_scheme="gray", truncate=True, min_height="1.2em"),
        width="100%",
        spacing="2",
        align="stretch",
    )


def _worker(row: ObjectVar[WorkerRow]) -> rx.Component:
    return worker_card(
        run_id=row.worker,
        module=row.module,
        percent=row.percent,
        access_token=RunView.access_token,
    )


@rx.memo
def worker_card(
    run_id: rx.Var[str], module: rx.Var[str], percent: rx.Var[int], access_token: rx.Var[str]
) -> rx.Component:
    """Render one child run. Each card has its own hook, so that it follows its own run."""
    run = use_realtime_run(run_id, access_token=access_token)
    return rx.box(
        rx.flex(
            rx.link(
                rx.text(
                    "…",
                    run_id.to(str)[-6:],
                    size="2",
                    style={"font_family": "var(--code-font-family)"},
                ),
                href="/runs/" + run_id.to(str),
            ),
            run_badge(run),
            rx.spacer(),
            rx.text(percent, "%", size="2", class_name="worker-percent"),
            align="center",
            spacing="2",
        ),
        rx.progress(value=percent, size="1", margin_y="0.4rem"),
        rx.text(module, size="1", color_scheme="gray", truncate=True),
        class_name="worker",
        min_width="0",
    )


def _largest(rows: Any) -> rx.Component:
    def row(stats: ObjectVar[FileStats]) -> rx.Component:
        number = {"font_variant_numeric": "tabular-nums", "text_align": "right"}
        return rx.table.row(
            rx.table.cell(
                rx.text(
                    stats.module,
                    size="2",
                    title=stats.module,
                    max_width=rx.breakpoints(initial="8.5rem", sm="16rem"),
                    # If a name wrapped, the rows below it would move.
                    white_space="nowrap",
                    overflow="hidden",
                    text_overflow="ellipsis",
                ),
            ),
            rx.table.cell(with_separators(stats.lines), style=number),
            rx.table.cell(with_separators(stats.tokens), style=number),
            class_name="module",
        )

    right = {"text_align": "right"}
    return rx.table.root(
        rx.table.header(
            rx.table.row(
                rx.table.column_header_cell("Module"),
                rx.table.column_header_cell("Lines", style=right),
                rx.table.column_header_cell("Tokens", style=right),
            )
        ),
        rx.table.body(rx.foreach(rows, row)),
        size="1",
        width="100%",
    )
