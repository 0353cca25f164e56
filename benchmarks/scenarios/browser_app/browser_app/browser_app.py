"""A page that receives many records a second and shows a few of them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import reflex as rx

from gateway import streams, task
from gateway.integrations.reflex import add_gateway
from gateway.ui import use_realtime_stream


@dataclass(frozen=True)
class Line:
    """A record of about 100 bytes as JSON."""

    current: int
    total: int
    level: str
    status: str = "a record of about one hundred bytes"


lines = streams.define("lines", Line)


@task
async def send(count: int, per_s: int) -> int:
    """Append at a steady rate."""
    began = time.perf_counter()
    for number in range(count):
        lines.append(Line(number, count, "error" if number % 100 == 0 else "info"))
        ahead_s = number / per_s - (time.perf_counter() - began)
        if ahead_s > 0.005:
            await asyncio.sleep(ahead_s)
        elif number % 100 == 0:
            await asyncio.sleep(0)
    return count


class Sent(rx.State):
    """The run that the page shows."""

    run_id: str = ""
    token: str = ""

    @rx.event
    async def start(self, count: int, per_s: int) -> None:
        """Start a run and show it."""
        handle = await send.trigger(count, per_s)
        self.run_id, self.token = handle.id, handle.access_token


def index() -> rx.Component:
    """Render counts, the newest records and a view."""
    stream = use_realtime_stream(Sent.run_id, lines, access_token=Sent.token, throttle_ms=16)
    return rx.el.main(
        rx.el.button("Start", on_click=Sent.start(50_000, 10_000), id="start"),
        rx.el.p(stream.count, id="count"),
        rx.el.p(stream.data.length(), id="kept"),
        rx.el.p(stream.where("level", "error").length(), id="errors"),
        rx.el.p(stream.latest.current, id="latest"),
        rx.el.p(stream.status, id="status"),
        rx.el.p(stream.gap_count, id="gaps"),
        rx.el.ul(rx.foreach(stream.last(10), lambda line: rx.el.li(line.current))),
    )


app = rx.App()
app.add_page(index, route="/")
add_gateway(app)
