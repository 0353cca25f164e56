"""`/operator`: live metrics of the gateway, for visitors with access to them."""

from __future__ import annotations

from typing import Any

import reflex as rx
from reflex.vars import ObjectVar

from demo_app import operator_feed
from demo_app.operator_feed import GatewayMetrics, ReaderRow, RefusalRow, StreamRow
from demo_app.pages.layout import (
    card,
    connection_state,
    error_callout,
    frame,
    tile,
    tiles,
    with_separators,
)
from gateway import tokens
from gateway.ui import RealtimeStream, use_realtime_stream

TOKEN_TTL_S = 3600.0
NUMBER = {"font_variant_numeric": "tabular-nums", "text_align": "right"}
WIDE = rx.breakpoints(initial="none", sm="table-cell")
MONO = {"font_family": "var(--code-font-family)", "font_size": "12px"}


class Operator(rx.State):
    """The visitor's access to the metrics, and the run that streams them."""

    run_id: str = ""
    access_token: str = ""
    is_locked: bool = False
    error_message: str = ""
    _bearer: str = ""  # never sent to the browser

    @rx.event
    async def load(self) -> None:
        """Open the metrics if the visitor needs no key."""
        await self._open()

    @rx.event
    async def unlock(self, form: dict[str, Any]) -> None:
        """Check a key or token, and show the metrics if it is valid."""
        self._bearer = str(form.get("key", "")).strip()
        await self._open()
        if self.is_locked:
            self.error_message = "This key or token does not give access."

    @rx.event
    async def follow_next_run(self) -> None:
        """Subscribe to the next run when the current one has ended."""
        await self._open()

    @rx.event
    async def renew(self, error: dict[str, str]) -> None:
        """Mint a new token when the old one has expired.

        Shows the form again if the visitor's key is no longer valid.
        """
        if error.get("code") == "token_expired":
            await self._open()

    async def _open(self) -> None:
        session, headers = self.router.session, self.router.headers.raw_headers
        self.error_message = ""
        may = operator_feed.may_operate(session.client_ip, headers, self._bearer)
        run_id = await operator_feed.ensure_feed() if may else None
        self.is_locked = run_id is None
        self.run_id = run_id or ""
        self.access_token = (
            tokens.mint([f"read:runs:{run_id}"], ttl_s=TOKEN_TTL_S, subject="operator")
            if run_id
            else ""
        )


def operator() -> rx.Component:
    """Render the metrics, or a form for the key."""
    now = use_realtime_stream(
        Operator.run_id,
        stream=operator_feed.metrics,
        access_token=Operator.access_token,
        start={"last": 1},  # each record is a complete sample
        max_records=1,
        on_end=Operator.follow_next_run,
        on_error=Operator.renew,
    )
    return frame(
        rx.cond(
            Operator.is_locked,
            _locked(),
            rx.cond(
                now.latest.clock,
                _metrics(now),
                rx.center(rx.spinner(size="3"), min_height="12rem", class_name="loading"),
            ),
        )
    )


def _locked() -> rx.Component:
    return rx.center(
        card(
            rx.text(
                "To see the gateway's metrics, enter its secret key, or a token with ",
                rx.code("read:metrics:*"),
                ".",
                size="2",
                color_scheme="gray",
            ),
            error_callout(Operator.error_message),
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


def _metrics(now: RealtimeStream[GatewayMetrics]) -> rx.Component:
    latest = now.latest
    return rx.vstack(
        _head(now),
        error_callout(now.error),
        tiles(
            tile("Connections", latest.connections, id="connections"),
            tile("Subscriptions", latest.subscriptions, id="subscriptions"),
            tile("Live streams", latest.live_streams, id="live-streams"),
            tile("Memory, MB", latest.memory_mb, id="memory"),
            tile("Records in a second", with_separators(latest.appended_per_s), id="appended"),
            tile("Records out a second", with_separators(latest.sent_per_s), id="sent"),
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


def _head(now: RealtimeStream[GatewayMetrics]) -> rx.Component:
    is_ready = now.latest.state == "ready"
    return rx.flex(
        rx.heading("This gateway", size="7", as_="h1"),
        rx.badge(
            now.latest.state,
            color_scheme=rx.cond(is_ready, "green", "red"),
            size="2",
            id="gateway-state",
        ),
        connection_state(now),
        rx.spacer(),
        rx.text(now.latest.clock, size="2", color_scheme="gray", id="clock", style=NUMBER),
        align="center",
        spacing="3",
        wrap="wrap",
    )


def _bars(latest: ObjectVar[GatewayMetrics]) -> rx.Component:
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
        rx.text("highest: ", with_separators(latest.peak_per_s), " a second", size="1"),
        rx.text(with_separators(latest.sent_kb_per_s), " kB a second now", size="1"),
        justify="between",
        color=rx.color("gray", 11),
        width="100%",
    )
    return rx.vstack(bars, note, spacing="2", width="100%")


def _streams(latest: ObjectVar[GatewayMetrics]) -> rx.Component:
    def row(each: ObjectVar[StreamRow]) -> rx.Component:
        return rx.table.row(
            _name(each.stream),
            rx.table.cell(each.run, style=MONO, white_space="nowrap", display=WIDE),
            rx.table.cell(with_separators(each.per_s), style=NUMBER),
            rx.table.cell(each.readers, style=NUMBER),
            class_name="live-stream",
        )

    heads = ("Stream", "Run", "A second", "Readers")  # narrow screens hide the run
    return _table(heads, latest.rates, row, "No stream has a reader here.", numbers=2)


def _readers(latest: ObjectVar[GatewayMetrics]) -> rx.Component:
    def row(each: ObjectVar[ReaderRow]) -> rx.Component:
        return rx.table.row(
            _name(each.connection),
            _name(each.stream),
            rx.table.cell(with_separators(each.behind), style=NUMBER),
            class_name="slow-reader",
        )

    heads = ("Connection", "Stream", "Behind")
    return _table(heads, latest.lagging, row, "Every reader has caught up.", numbers=1)


def _refusals(latest: ObjectVar[GatewayMetrics]) -> rx.Component:
    def row(each: ObjectVar[RefusalRow]) -> rx.Component:
        return rx.table.row(
            _name(each.code),
            rx.table.cell(with_separators(each.last_minute), style=NUMBER),
            rx.table.cell(with_separators(each.total), style=NUMBER),
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
