"""The Reflex app: its pages, and the gateway inside it."""

from __future__ import annotations

import reflex as rx

from demo_app.ask_page import ask
from demo_app.census_page import census
from demo_app.home_page import home, my_runs
from demo_app.run_page import run_detail
from demo_app.state import Census, Recent, Shown
from gateway.integrations.reflex import add_gateway

app = rx.App(
    theme=rx.theme(appearance="inherit", accent_color="iris", gray_color="slate", radius="large"),
)
app.add_page(home, route="/", title="Realtime Streams", on_load=[Census.load, Recent.load])
app.add_page(my_runs, route="/runs", title="My runs", on_load=Recent.load)
app.add_page(census, route="/census/[run]", title="Code census", on_load=Shown.load)
app.add_page(ask, route="/ask/[run]", title="Ask the standard library", on_load=Shown.load)
app.add_page(run_detail, route="/runs/[run]", title="A run", on_load=Shown.load)
add_gateway(app)
