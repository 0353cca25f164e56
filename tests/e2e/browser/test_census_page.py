import pytest

from demo_app.census.sources import sources

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
FILES = {choice.id: choice.file_count for choice in sources()}


async def check_completed(page, run_id, observer, source_id):
    """Check that the page shows the complete census, with the numbers of the store."""
    await page.until_status("completed")
    files = FILES[source_id]
    await page.until(
        "words => document.querySelector('#files')?.innerText === words",
        f"{files} of {files} files",
    )
    await page.until_texts("#percent", ["100%"])
    last = (await observer.records(run_id, "summary"))[-1]["data"]
    assert last["files_done"] == files
    await page.until_texts("#lines", [f"{last['totals']['lines']:,}"])
    await page.until_texts("#tokens", [f"{last['totals']['tokens']:,}"])
    await page.until_texts(".module", [stats["module"] for stats in last["largest"]])


async def test_census_counts_every_file_of_package(open_page, demo):
    page = await open_page()
    run_id = await page.start_census("httpx", workers=2)
    await check_completed(page, run_id, demo.observer, "package:httpx")
    await page.until(
        "() => { const all = [...document.querySelectorAll('.worker .run-status')];"
        " return all.length === 2 && all.every(badge => badge.innerText === 'completed') }"
    )
    await page.until_texts(".worker-percent", ["100%", "100%"])
    assert await page.page.locator("#cancel").count() == 0


async def test_census_continues_after_reload(open_page, demo):
    page = await open_page()
    run_id = await page.start_census("stdlib", workers=4)
    waits = page.page.locator("#waits-for")
    await waits.wait_for()  # explains the status `waiting` while the children work
    assert await waits.inner_text() == "for its child tasks"
    await page.until("() => parseInt(document.querySelector('#percent')?.innerText) >= 20")
    before = int((await page.text("#files")).split()[0])
    await page.page.reload()
    await page.until("() => parseInt(document.querySelector('#files')?.innerText) > 0")
    after = int((await page.text("#files")).split()[0])
    assert before <= after < FILES["stdlib"]
    await check_completed(page, run_id, demo.observer, "stdlib")
    assert await waits.count() == 0
    assert len(page.sockets) == 2  # one before the reload, one after


async def test_two_tabs_show_same_records(open_page, demo):
    first = await open_page()
    run_id = await first.start_census("pip", workers=4)
    second = await open_page(f"/census/{run_id}")
    third = await open_page(f"/runs/{run_id}")
    for page in (first, second):
        await check_completed(page, run_id, demo.observer, "package:pip")
    await third.until_status("completed")
    await second.goto(f"/runs/{run_id}")
    for stream in ("progress", "summary"):
        kept = await demo.observer.records(run_id, stream)
        for page in (second, third):
            await page.until_lines(stream, len(kept))
            assert await page.lines(stream) == kept[-50:]


async def test_cancel_ends_census_and_its_children(open_page, demo):
    page = await open_page()
    run_id = await page.start_census("stdlib", workers=4)
    await page.until("() => document.querySelectorAll('.worker').length === 4")
    await page.page.locator("#cancel").click()
    await page.until_status("canceled")
    await page.until(
        "() => { const all = [...document.querySelectorAll('.worker .run-status')];"
        " return all.length === 4 && all.every(badge => badge.innerText === 'canceled') }"
    )
    assert await page.page.locator("#cancel").count() == 0
    assert (await demo.observer.run(run_id))["status"] == "canceled"
    assert (await demo.observer.records(run_id, "summary"))[-1]["data"]["percent"] < 100
    await page.page.reload()
    await page.until_status("canceled")
