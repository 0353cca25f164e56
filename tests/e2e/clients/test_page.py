"""Plain pages, in a real Chromium, with the client that the gateway serves."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import Route, expect

from tests.support.clients.pages import ADDRESS, Written, block
from tests.support.gateways import token_for, until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.browser]

PAGE = """<!doctype html>
<script type="module">
  import * as client from "http://127.0.0.1:%d/v1/client.js";
  Object.assign(window, client, { seen: [] });
  window.isReady = true;
</script>
"""


@pytest.fixture
def open_client(open_page):
    async def open_client(port: int):
        page = await open_page(PAGE % port)
        await page.wait_for_function("window.isReady")
        return page

    return open_client


async def test_documented_page_shows_stream(gateway, open_page, context):
    written = await Written(gateway).create()

    async def start(route: Route) -> None:
        await route.fulfill(json={"run": written.id, "token": written.token})

    await context.route("**/start", start)
    html = block("html", "progress")
    assert len(html.splitlines()) <= 15
    page = await open_page(html.replace(ADDRESS, f"http://127.0.0.1:{gateway.port}"))
    await expect(page.locator("#status")).to_have_js_property("value", "live")
    await written.append({"current": 1, "total": 4})
    await expect(page.locator("#bar")).to_have_js_property("value", 1)
    await written.append({"current": 3, "total": 4}, end="completed")
    await expect(page.locator("#bar")).to_have_js_property("value", 3)
    await expect(page.locator("#status")).to_have_js_property("value", "ended")


async def test_loop_yields_each_value_once_and_ends_with_stream(gateway, open_client):
    written = await Written(gateway).create()
    page = await open_client(gateway.port)
    await written.append(*range(5))
    await page.evaluate(
        """([run, token]) => {
          window.done = (async () => {
            for await (const value of connect({ token }).stream(run, "progress")) seen.push(value);
          })();
        }""",
        [written.id, written.token],
    )
    await page.wait_for_function("seen.length === 5")
    await written.append(*range(5, 3000), end="completed")  # more than the loop buffers
    await page.evaluate("done")
    assert await page.evaluate("seen") == list(range(3000))


async def test_slow_loop_has_bounded_buffer_and_misses_no_value(gateway, open_client):
    written = await Written(gateway).create()
    page = await open_client(gateway.port)
    await page.evaluate(
        """([run, token]) => {
          window.taken = 0;
          window.next = () => {};
          window.done = (async () => {
            for await (const value of connect({ token }).stream(run, "progress")) {
              seen.push(value);
              if (value === 0) await new Promise((resolve) => (window.next = resolve));
            }
          })();
        }""",
        [written.id, written.token],
    )
    await written.append(0)
    await page.wait_for_function("seen.length === 1")
    for start in range(1, 20_001, 2000):
        await written.append(*range(start, start + 2000))
    # The page has unsubscribed: the gateway has no reader of the stream.
    await until(lambda: gateway.hub.live_streams == 0)
    await written.append(end="completed")
    await page.evaluate("next()")
    await page.evaluate("done")
    assert await page.evaluate("seen") == list(range(20_001))


async def test_loop_raises_error_of_failed_stream(gateway, open_client):
    written = await Written(gateway).create()
    await written.append(1, end="failed")
    page = await open_client(gateway.port)
    caught = await page.evaluate(
        """async ([run, token]) => {
          try {
            for await (const value of connect({ token }).stream(run, "progress")) seen.push(value);
          } catch (error) {
            return [error instanceof RealtimeError, error.code, error.message, seen];
          }
        }""",
        [written.id, written.token],
    )
    why = f"stream {written.id}/progress: it has ended: failed"
    assert caught == [True, "stream_incomplete", why, [1]]


async def test_page_follows_runs_and_sends_input(gateway, open_client):
    written = await Written(gateway).create()
    page = await open_client(gateway.port)
    sent = await page.evaluate(
        """async ([run, token]) => {
          const gateway = connect({ token });
          gateway.run(run).subscribe(({ run }) => run && seen.push(run.status));
          gateway.streams(run).subscribe(({ streams }) => (window.streams = Object.keys(streams)));
          const { offset } = await gateway.append(run, "approval", { ok: true });
          return offset;
        }""",
        [written.id, written.token],
    )
    assert sent == 0
    assert await written.records("approval") == [{"ok": True}]
    await gateway.store.patch_run(written.id, {"status": "executing"})
    await page.wait_for_function('seen.at(-1) === "executing" && streams.includes("approval")')


async def test_refused_request_raises_error_with_code(gateway, open_client):
    written = await Written(gateway).create()
    page = await open_client(gateway.port)
    caught = await page.evaluate(
        """async ([run, token]) => {
          const gateway = connect({ token });
          return gateway.append(run, "progress", 1).catch(({ code, message }) => [code, message]);
        }""",
        [written.id, written.token],
    )
    assert caught == [
        "forbidden",
        f"the token has no scope to append to stream {written.id}/progress",
    ]


async def test_token_is_fetched_again_before_it_expires(gateway, open_client):
    written = await Written(gateway).create()
    scope = f"read:runs:{written.id}"
    # The first token has passed 4/5 of its lifetime, so the gateway asks for another immediately.
    tokens = [token_for(scope, ttl_s=600, age_s=570), token_for(scope)]
    page = await open_client(gateway.port)
    await page.evaluate(
        """([run, tokens]) => {
          window.fetched = 0;
          const gateway = connect({ token: async () => tokens[fetched++] });
          gateway.stream(run, "progress").subscribe(({ data, status }) => {
            window.shown = { data, status };
          });
        }""",
        [written.id, tokens],
    )
    await page.wait_for_function('fetched === 2 && window.shown?.status === "live"')
    await written.append("after")
    await page.wait_for_function('shown.data[0] === "after"')
    assert await page.evaluate("fetched") == 2


async def test_two_observers_of_stream_share_one_subscription(gateway, open_client):
    written = await Written(gateway).create()
    page = await open_client(gateway.port)
    frames: list[dict] = []
    page.on(
        "websocket",
        lambda socket: socket.on("framesent", lambda text: frames.append(json.loads(text))),
    )
    await page.evaluate(
        """([run, token]) => {
          for (const name of ["one", "two"]) {
            const source = connect({ token }).stream(run, "progress");
            source.subscribe(({ latest }) => (window[name] = latest));
          }
        }""",
        [written.id, written.token],
    )
    await written.append("x")
    await page.wait_for_function('one === "x" && two === "x"')
    assert [frame["type"] for frame in frames] == ["hello", "subscribe"]
