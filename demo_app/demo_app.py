"""The Reflex app: its pages, and the gateway inside it."""

from __future__ import annotations

import asyncio

import reflex as rx

from demo_app import operator_feed
from demo_app.census import sources
from demo_app.pages.ask import ask
from demo_app.pages.census import census
from demo_app.pages.home import home, my_runs
from demo_app.pages.operator import Operator, operator
from demo_app.pages.run import run_detail
from demo_app.state import Census, Recent, Shown
from demo_app.stdlib_search.tools import search
from gateway.integrations.reflex import add_gateway

app = rx.App(head_components=[rx.el.link(rel="icon", type="image/svg+xml", href="/favicon.svg")])
app.add_page(
    home,
    route="/",
    title="Realtime Streams",
    on_load=[Shown.leave, Census.load, Recent.load],
)
app.add_page(my_runs, route="/runs", title="My runs", on_load=[Shown.leave, Recent.load])
app.add_page(census, route="/census/[run]", title="Code census", on_load=Shown.load)
app.add_page(ask, route="/ask/[run]", title="Ask the standard library", on_load=Shown.load)
app.add_page(run_detail, route="/runs/[run]", title="A run", on_load=Shown.load)
app.add_page(operator, route="/operator", title="Operator", on_load=Operator.load)
operator_feed.attend(add_gateway(app))


@app.register_lifespan_task
async def warm_up() -> None:
    """Make the lists that the first visitor would wait for."""
    await asyncio.to_thread(sources.sources)
    await asyncio.to_thread(search, "deque")
