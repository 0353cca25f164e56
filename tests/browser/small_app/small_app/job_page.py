"""A page of one run, whose id and token reach it in two updates."""

from __future__ import annotations

import asyncio

import reflex as rx

from gateway import streams, task, tokens
from ui import use_realtime_run_with_streams, use_realtime_stream

steps = streams.define("steps", int)


@task
async def step(count: int, interval_s: float) -> None:
    for number in range(count):
        steps.append(number)
        await asyncio.sleep(interval_s)


class Job(rx.State):
    """The token of the run in the address; and another run, whose id comes before its token."""

    token: str = ""
    other_id: str = ""
    other_token: str = ""

    @rx.event
    def mint(self) -> None:
        self.token = tokens.mint([f"read:runs:{self.run_id}"])

    @rx.event
    async def go_on(self):
        run = await step.trigger(1000, 0.05)
        return rx.redirect(f"/job/{run.id}")

    @rx.event
    async def start_other(self, pause_s: float):
        run = await step.trigger(1000, 0.05)
        self.other_id = run.id
        yield
        await asyncio.sleep(pause_s)
        self.other_token = run.access_token


def job() -> rx.Component:
    run = use_realtime_run_with_streams(Job.run_id, [steps], access_token=Job.token)
    other = use_realtime_stream(Job.other_id, steps, access_token=Job.other_token)
    return rx.el.main(
        rx.el.button("Next", on_click=Job.go_on, id="next"),
        rx.el.button("Other", on_click=Job.start_other(0), id="other-0"),
        rx.el.button("Other, slowly", on_click=Job.start_other(0.005), id="other-5"),
        rx.el.p(run.run.id, " ", run.status, " ", run[steps].status, id="job"),
        rx.el.p(run.error_code, run[steps].error_code, id="job-error"),
        rx.el.p(Job.other_id, " ", other.status, other.error_code, id="other"),
    )
