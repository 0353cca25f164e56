"""What every page of the demo has: the frame, cards, badges."""

from __future__ import annotations

from typing import Any

import reflex as rx

from demo_app.state import Shown, Visitor
from gateway.ui import RealtimeRun, RealtimeRuns, RealtimeStream

WIDTH = "72rem"


def frame(*children: rx.Component, **props: Any) -> rx.Component:
    """Put a page's content below the top bar."""
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
    """Put what is to see of a run into the frame, once the run is found."""
    return frame(
        rx.cond(
            Shown.problem,
            rx.vstack(
                problem(Shown.problem),
                rx.link("Start something new", href="/", size="2"),
                spacing="4",
                align="stretch",
            ),
            rx.cond(
                Shown.id,
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
        # Mounting it here gives each visitor their tag before the first event needs it.
        custom_attrs={"data-visitor": Visitor.tag != ""},
    )


def card(*children: rx.Component, title: str | None = None, **props: Any) -> rx.Component:
    """Group what belongs together."""
    heading = [rx.heading(title, size="3", as_="h2")] if title else []
    return rx.card(
        rx.vstack(*heading, *children, spacing="3", align="stretch", width="100%"),
        size="3",
        width="100%",
        **props,
    )


def tile(label: str, value: rx.Var[Any] | str, *, id: str) -> rx.Component:
    """Show one figure."""
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
    """Set figures side by side, two in a row on a phone."""
    return rx.grid(
        *children, columns=rx.breakpoints(initial="2", md="4"), spacing="3", width="100%"
    )


def run_badge(run: RealtimeRun) -> rx.Component:
    """Show a run's status."""
    return status_badge(run.run.status)


def status_badge(status: Any) -> rx.Component:
    """Show a status in its colour."""
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


def older(runs: RealtimeRuns, **props: Any) -> rx.Component:
    """Offer the older runs of a set, as far as they can be shown."""
    return rx.cond(
        runs.is_full,
        rx.text("The newest ", runs.count, " are shown.", size="1", color_scheme="gray"),
        rx.cond(
            runs.has_more,
            rx.button("Show more", on_click=runs.load_more, variant="soft", size="1", **props),
        ),
    )


def link_state(source: RealtimeStream[Any] | RealtimeRun) -> rx.Component:
    """Say whether what is shown is live."""

    def line(icon: str, words: str, color: str) -> rx.Component:
        return rx.hstack(
            rx.icon(icon, size=14, color=rx.color(color, 10)),
            rx.text(words, size="1", color_scheme="gray"),
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


def pretty(value: Any) -> rx.Var[str]:
    """Write a value as indented JSON."""
    return rx.Var(
        f"(JSON.stringify({value!s}, null, 2) ?? '')", _var_data=value._get_all_var_data()
    )


def problem(message: rx.Var[str] | str) -> rx.Component:
    """Show what went wrong, if anything did."""
    return rx.cond(
        message,
        rx.callout(message, icon="triangle-alert", color_scheme="red", role="alert", width="100%"),
        rx.fragment(),
    )


def code(text: rx.Var[str] | str, *, follow: bool = False, **props: Any) -> rx.Component:
    """Show text as it is, scrolling sideways.

    Args:
        text: What to show.
        follow: Whether to stay at the end while the text grows.
        props: Of the text's element.
    """
    words = {"font_family": "var(--code-font-family)", "font_size": "12px", "white_space": "pre"}
    # What is laid out from the bottom also stays scrolled to there.
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
        return rx.box(rx.el.pre(text, style={**words, "margin": "0"}, **props), style=box)
    return rx.el.pre(text, style={**words, **box}, **props)


def grouped(number: Any) -> rx.Var[str]:
    """Write a number with its digits in groups."""
    return rx.Var(
        f"({number!s} ?? 0).toLocaleString('en-US')", _var_data=number._get_all_var_data()
    )
