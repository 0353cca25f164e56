"""A page of one run, whose id and token reach it in two updates."""

from __future__ import annotations

import asyncio

import reflex as rx

from gateway import streams, task, tokens
from gateway.ui import use_realtime_run_with_streams, use_realtime_stream, use_realtime_task_trigger

steps = streams.define("steps", int)


@task
async def step(count: int, interval_s: float) -> None:
    for number in range(count):
        steps.append(number)
        await asyncio.sleep(interval_s)


class Job(rx.State):
    """The token of the run in the URL, and another run whose id is set before its token."""

    token: str = ""
    other_id: str = ""
    other_token: str = ""
    trigger_token: str = ""

    @rx.event
    def mint(self) -> None:
        self.token = tokens.mint([f"read:runs:{self.run_id}"])
        self.trigger_token = tokens.mint_trigger(step.id, uses=9)

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
    trigger = use_realtime_task_trigger(step, access_token=Job.trigger_token)
    payload = trigger.run.payload.to(dict[str, int])
    one, other_one = ({"count": count, "interval_s": 0} for count in (1, 2))
    misspelt = use_realtime_stream(
        trigger.run_id, "stepz", access_token=trigger.access_token, throttle_ms=0
    )
    return rx.el.main(
        rx.el.button(
            "Trigger",
            on_click=[trigger.trigger(one), trigger.trigger(one), trigger.trigger(other_one)],
            id="trigger",
        ),
        rx.el.p(trigger.count, " ", trigger.error_code, payload["count"], id="count"),
        rx.el.p(misspelt.hint, id="hint"),
        rx.el.button("Next", on_click=Job.go_on, id="next"),
        rx.el.button("Other", on_click=Job.start_other(0), id="other-0"),
        rx.el.button("Other, slowly", on_click=Job.start_other(0.005), id="other-5"),
        rx.el.p(run.run.id, " ", run.status, " ", run[steps].status, id="job"),
        rx.el.p(run.error_code, run[steps].error_code, id="job-error"),
        rx.el.p(Job.other_id, " ", other.status, other.error_code, id="other"),
    )
