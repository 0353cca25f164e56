"""`/`: what a visitor can start, and `/runs`: what they have started."""

from __future__ import annotations

import reflex as rx
from reflex.vars import ObjectVar

from demo_app import answerer
from demo_app.layout import card, frame
from demo_app.state import Ask, Census, Recent

EXAMPLES = (
    "How do I find the largest items in a list?",
    "How does functools.lru_cache work?",
    "How do I run a subprocess with a timeout?",
    "What is a deque?",
)


def home() -> rx.Component:
    """Offer the two things to try."""
    return frame(
        rx.box(
            rx.heading("Watch Python work, live", size="8", as_="h1", trim="both"),
            rx.text(
                "Start something below. It runs as background tasks on the server; every record "
                "that they append reaches this page at once, and survives a reload, a lost "
                "connection and a restart of the server.",
                size="3",
                color_scheme="gray",
                margin_top="1rem",
                max_width="44rem",
            ),
        ),
        rx.grid(
            _census_form(), _ask_form(), columns=rx.breakpoints(initial="1", md="2"), spacing="5"
        ),
        _runs(),
    )


def my_runs() -> rx.Component:
    """List the visitor's runs."""
    return frame(rx.heading("My runs", size="7", as_="h1"), _runs(title=""))


def _census_form() -> rx.Component:
    option = rx.foreach(
        Census.choices, lambda choice: rx.select.item(choice["label"], value=choice["id"])
    )
    source = rx.select.root(
        rx.select.trigger(width="100%", id="source"),
        rx.select.content(option),
        value=Census.source,
        on_change=Census.choose,
    )
    workers = rx.hstack(
        rx.text("Shared among", size="2"),
        rx.segmented_control.root(
            *(rx.segmented_control.item(count, value=count) for count in ("1", "2", "4", "8")),
            value=Census.workers,
            on_change=Census.set_workers,
            size="1",
        ),
        rx.text("child tasks", size="2"),
        align="center",
        spacing="2",
        wrap="wrap",
    )
    return card(
        rx.text(
            "Reads and tokenises every Python file of what you pick: the server's standard "
            "library, an installed package, or this project.",
            size="2",
            color_scheme="gray",
        ),
        source,
        workers,
        rx.button(
            rx.icon("play", size=16), "Take the census", on_click=Census.start, size="3", id="start"
        ),
        title="Code census",
    )


def _ask_form() -> rx.Component:
    return card(
        rx.text(
            "Searches and reads the sources of Python's standard library to answer you, and shows "
            "each step as it happens.",
            size="2",
            color_scheme="gray",
        ),
        question_form(),
        rx.flex(
            *(
                rx.button(
                    example,
                    on_click=Ask.example(example),  # type: ignore[operator]
                    variant="soft",
                    size="1",
                    type="button",
                )
                for example in EXAMPLES
            ),
            spacing="2",
            wrap="wrap",
        ),
        who_answers(),
        title="Ask the standard library",
    )


def question_form() -> rx.Component:
    """Take a question."""
    return rx.form.root(
        rx.flex(
            rx.input(
                name="question",
                placeholder="How do I …?",
                value=Ask.question,
                on_change=Ask.set_question,
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
        on_submit=Ask.submit,
        width="100%",
    )


def who_answers() -> rx.Component:
    """Say what gives the answers."""
    model = answerer.model_name()
    words = (
        f"Answered by the model {model}, which calls the search and read tools."
        if model
        else "Answered offline, without a model: a small program calls the search and read tools "
        "and composes the answer from what they return. Set OPENAI_API_KEY to use a model."
    )
    return rx.hstack(
        rx.icon("info", size=14, flex_shrink="0"),
        rx.text(words, size="1", color_scheme="gray"),
        align="center",
        spacing="2",
        id="who-answers",
    )


def _runs(title: str = "My runs") -> rx.Component:
    def row(run: ObjectVar[dict[str, str]]) -> rx.Component:
        return rx.table.row(
            rx.table.cell(rx.link(run["task"], href=run["href"])),
            rx.table.cell(rx.text(run["what"], size="2", truncate=True, max_width="24rem")),
            rx.table.cell(rx.link("details", href="/runs/" + run["id"], size="1")),
        )

    return card(
        rx.cond(
            Recent.rows.length() > 0,  # type: ignore[attr-defined]
            rx.table.root(rx.table.body(rx.foreach(Recent.rows, row)), size="1", width="100%"),
            rx.text("None yet: start one.", size="2", color_scheme="gray"),
        ),
        title=title or None,
    )
