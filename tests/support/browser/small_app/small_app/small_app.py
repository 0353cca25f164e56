"""A small app that uses all arguments of the hooks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import reflex as rx

from gateway import streams, task, tokens
from gateway.integrations.reflex import add_gateway
from gateway.ui import use_realtime_run, use_realtime_stream
from small_app.job_page import Job, job
from small_app.watch_page import watch


@dataclass(frozen=True)
class Count:
    current: int
    total: int


counts = streams.define("counts", Count)


@task
async def count_up(total: int, interval_s: float) -> int:
    for current in range(1, total + 1):
        counts.append(Count(current, total))
        await asyncio.sleep(interval_s)
    return total


class State(rx.State):
    """The shown run, and the arguments of the calls of the hook's handlers."""

    run_ids: list[str] = []
    shown: str = ""
    token: str = ""
    enabled: bool = True
    received: list[str] = []
    ends: list[str] = []
    errors: list[str] = []

    @rx.event
    async def start(self, total: int, interval_s: float) -> None:
        handle = await count_up.trigger(total=total, interval_s=interval_s)
        self.run_ids.append(handle.id)
        self.show(handle.id)

    @rx.event
    def show(self, run_id: str) -> None:
        self.shown = run_id
        self.token = tokens.mint(["read:runs:*"], ttl_s=600)

    @rx.event
    def lose_token(self) -> None:
        self.token = tokens.mint(["read:runs:run_other"], ttl_s=600)

    @rx.event
    def find_token(self) -> None:
        self.token = tokens.mint([f"read:runs:{self.shown}"], ttl_s=600)

    @rx.event
    def toggle(self) -> None:
        self.enabled = not self.enabled

    @rx.event
    def on_record(self, value: Count, meta: dict[str, Any]) -> None:
        self.received.append(f"{meta['offset']}:{value.current}/{value.total}")

    @rx.event
    def on_end(self, reason: str) -> None:
        self.ends.append(reason)

    @rx.event
    def on_error(self, error: dict[str, str]) -> None:
        self.errors.append(error["code"])


@rx.memo
def run_card(run_id: rx.Var[str], token: rx.Var[str]) -> rx.Component:
    run = use_realtime_run(run_id, access_token=token)
    stream = use_realtime_stream(run_id, counts, access_token=token)
    return rx.el.li(
        rx.el.button(run_id, on_click=State.show(run_id.to(str))),
        rx.el.span(run.run.status, class_name="card-status"),
        rx.el.span(stream.latest.current, "/", stream.latest.total, class_name="card-count"),
        class_name="card",
    )


def index() -> rx.Component:
    stream = use_realtime_stream(
        State.shown,
        counts,
        access_token=State.token,
        enabled=State.enabled,
        on_record=State.on_record,
        on_end=State.on_end,
        on_error=State.on_error,
    )
    return rx.el.main(
        rx.el.button("Start a short one", on_click=State.start(5, 0.01), id="short"),
        rx.el.button("Start a long one", on_click=State.start(400, 0.05), id="long"),
        rx.el.button("Lose the token", on_click=State.lose_token, id="lose"),
        rx.el.button("Find the token", on_click=State.find_token, id="find"),
        rx.el.button("On or off", on_click=State.toggle, id="toggle"),
        rx.el.p(State.shown, id="shown"),
        # Used in three places: one subscription, and each handler is called once.
        rx.el.p(stream.latest.current, "/", stream.latest.total, id="latest"),
        rx.el.p(stream.count, id="count"),
        rx.el.p(stream.status, id="status"),
        rx.el.p(stream.error, id="error"),
        rx.el.p(State.received.join(" "), id="received"),
        rx.el.p(State.ends.join(" "), id="ends"),
        rx.el.p(State.errors.join(" "), id="errors"),
        rx.el.ul(rx.foreach(State.run_ids, lambda id: run_card(run_id=id, token=State.token))),
    )


app = rx.App()
app.add_page(index, route="/")
app.add_page(watch, route="/watch")
app.add_page(job, route="/job/[run_id]", on_load=Job.mint)
add_gateway(app)
