"""The hooks in a real React, against a real gateway."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from gateway.server.api.client_assets import client_module
from tests.support.clients.npm import install, tool
from tests.support.clients.pages import Written
from tests.support.gateways import DEADLINE_S, environment, serving, token_for, until

HERE = Path(__file__).parent


class ReactPage:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def render(self, run: str | None, count: int = 1, **more: bool) -> None:
        self._send(run=run, count=count, **more)

    def call(self, name: str, value: object) -> None:
        """Call a function that a hook returned."""
        self._send(call=name, value=value)

    def _send(self, **report: object) -> None:
        self._process.stdin.write(json.dumps(report).encode() + b"\n")

    async def shows(self, text: str) -> dict:
        """Wait until the page shows a text, and return the page's report."""
        async with asyncio.timeout(DEADLINE_S):
            while line := await self._process.stdout.readline():
                if (report := json.loads(line))["shown"] == text:
                    return report
        raise AssertionError((await self._process.stderr.read()).decode())


@pytest.fixture
async def gateway():
    async with serving() as running:
        yield running


@pytest.fixture
async def page(gateway, tmp_path):
    install(HERE)
    module = tmp_path / "client.mjs"
    module.write_text(client_module())
    process = await asyncio.create_subprocess_exec(
        *(tool("node"), HERE / "react_page.mjs", module),
        env=environment(GATEWAY=f"http://127.0.0.1:{gateway.port}", TOKEN=token_for("read:runs:*")),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    yield ReactPage(process)
    # Not kill(): `node` may be a wrapper whose child process would survive.
    process.stdin.close()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(process.stdout.read(), process.stderr.read(), process.wait())


async def test_components_share_subscription_and_get_records_once(gateway, page):
    written = await Written(gateway).create()
    page.render(written.id, count=2)
    line = f"{written.id}:live:"
    await page.shows(f"{line}{line}queued")
    assert gateway.hub.live_streams == 2  # the stream, and the run's own log
    await written.append("a", "b")
    report = await page.shows(f"{line}a,b{line}a,b" + "queued")
    assert sorted(report["received"]) == ["a", "a", "b", "b"]  # both components have a handler


async def test_component_shows_no_value_of_previous_run(gateway, page):
    one, other = await Written(gateway).create(), await Written(gateway).create()
    await one.append("of one")
    page.render(None)
    await page.shows("null:idle:")
    page.render(one.id)
    await page.shows(f"{one.id}:live:of onequeued")
    page.render(other.id)
    report = await page.shows(f"{other.id}:live:queued")
    await other.append("of other", end="completed")
    await page.shows(f"{other.id}:ended:of otherqueued")
    assert report["received"] == ["of one"]


async def test_subscription_ends_when_component_unmounts(gateway, page):
    written = await Written(gateway).create()
    page.render(written.id)
    await page.shows(f"{written.id}:live:queued")
    page.render(None, count=0)
    await until(lambda: gateway.hub.live_streams == 0)


async def test_input_and_trigger_hooks_show_results_of_calls(gateway, page):
    written = await Written(gateway).create()
    page.render(None, count=0, ask=True)
    await page.shows("0/0")
    page.call("send", {"ok": True})
    await page.shows("0network/0")  # there is no run yet
    page.render(written.id, count=0, ask=True)
    await page.shows("0/0")
    page.call("send", {"ok": True})
    await page.shows("0forbidden/0")
    page.call("trigger", {})
    await page.shows("0forbidden/0forbidden")
