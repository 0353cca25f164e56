import json

import pytest
from websockets.asyncio.client import connect

from gateway import tokens
from tests.support.browser.reflex_process import SECRET

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
NUMBER = "id => parseFloat(document.getElementById(id)?.innerText.replaceAll(',', ''))"


async def test_operator_page_shows_live_metrics(open_page, demo):
    page = await open_page("/operator")
    await page.until("() => document.querySelector('#gateway-state')?.innerText === 'ready'")
    first = await page.text("#clock")
    await page.until(f"() => ({NUMBER})('connections') >= 1")  # the connection of this page
    connections = await page.page.evaluate(NUMBER, "connections")
    assert await page.page.evaluate(NUMBER, "memory") > 20

    other = await open_page()
    await other.start_census("stdlib", workers=2)
    await page.until(f"before => ({NUMBER})('connections') > before", connections)
    await page.until(f"() => ({NUMBER})('appended') > 5")
    await page.until(f"() => ({NUMBER})('sent') > 5")
    await page.until(
        "() => [...document.querySelectorAll('.live-stream')].some(row =>"
        " row.innerText.startsWith('summary') && row.cells[3].innerText === '1')"
    )
    async with connect(f"{demo.gateway_url}/v1/ws") as socket:
        await socket.send(json.dumps({"type": "hello", "protocol": 1, "token": "no token"}))
        assert json.loads(await socket.recv())["code"] == "invalid_token"
    await page.until(
        "() => [...document.querySelectorAll('.refusal')].some(row =>"
        " row.innerText.startsWith('invalid_token') && parseInt(row.cells[1].innerText) >= 1)"
    )
    assert await page.text("#clock") != first
    # Knowing a run's id gives read access to it: no complete id may be shown.
    assert "run_" not in await page.page.locator("main, body").first.inner_text()


async def test_two_operators_share_one_feed(open_page):
    first, second = await open_page("/operator"), await open_page("/operator")
    for page in (first, second):
        await page.page.locator("#clock").wait_for()
    asked = [
        {key for socket in page.sockets for key in socket.subscriptions().values()}
        for page in (first, second)
    ]
    assert asked[0] == asked[1] and len(asked[0]) == 1


async def test_operator_page_requires_key_from_other_machine(open_page):
    page = await open_page("/operator", extra_http_headers={"X-Forwarded-For": "203.0.113.9"})
    field = page.page.locator("input[name=key]")
    await field.wait_for()
    assert await page.page.locator("#clock").count() == 0
    reader = tokens.mint(["read:runs:*"], secret_key=SECRET)
    for wrong in ("nonsense", reader):
        await field.fill(wrong)
        await page.page.locator("#unlock").click()
        await page.page.locator("[role=alert] >> text=does not give access").wait_for()
        assert await page.page.locator("#clock").count() == 0
    await field.fill(tokens.mint(["read:metrics:*"], secret_key=SECRET))
    await page.page.locator("#unlock").click()
    await page.page.locator("#clock").wait_for()
    assert not page.page.url.endswith("=")  # the URL must not contain the key
