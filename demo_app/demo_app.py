"""The Reflex application: its routes, and the gateway in the same process."""

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
from demo_app.state import CensusForm, MyRuns, RunView
from demo_app.stdlib_search.tools import search
from gateway.integrations.reflex import add_gateway

app = rx.App(head_components=[rx.el.link(rel="icon", type="image/svg+xml", href="/favicon.svg")])
app.add_page(
    home,
    route="/",
    title="Realtime Streams",
    on_load=[RunView.clear, CensusForm.load, MyRuns.load],
)
app.add_page(my_runs, route="/runs", title="My runs", on_load=[RunView.clear, MyRuns.load])
app.add_page(census, route="/census/[run]", title="Code census", on_load=RunView.load)
app.add_page(ask, route="/ask/[run]", title="Ask the standard library", on_load=RunView.load)
app.add_page(run_detail, route="/runs/[run]", title="A run", on_load=RunView.load)
app.add_page(operator, route="/operator", title="Operator", on_load=Operator.load)
operator_feed.set_gateway(add_gateway(app))


@app.register_lifespan_task
async def warm_up() -> None:
    """Build the list of sources and the search index, so that the first visitor does not wait."""
    await asyncio.to_thread(sources.sources)
    await asyncio.to_thread(search, "deque")
