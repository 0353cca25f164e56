"""Pages in networks that block WebSockets, in a real Chromium."""

from __future__ import annotations

import pytest
from playwright.async_api import Route, expect

from tests.support.clients.blocking_proxy import BlockingProxy
from tests.support.clients.pages import ADDRESS, Written, block
from tests.support.gateways import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.browser]

PAGE = """<!doctype html>
<script type="module">
  import { connect } from "http://127.0.0.1:%d/v1/client.js";
  const gateway = connect({ token: "%s" });
  window.statuses = [];
  gateway.stream("%s", "progress").subscribe(({ data, status }) => {
    window.seen = data;
    if (statuses.at(-1) !== status) statuses.push(status);
  });
  gateway.run("%s").subscribe(({ run }) => (window.run = run));
  window.gateway = gateway;
</script>
"""


async def opened(open_page, proxy, written):
    return await open_page(PAGE % (proxy.port, written.token, written.id, written.id))


async def test_page_works_over_http_when_websockets_are_blocked(gateway, open_page):
    async with BlockingProxy(gateway.port).listen() as proxy:
        written = await Written(gateway).create()
        page = await opened(open_page, proxy, written)
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        await page.wait_for_function('statuses.at(-1) === "live"')
        assert proxy.refused >= 1
        await written.append(*range(3))
        await page.wait_for_function("seen.length === 3")
        await gateway.store.patch_run(written.id, {"status": "executing"})
        await page.wait_for_function('run?.status === "executing"')
        assert await page.evaluate(f'gateway.append("{written.id}", "approval", "yes")')
        assert await written.records("approval") == ["yes"]
        await written.append(end="completed")
        await page.wait_for_function('statuses.at(-1) === "ended"')
        # No URL contains a token.
        assert set(urls) == {f"http://127.0.0.1:{proxy.port}/v1/events"}


async def test_page_resumes_over_http_at_its_position(gateway, open_page):
    """WebSockets are cut and blocked while the stream still grows."""
    async with BlockingProxy(gateway.port).listen() as proxy:
        proxy.is_blocking = False
        written = await Written(gateway).create()
        await written.append(*range(100))
        page = await opened(open_page, proxy, written)
        await page.wait_for_function("seen?.length === 100")
        assert not [line for line in proxy.requests if "/v1/events" in line]
        proxy.cut()
        await written.append(*range(100, 200))
        await until(lambda: [line for line in proxy.requests if "/v1/events" in line])
        await page.wait_for_function("seen.length === 200")
        await written.append(*range(200, 300), end="completed")
        await page.wait_for_function('statuses.at(-1) === "ended"')
        assert await page.evaluate("seen") == list(range(300))


async def test_documented_page_falls_back_to_http_and_returns(gateway, open_page, context):
    """The documented page without a build step; the test sets the time between its attempts."""
    written = await Written(gateway).create()

    async def start(route: Route) -> None:
        await route.fulfill(json={"run": written.id, "token": written.token})

    await context.route("**/start", start)
    await context.clock.install()
    async with BlockingProxy(gateway.port).listen() as proxy:
        page = await open_page(
            block("html", "progress").replace(ADDRESS, f"http://127.0.0.1:{proxy.port}")
        )

        async def shows(value: int) -> None:
            await written.append({"current": value, "total": 9})
            await expect(page.locator("#bar")).to_have_js_property("value", value)

        def asked(path: str) -> int:
            return len([line for line in proxy.requests if path in line])

        await expect(page.locator("#status")).to_have_js_property("value", "live")
        await shows(1)
        assert proxy.refused >= 1 and asked("/v1/events") == 1
        proxy.is_blocking = False
        await context.clock.run_for(31_000)
        await until(lambda: asked("/v1/ws") == 1)
        await shows(2)
        await until(lambda: len(gateway.gateway._sessions) == 1)  # the HTTP response has ended
        proxy.cut()  # blocked again: after a few attempts the page uses HTTP
        await until(lambda: len(gateway.gateway._sessions) == 0)
        tries = proxy.refused
        while asked("/v1/events") == 1:
            await context.clock.run_for(1_000)
        assert proxy.refused >= tries + 1
        await shows(3)
        await written.append(end="completed")
        await expect(page.locator("#status")).to_have_js_property("value", "ended")


async def test_loop_continues_across_ended_http_responses(open_page, site):
    """Each HTTP response ends after a short time; the page's loop does not notice."""
    from gateway.model.limits import Limits
    from tests.support.gateways import serving

    async with (
        serving(origins=(site.origin,), limits=Limits(events_s=0.3)) as gateway,
        BlockingProxy(gateway.port).listen() as proxy,
    ):
        written = await Written(gateway).create()
        page = await opened(open_page, proxy, written)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.wait_for_function('statuses.at(-1) === "live"')
        for value in range(40):
            await written.append(value)
            await page.wait_for_function(f"seen.length === {value + 1}")
        await until(lambda: len(asked) > 5)
        assert await page.evaluate("seen") == list(range(40))
        assert await page.evaluate("statuses") == ["connecting", "live"]
