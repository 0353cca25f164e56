"""`/operator`: what the gateway does right now, for those who may see inside it."""

from __future__ import annotations

from typing import Any

import reflex as rx
from reflex.vars import ObjectVar

from demo_app import operator_feed
from demo_app.operator_feed import GatewayFigures, ReaderRow, RefusalRow, StreamRow
from demo_app.pages.layout import card, frame, grouped, link_state, problem, tile, tiles
from gateway import tokens
from gateway.ui import RealtimeStream, use_realtime_stream

TOKEN_TTL_S = 3600.0
NUMBER = {"font_variant_numeric": "tabular-nums", "text_align": "right"}
WIDE = rx.breakpoints(initial="none", sm="table-cell")
MONO = {"font_family": "var(--code-font-family)", "font_size": "12px"}


class Operator(rx.State):
    """Whether the visitor may see inside, and with what."""

    run_id: str = ""
    access_token: str = ""
    is_locked: bool = False
    problem: str = ""
    _bearer: str = ""  # stays on the server

    @rx.event
    async def load(self) -> None:
        """Show the figures to those who need no key."""
        await self._open()

    @rx.event
    async def unlock(self, form: dict[str, Any]) -> None:
        """Take a key."""
        self._bearer = str(form.get("key", "")).strip()
        await self._open()
        if self.is_locked:
            self.problem = "That key does not open this."

    @rx.event
    async def go_on(self) -> None:
        """Follow the next run when one has ended."""
        await self._open()

    @rx.event
    async def renew(self, error: dict[str, str]) -> None:
        """Mint another token when the old one has expired; asks for the key again if need be."""
        if error.get("code") == "token_expired":
            await self._open()

    async def _open(self) -> None:
        session, headers = self.router.session, self.router.headers.raw_headers
        self.problem = ""
        may = operator_feed.may_operate(session.client_ip, headers, self._bearer)
        run_id = await operator_feed.watched() if may else None
        self.is_locked = run_id is None
        self.run_id = run_id or ""
        self.access_token = (
            tokens.mint([f"read:runs:{run_id}"], ttl_s=TOKEN_TTL_S, subject="operator")
            if run_id
            else ""
        )


def operator() -> rx.Component:
    """Show the figures, or ask for the key."""
    now = use_realtime_stream(
        Operator.run_id,
        stream=operator_feed.figures,
        access_token=Operator.access_token,
        start={"last": 1},  # each record tells the whole
        max_records=1,
        on_end=Operator.go_on,
        on_error=Operator.renew,
    )
    return frame(
        rx.cond(
            Operator.is_locked,
            _locked(),
            rx.cond(
                now.latest.clock,
                _figures(now),
                rx.center(rx.spinner(size="3"), min_height="12rem", class_name="loading"),
            ),
        )
    )


def _locked() -> rx.Component:
    return rx.center(
        card(
            rx.text(
                "The gateway's secret key, or a token with ",
                rx.code("read:metrics:*"),
                ", opens what it does inside.",
                size="2",
                color_scheme="gray",
            ),
            problem(Operator.problem),
            rx.form(
                rx.flex(
                    rx.input(
                        name="key",
                        type="password",
                        placeholder="Key or token",
                        aria_label="Key or token",
                        auto_complete=False,
                        required=True,
                        flex_grow="1",
                    ),
                    rx.button("Open", type="submit", id="unlock"),
                    spacing="2",
                ),
                on_submit=Operator.unlock,
                reset_on_submit=True,
            ),
            title="Operator",
            max_width="28rem",
        ),
        width="100%",
    )


def _figures(now: RealtimeStream[GatewayFigures]) -> rx.Component:
    latest = now.latest
    return rx.vstack(
        _head(now),
        problem(now.error),
        tiles(
            tile("Connections", latest.connections, id="connections"),
            tile("Subscriptions", latest.subscriptions, id="subscriptions"),
            tile("Live streams", latest.live_streams, id="live-streams"),
            tile("Memory, MB", latest.memory_mb, id="memory"),
            tile("Records in a second", grouped(latest.appended_per_s), id="appended"),
            tile("Records out a second", grouped(latest.sent_per_s), id="sent"),
            tile("Delivered, 99 %", latest.delivery_ms, id="delivery"),
            tile("Loop late, 99 %", latest.loop_ms, id="loop"),
        ),
        card(_bars(latest), title="Records out, last minute"),
        rx.grid(
            card(_streams(latest), title="Streams by rate"),
            rx.vstack(
                card(_readers(latest), title="Slow readers"),
                card(_refusals(latest), title="Refusals"),
                spacing="5",
                width="100%",
            ),
            columns=rx.breakpoints(initial="minmax(0, 1fr)", md="minmax(0, 1fr) minmax(0, 1fr)"),
            spacing="5",
            align="start",
            width="100%",
        ),
        spacing="5",
        align="stretch",
        width="100%",
    )


def _head(now: RealtimeStream[GatewayFigures]) -> rx.Component:
    is_ready = now.latest.state == "ready"
    return rx.flex(
        rx.heading("This gateway", size="7", as_="h1"),
        rx.badge(
            now.latest.state,
            color_scheme=rx.cond(is_ready, "green", "red"),
            size="2",
            id="gateway-state",
        ),
        link_state(now),
        rx.spacer(),
        rx.text(now.latest.clock, size="2", color_scheme="gray", id="clock", style=NUMBER),
        align="center",
        spacing="3",
        wrap="wrap",
    )


def _bars(latest: ObjectVar[GatewayFigures]) -> rx.Component:
    def bar(level: Any) -> rx.Component:
        return rx.box(
            flex="1 1 0",
            height=level.to(str) + "%",
            min_height="2px",
            border_radius="1px",
            background=rx.color("accent", 9),
        )

    bars = rx.flex(
        rx.foreach(latest.sent_levels, bar),
        align="end",
        gap=rx.breakpoints(initial="1px", sm="3px"),
        height="5rem",
        width="100%",
        role="img",
        aria_label="Records sent in each of the last 60 seconds",
    )
    note = rx.flex(
        rx.text("highest: ", grouped(latest.peak_per_s), " a second", size="1"),
        rx.text(grouped(latest.sent_kb_per_s), " kB a second now", size="1"),
        justify="between",
        color=rx.color("gray", 11),
        width="100%",
    )
    return rx.vstack(bars, note, spacing="2", width="100%")


def _streams(latest: ObjectVar[GatewayFigures]) -> rx.Component:
    def row(each: ObjectVar[StreamRow]) -> rx.Component:
        return rx.table.row(
            _name(each.stream),
            rx.table.cell(each.run, style=MONO, white_space="nowrap", display=WIDE),
            rx.table.cell(grouped(each.per_s), style=NUMBER),
            rx.table.cell(each.readers, style=NUMBER),
            class_name="live-stream",
        )

    heads = ("Stream", "Run", "A second", "Readers")  # the run only where there is room
    return _table(heads, latest.rates, row, "No stream has a reader here.", numbers=2)


def _readers(latest: ObjectVar[GatewayFigures]) -> rx.Component:
    def row(each: ObjectVar[ReaderRow]) -> rx.Component:
        return rx.table.row(
            _name(each.connection),
            _name(each.stream),
            rx.table.cell(grouped(each.behind), style=NUMBER),
            class_name="slow-reader",
        )

    heads = ("Connection", "Stream", "Behind")
    return _table(heads, latest.lagging, row, "Every reader has caught up.", numbers=1)


def _refusals(latest: ObjectVar[GatewayFigures]) -> rx.Component:
    def row(each: ObjectVar[RefusalRow]) -> rx.Component:
        return rx.table.row(
            _name(each.code),
            rx.table.cell(grouped(each.last_minute), style=NUMBER),
            rx.table.cell(grouped(each.total), style=NUMBER),
            class_name="refusal",
        )

    heads = ("Error", "Last minute", "In all")
    return _table(heads, latest.refusals, row, "Nothing was refused.", numbers=2)


def _name(text: Any) -> rx.Component:
    return rx.table.cell(
        rx.text(
            text,
            title=text,
            max_width=rx.breakpoints(initial="7.5rem", sm="13rem"),
            white_space="nowrap",
            overflow="hidden",
            text_overflow="ellipsis",
            style=MONO,
        )
    )


def _table(
    heads: tuple[str, ...], rows: Any, row: Any, empty: str, *, numbers: int
) -> rx.Component:
    first = len(heads) - numbers
    cells = [
        rx.table.column_header_cell(
            head,
            style={"text_align": "right"} if index >= first else {},
            white_space="nowrap",
            display=WIDE if head == "Run" else "table-cell",
        )
        for index, head in enumerate(heads)
    ]
    table = rx.table.root(
        rx.table.header(rx.table.row(*cells)),
        rx.table.body(rx.foreach(rows, row)),
        size="1",
        width="100%",
    )
    return rx.cond(rows.length() > 0, table, rx.text(empty, size="2", color_scheme="gray"))
