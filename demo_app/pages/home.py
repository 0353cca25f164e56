"""`/`: forms that start runs, and `/runs`: the visitor's runs."""

from __future__ import annotations

import reflex as rx
from reflex.vars import ObjectVar

from demo_app.assistant.model import model_name
from demo_app.pages.layout import (
    as_json,
    card,
    code,
    error_callout,
    frame,
    load_more_button,
    run_badge,
    status_badge,
)
from demo_app.state import AskForm, CensusForm, MyRuns
from demo_app.streams import events
from demo_app.tasks import deliver
from gateway.ui import (
    PageRun,
    RealtimeTaskTriggerWithStreams,
    use_realtime_runs_with_tag,
    use_realtime_task_trigger_with_streams,
)

EXAMPLES = (
    "How do I find the largest items in a list?",
    "How does functools.lru_cache work?",
    "How do I run a subprocess with a timeout?",
    "What is a deque?",
)


def home() -> rx.Component:
    """Render the forms and the visitor's recent runs."""
    return frame(
        rx.box(
            rx.heading("Watch Python work, live", size="8", as_="h1", trim="both"),
            rx.text(
                "Start one of the tasks below. It runs in the background on the server. Each "
                "record that it appends is shown here immediately. After a reload, a lost "
                "connection or a restart of the server, no record is missing.",
                size="3",
                color_scheme="gray",
                margin_top="1rem",
                max_width="44rem",
            ),
        ),
        rx.grid(
            _census_form(), _ask_form(), columns=rx.breakpoints(initial="1", md="2"), spacing="5"
        ),
        rx.grid(
            _delivery(),
            _runs(),
            columns=rx.breakpoints(initial="1", md="2"),
            spacing="5",
            align="start",
        ),
    )


def my_runs() -> rx.Component:
    """List the visitor's runs."""
    return frame(rx.heading("My runs", size="7", as_="h1"), _runs(title=""))


def _census_form() -> rx.Component:
    option = rx.foreach(
        CensusForm.choices, lambda choice: rx.select.item(choice["label"], value=choice["id"])
    )
    source = rx.select.root(
        rx.select.trigger(width="100%", id="source"),
        rx.select.content(option),
        value=CensusForm.source,
        on_change=CensusForm.choose,
    )
    workers = rx.hstack(
        rx.text("Divided among", size="2"),
        rx.segmented_control.root(
            *(rx.segmented_control.item(count, value=count) for count in ("1", "2", "4", "8")),
            value=CensusForm.workers,
            on_change=CensusForm.set_workers,
            size="1",
        ),
        rx.text("child tasks", size="2"),
        align="center",
        spacing="2",
        wrap="wrap",
    )
    return card(
        rx.text(
            "Reads and tokenises every Python file of the source you select: the server's "
            "standard library, an installed package, or this project.",
            size="2",
            color_scheme="gray",
        ),
        source,
        workers,
        rx.button(
            rx.icon("play", size=16),
            "Take the census",
            on_click=CensusForm.start,
            size="3",
            id="start",
        ),
        title="Code census",
    )


def _ask_form() -> rx.Component:
    return card(
        rx.text(
            "Searches and reads the sources of Python's standard library to answer a question, and "
            "shows each step.",
            size="2",
            color_scheme="gray",
        ),
        question_form(),
        rx.flex(
            *(
                rx.button(
                    example,
                    on_click=AskForm.example(example),  # type: ignore[operator]
                    variant="soft",
                    size="1",
                    type="button",
                )
                for example in EXAMPLES
            ),
            spacing="2",
            wrap="wrap",
        ),
        answered_by(),
        title="Ask the standard library",
    )


def question_form() -> rx.Component:
    """Render the form for a question."""
    return rx.form.root(
        rx.flex(
            rx.input(
                name="question",
                placeholder="How do I …?",
                value=AskForm.question,
                on_change=AskForm.set_question,
                size="3",
                flex="1",
                min_width="12rem",
                id="question",
                aria_label="Your question",
            ),
            rx.button(rx.icon("send", size=16), "Ask", type="submit", size="3", id="ask"),
            spacing="2",
            wrap="wrap",
        ),
        rx.text(
            rx.hstack(
                rx.checkbox(name="ask_first", id="ask-first", default_checked=False),
                "Ask me before a file is read",
                spacing="2",
                align="center",
            ),
            as_="label",
            size="2",
            margin_top="0.75rem",
            display="block",
        ),
        on_submit=AskForm.submit,
        width="100%",
    )


def answered_by() -> rx.Component:
    """Render whether a model or the offline program answers."""
    model = model_name()
    text = (
        f"Answered by the model {model}, which calls the search and read tools."
        if model
        else "Answered offline, without a model: a small program calls the search and read tools "
        "and composes the answer from what they return. Set OPENAI_API_KEY to use a model."
    )
    return rx.hstack(
        rx.icon("info", size=14, flex_shrink="0"),
        rx.text(text, size="1", color_scheme="gray"),
        align="center",
        spacing="2",
        id="who-answers",
    )


def _runs(title: str = "My runs") -> rx.Component:
    mine = use_realtime_runs_with_tag(
        MyRuns.tag,
        access_token=MyRuns.access_token,
        limit=30,
        skip=["output"],
        on_error=MyRuns.renew,
    )
    return card(
        error_callout(mine.error),
        rx.cond(
            mine.count > 0,
            rx.table.root(rx.table.body(rx.foreach(mine.runs, _top_run)), size="1", width="100%"),
            rx.text("No runs yet.", size="2", color_scheme="gray"),
        ),
        load_more_button(mine, id="more"),
        title=title or None,
    )


def _top_run(run: ObjectVar[PageRun]) -> rx.Component:
    # Children carry the tag too; the list shows only top-level runs.
    return rx.cond(run.parent_id, rx.fragment(), _run_row(run))


def _run_row(run: ObjectVar[PageRun]) -> rx.Component:
    page = rx.match(run.task, ("take-census", "/census/"), ("ask", "/ask/"), "/runs/")
    return rx.table.row(
        rx.table.cell(
            rx.link(run.task, href=page.to(str) + run.id),
            rx.text(
                _description(run),
                size="1",
                color_scheme="gray",
                style={"overflow_wrap": "anywhere"},
            ),
        ),
        rx.table.cell(
            status_badge(run.status),
            rx.cond(
                run.attempt.to(int) > 1,
                rx.text(
                    "attempt ", run.attempt, size="1", color_scheme="gray", white_space="nowrap"
                ),
            ),
        ),
        rx.table.cell(
            rx.cond(
                run.duration_ms,
                rx.text(
                    run.duration_ms, " ms", size="1", color_scheme="gray", white_space="nowrap"
                ),
            ),
            display=rx.breakpoints(initial="none", sm="table-cell"),
        ),
        rx.table.cell(rx.link("details", href="/runs/" + run.id.to(str), size="1")),
        class_name="my-run",
    )


def _description(run: ObjectVar[PageRun]) -> rx.Var[str]:
    """Return what distinguishes a run from others of its task: its question or its source."""
    payload = run.payload
    return rx.Var(
        f"({payload!s}?.question ?? {payload!s}?.source_id ?? '')",
        _var_data=payload._get_all_var_data(),
    )


def _delivery() -> rx.Component:
    job = use_realtime_task_trigger_with_streams(
        deliver, [events], access_token=MyRuns.trigger_token, max_records=5
    )

    def start(words: str, failures: int, id: str) -> rx.Component:
        return rx.button(
            words,
            on_click=job.trigger({"parcels": 5, "failures": failures}),
            disabled=job.is_pending | job.realtime.is_executing | job.realtime.is_queued,
            variant="soft",
            id=id,
        )

    return card(
        rx.text(
            "The page itself triggers this task, with a token that is valid for this task only. "
            "The task fails on purpose and is retried, up to four attempts. Its metadata and "
            "events are shown here.",
            size="2",
            color_scheme="gray",
        ),
        rx.flex(
            start("Fail twice", 2, "deliver"),
            start("Fail every time", 9, "deliver-never"),
            spacing="2",
            wrap="wrap",
        ),
        error_callout(job.error),
        rx.cond(job.run_id, _delivered(job)),
        title="A job that fails",
    )


def _delivered(job: RealtimeTaskTriggerWithStreams) -> rx.Component:
    run = job.run
    return rx.vstack(
        rx.flex(
            run_badge(job.realtime),
            rx.text("attempt ", run.attempt, " of ", run.max_attempts, size="2", id="attempt"),
            rx.cond(run.delay_until, rx.text("waiting for the next attempt", size="1")),
            spacing="3",
            align="center",
            wrap="wrap",
        ),
        rx.cond(
            run.last_error & ~job.realtime.is_finished,
            rx.text(run.last_error.message, size="2", color_scheme="amber", id="last-error"),
        ),
        rx.cond(run.error, error_callout(run.error.type + ": " + run.error.message)),
        code(as_json(run.metadata), id="metadata"),
        rx.foreach(job[events].data, lambda line: rx.text(line, size="1")),
        spacing="2",
        align="stretch",
        width="100%",
        id="delivery",
    )
