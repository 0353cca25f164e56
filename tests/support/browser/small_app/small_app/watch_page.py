"""A page that shows sets of runs, and all streams of a run that can be switched."""

from __future__ import annotations

import asyncio
from typing import Any

import reflex as rx

from gateway import streams, task, tokens
from gateway.ui import (
    use_realtime_children,
    use_realtime_run_with_streams,
    use_realtime_runs_with_tag,
)

marks = streams.define("marks", str)
named_run = streams.define("run", str)  # "run" is an ordinary name of a stream


@task
async def mark(count: int, interval_s: float) -> int:
    from gateway import current_run

    run = current_run()
    assert run is not None
    for number in range(count):
        marks.append(f"{run.id}:{number}")
        if number == 3:
            named_run.append("value")
        await asyncio.sleep(interval_s)
    return count


@task
async def family(size: int) -> int:
    await mark.batch_trigger_and_wait([{"count": 1, "interval_s": 0}] * size)
    return size


class Watch(rx.State):
    """The runs, and the shown one."""

    both: list[str] = []
    shown: str = ""
    parent: str = ""
    tag: str = ""
    token: str = ""
    completed: list[str] = []

    @rx.event
    async def start_two(self) -> None:
        handles = [await mark.trigger(2000, 0.01) for _ in range(2)]
        self.both = [handle.id for handle in handles]
        self.shown = self.both[0]
        self.token = tokens.mint([f"read:runs:{id}" for id in self.both])

    @rx.event
    def switch(self) -> None:
        self.shown = self.both[1 - self.both.index(self.shown)]

    @rx.event
    async def start_tagged(self, count: int) -> None:
        self.tag = "watched"
        self.token = tokens.mint(["read:tags:watched"], skip=["payload"])
        for _ in range(count):
            await mark.options(tags=["watched"]).trigger(1, 0)

    @rx.event
    async def start_family(self) -> None:
        handle = await family.trigger(3)
        self.parent = self.shown = handle.id
        self.token = handle.access_token

    @rx.event
    def look_with_wrong_token(self) -> None:
        self.tag, self.token = "watched", "no token"

    @rx.event
    def on_complete(self, run: dict[str, Any]) -> None:
        self.completed.append(f"{run['id']}:{run['status']}:{run['is_success']}")


def watch() -> rx.Component:
    run = use_realtime_run_with_streams(
        Watch.shown, access_token=Watch.token, max_records=20, on_complete=Watch.on_complete
    )
    mine = use_realtime_runs_with_tag(Watch.tag, access_token=Watch.token, limit=3)
    children = use_realtime_children(Watch.parent, access_token=Watch.token)
    return rx.el.main(
        rx.el.button("Two runs", on_click=Watch.start_two, id="two"),
        rx.el.button("Switch", on_click=Watch.switch, id="switch"),
        rx.el.button("Tagged", on_click=Watch.start_tagged(5), id="tagged"),
        rx.el.button("One more", on_click=Watch.start_tagged(1), id="one"),
        rx.el.button("More", on_click=mine.load_more, id="more", disabled=~mine.has_more),
        rx.el.button("Family", on_click=Watch.start_family, id="family"),
        rx.el.button("Wrong token", on_click=Watch.look_with_wrong_token, id="wrong"),
        # One component, so that React commits the id and the values together.
        rx.el.ul(
            rx.foreach(run[marks].data, lambda value: rx.el.li(value)),
            id="values",
            custom_attrs={"data-run": Watch.shown},
        ),
        rx.el.ul(
            rx.foreach(
                run.streams,
                lambda item: rx.el.li(item[0], "=", item[1].latest.to(str), class_name="stream"),
            ),
            id="streams",
            custom_attrs={"data-run": Watch.shown},
        ),
        rx.el.ul(
            rx.foreach(
                mine.runs,
                lambda run: rx.el.li(
                    run.id,
                    rx.cond(run.is_success, " done", " open"),
                    rx.cond(run.payload, " payload", ""),
                    class_name="tagged",
                ),
            )
        ),
        rx.el.p(mine.count, id="tagged-count"),
        rx.el.p(mine.error, id="tagged-error"),
        rx.el.p(mine.status, id="tagged-status"),
        rx.el.ul(
            rx.foreach(children.runs, lambda run: rx.el.li(run.status, class_name="child")),
        ),
        rx.el.p(Watch.completed.join(" "), id="completed"),
    )
