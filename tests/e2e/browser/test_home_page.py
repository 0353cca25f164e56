import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]


async def test_page_shows_retries_and_metadata_of_its_run(open_page):
    page = await open_page("/")
    await page.page.locator("#deliver:not([disabled])").click()
    await page.page.locator("#last-error").wait_for()
    assert "dropped in attempt 1" in await page.text("#last-error")
    await page.until("() => document.querySelector('#attempt')?.innerText === 'attempt 3 of 4'")
    await page.page.locator("#delivery >> text=completed").first.wait_for(timeout=60_000)
    assert '"stage": "done"' in await page.text("#delivery pre")
    assert '"dropped": [\n    2,\n    3\n  ]' in await page.text("#delivery pre")


async def test_list_of_runs_is_updated_live(open_page):
    page = await open_page("/")
    before = await page.page.locator(".my-run").count()
    await page.page.locator("#deliver:not([disabled])").click()
    newest = page.page.locator(".my-run").first
    await page.until(f"() => document.querySelectorAll('.my-run').length === {before + 1}")
    assert (await newest.inner_text()).startswith("deliver")
    await newest.locator("text=attempt 2").wait_for()
    await newest.locator("text=completed").wait_for(timeout=60_000)
