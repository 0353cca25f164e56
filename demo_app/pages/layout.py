"""The frame of every page, and shared components: cards, badges, tiles."""

from __future__ import annotations

from typing import Any

import reflex as rx

from demo_app.state import RunView, Visitor
from gateway.ui import RealtimeRun, RealtimeRuns, RealtimeStream

WIDTH = "72rem"


def frame(*children: rx.Component, **props: Any) -> rx.Component:
    """Lay a page's content out below the top bar."""
    content = rx.vstack(
        *children,
        spacing="5",
        align="stretch",
        width="100%",
        max_width=WIDTH,
        margin_x="auto",
        padding_x=rx.breakpoints(initial="1rem", sm="1.5rem"),
        padding_y=rx.breakpoints(initial="1.25rem", sm="2rem"),
    )
    return rx.box(_top_bar(), content, min_height="100vh", background=rx.color("gray", 1), **props)


def run_frame(*children: rx.Component) -> rx.Component:
    """Render a run's page in the frame: an error, a spinner while loading, or the content."""
    return frame(
        rx.cond(
            RunView.error_message,
            rx.vstack(
                error_callout(RunView.error_message),
                rx.link("Start a new run", href="/", size="2"),
                spacing="4",
                align="stretch",
            ),
            rx.cond(
                RunView.id,
                rx.vstack(*children, spacing="5", align="stretch", width="100%"),
                rx.center(rx.spinner(size="3"), min_height="12rem", class_name="loading"),
            ),
        )
    )


def _top_bar() -> rx.Component:
    brand = rx.link(
        rx.hstack(
            rx.icon("radio-tower", size=20, color=rx.color("accent", 10)),
            rx.text("Realtime Streams", weight="bold", size="3", white_space="nowrap"),
            align="center",
            spacing="2",
        ),
        href="/",
        underline="none",
        color=rx.color("gray", 12),
    )
    links = rx.hstack(
        rx.link("My runs", href="/runs", size="2", color_scheme="gray", high_contrast=True),
        rx.color_mode.button(size="2", variant="ghost", aria_label="Light or dark"),
        align="center",
        spacing="4",
    )
    bar = rx.hstack(
        brand,
        links,
        justify="between",
        align="center",
        width="100%",
        max_width=WIDTH,
        margin_x="auto",
        padding_x=rx.breakpoints(initial="1rem", sm="1.5rem"),
        height="3.5rem",
    )
    return rx.box(
        bar,
        position="sticky",
        top="0",
        z_index="10",
        background=rx.color("gray", 1),
        border_bottom=f"1px solid {rx.color('gray', 4)}",
        # The tag is read from local storage on every page, before the first event needs it.
        custom_attrs={"data-visitor": Visitor.tag != ""},
    )


def card(*children: rx.Component, title: str | None = None, **props: Any) -> rx.Component:
    """Group components, with an optional title."""
    heading = [rx.heading(title, size="3", as_="h2")] if title else []
    return rx.card(
        rx.vstack(*heading, *children, spacing="3", align="stretch", width="100%"),
        size="3",
        width="100%",
        **props,
    )


def tile(label: str, value: rx.Var[Any] | str, *, id: str) -> rx.Component:
    """Render one number with its label."""
    return rx.box(
        rx.text(label, size="1", color_scheme="gray"),
        rx.text(
            value,
            size=rx.breakpoints(initial="4", sm="6"),
            weight="bold",
            id=id,
            white_space="nowrap",
            style={"font_variant_numeric": "tabular-nums"},
        ),
        padding="0.75rem 1rem",
        border_radius="var(--radius-3)",
        background=rx.color("gray", 2),
        border=f"1px solid {rx.color('gray', 4)}",
    )


def tiles(*children: rx.Component) -> rx.Component:
    """Lay tiles out in rows of four, or of two on a phone."""
    return rx.grid(
        *children, columns=rx.breakpoints(initial="2", md="4"), spacing="3", width="100%"
    )


def run_badge(run: RealtimeRun) -> rx.Component:
    """Render a run's status."""
    return status_badge(run.run.status)


def status_badge(status: Any) -> rx.Component:
    """Render a status in its colour."""
    color = rx.match(
        status,
        ("delayed", "gray"),
        ("queued", "gray"),
        ("executing", "blue"),
        ("waiting", "blue"),
        ("completed", "green"),
        ("canceled", "amber"),
        "red",
    )
    return rx.cond(
        status,
        rx.badge(status, color_scheme=color, size="2", class_name="run-status"),
        rx.badge("…", color_scheme="gray", size="2"),
    )


def load_more_button(runs: RealtimeRuns, **props: Any) -> rx.Component:
    """Render a button that loads older runs of a set, until the set is full."""
    return rx.cond(
        runs.is_full,
        rx.text("The newest ", runs.count, " are shown.", size="1", color_scheme="gray"),
        rx.cond(
            runs.has_more,
            rx.button("Show more", on_click=runs.load_more, variant="soft", size="1", **props),
        ),
    )


def connection_state(source: RealtimeStream[Any] | RealtimeRun) -> rx.Component:
    """Render the state of the subscription: live, connecting, reconnecting, failed or ended."""

    def line(icon: str, text: str, color: str) -> rx.Component:
        return rx.hstack(
            rx.icon(icon, size=14, color=rx.color(color, 10)),
            rx.text(text, size="1", color_scheme="gray"),
            align="center",
            spacing="1",
        )

    return rx.match(
        source.status,
        ("live", line("radio", "live", "green")),
        ("reconnecting", line("unplug", "reconnecting, nothing will be missed", "amber")),
        ("connecting", line("loader", "connecting", "gray")),
        ("error", line("octagon-alert", "not allowed", "red")),
        rx.cond(source.is_ended, line("check", "complete record", "gray"), rx.fragment()),
    )


def as_json(value: Any) -> rx.Var[str]:
    """Format a value as indented JSON."""
    return rx.Var(
        f"(JSON.stringify({value!s}, null, 2) ?? '')", _var_data=value._get_all_var_data()
    )


def error_callout(message: rx.Var[str] | str) -> rx.Component:
    """Render an error message, or nothing if it is empty."""
    return rx.cond(
        message,
        rx.callout(message, icon="triangle-alert", color_scheme="red", role="alert", width="100%"),
        rx.fragment(),
    )


def code(text: rx.Var[str] | str, *, follow: bool = False, **props: Any) -> rx.Component:
    """Render preformatted text in a scrolling box.

    Args:
        text: The text.
        follow: Whether to stay scrolled to the end while the text grows.
        props: Properties of the element that contains the text.
    """
    font = {
        "font_family": "var(--code-font-family)",
        "font_size": "12px",
        "white_space": "pre",
    }
    # A box that is laid out in reverse stays scrolled to its end.
    end = {"display": "flex", "flex_direction": "column-reverse"} if follow else {}
    box = {
        **end,
        "overflow": "auto",
        "max_height": "16rem",
        "background": rx.color("gray", 2),
        "border": f"1px solid {rx.color('gray', 4)}",
        "border_radius": "var(--radius-2)",
        "padding": "0.6rem 0.75rem",
        "width": "100%",
    }
    if follow:
        return rx.box(rx.el.pre(text, style={**font, "margin": "0"}, **props), style=box)
    return rx.el.pre(text, style={**font, **box}, **props)


def with_separators(number: Any) -> rx.Var[str]:
    """Format a number with separators between groups of three digits."""
    return rx.Var(
        f"({number!s} ?? 0).toLocaleString('en-US')", _var_data=number._get_all_var_data()
    )
