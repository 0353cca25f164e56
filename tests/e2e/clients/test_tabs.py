"""Many tabs of one browser in a network that blocks WebSockets, in a real Chromium.

A browser opens six HTTP/1.1 connections to one host, for all of its tabs together.
"""

from __future__ import annotations

import asyncio

import pytest
import pytest_asyncio

from tests.support.clients.blocking_proxy import BlockingProxy
from tests.support.clients.pages import Written
from tests.support.gateways import DEADLINE_S

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.browser]

TABS = 8
PAGE = """<!doctype html>
<script type="module">
  import { connect } from "http://127.0.0.1:%d/v1/client.js";
  const gateway = connect({ token: "%s" });
  gateway.stream("%s", "progress").subscribe(({ data, status, error }) => {
    Object.assign(window, { seen: data, status, error });
  });
  window.gateway = gateway;
</script>
"""
PLACES = """navigator.locks.query().then(({ held }) =>
  held.filter(({ name }) => name.startsWith("realtime-streams")).length)"""
HOLDS = """navigator.locks.query().then(async ({ held }) => {
  const mine = await new Promise((resolve) => navigator.locks.request("who am I", async () => {
    const all = (await navigator.locks.query()).held;
    resolve(all.find(({ name }) => name === "who am I").clientId);
  }));
  return held.some(({ name, clientId }) =>
    name.startsWith("realtime-streams") && clientId === mine);
})"""


class Tab:
    """A page with a separate run and token."""

    def __init__(self, page, written):
        self.page = page
        self.written = written
        self._count = 0

    async def shows_what_is_new(self):
        self._count += 1
        await self.written.append(self._count)
        await self.page.wait_for_function(f"window.seen?.at(-1) === {self._count}")

    async def sends(self):
        before = len(await self.written.records("approval"))
        await self.page.evaluate(f'gateway.append("{self.written.id}", "approval", "yes")')
        assert len(await self.written.records("approval")) == before + 1

    async def holds_a_place(self):
        return await self.page.evaluate(HOLDS)


@pytest_asyncio.fixture(loop_scope="session")
async def open_tab(gateway, open_page):
    async with BlockingProxy(gateway.port).listen() as proxy:

        async def open_tab(token=None):
            written = await Written(gateway).create()
            token = token or written.token
            return Tab(await open_page(PAGE % (proxy.port, token, written.id)), written)

        yield open_tab


async def all_live(tabs):
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(tab.shows_what_is_new() for tab in tabs))
        await asyncio.gather(*(tab.sends() for tab in tabs))


async def test_every_tab_is_live_and_can_send_with_many_open(open_tab, context):
    tabs = [await open_tab() for _ in range(TABS)]
    await all_live(tabs)
    closed, frozen, _ = [tab for tab in tabs if await tab.holds_a_place()]
    tabs = [tab for tab in tabs if tab not in (closed, frozen)]
    # When a tab with a connection is closed, another tab gets its connection slot.
    await closed.page.close()
    await tabs[0].page.wait_for_function(f"{PLACES}.then((count) => count === 3)")
    # One tab is frozen, as in the background on a phone, and does not read from its connection.
    session = await context.new_cdp_session(frozen.page)
    await session.send("Page.setWebLifecycleState", {"state": "frozen"})
    await frozen.written.append(*["x" * 100_000] * 20)
    # One tab belongs to a user whose session has ended.
    stranger = await open_tab("not.a.token")
    await stranger.page.wait_for_function('window.error?.code === "invalid_token"')
    await all_live([*tabs, await open_tab()])
