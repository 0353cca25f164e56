"""The hooks in a small app that is started with `reflex run`."""

import json

import pytest

from tests.support.browser.watched_page import subscriptions

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]


async def until_text(page, id, text):
    await page.until(
        "([id, text]) => document.getElementById(id)?.textContent === text", [id, text]
    )


async def start(page, kind):
    """Start a run, and return its id when the page shows it."""
    before = await page.text("#shown")
    await page.page.locator(f"#{kind}").click()
    await page.until(
        "before => ![before, ''].includes(document.getElementById('shown').textContent)", before
    )
    return await page.text("#shown")


async def test_handlers_are_called_once_for_each_record(open_app):
    page = await open_app()
    run_id = await start(page, "short")
    received = " ".join(f"{number}:{number + 1}/5" for number in range(5))
    await until_text(page, "ends", "completed")
    await until_text(page, "received", received)
    assert await page.text("#latest") == "5/5"
    assert await page.text("#errors") == ""
    assert subscriptions(page)[run_id, "counts"] == 1  # used in three places and in the card

    await page.page.locator("#lose").click()  # the end of a stream is reported once
    await page.page.locator("#find").click()
    await start(page, "short")
    await until_text(page, "ends", "completed completed")
    await until_text(page, "received", f"{received} {received}")


async def test_refused_token_calls_handler_and_new_token_resumes(open_app):
    page = await open_app()
    await start(page, "long")
    await page.until("() => parseInt(document.getElementById('latest').textContent) >= 3")
    await page.page.locator("#lose").click()
    await until_text(page, "errors", "forbidden")
    await until_text(page, "status", "error")
    assert "no scope to read stream" in await page.text("#error")
    stopped = int(await page.text("#count"))

    await page.page.locator("#find").click()
    await until_text(page, "status", "live")
    await page.until("n => parseInt(document.getElementById('count').textContent) > n", stopped)
    await page.until(
        "n => document.getElementById('received').textContent.split(' ').length > n", stopped + 3
    )
    received = (await page.text("#received")).split()
    assert received == [f"{number}:{number + 1}/400" for number in range(len(received))]
    assert await page.text("#errors") == "forbidden"
    assert len(page.sockets) == 1


async def test_disabled_hook_does_not_subscribe(open_app):
    page = await open_app()
    await page.page.locator("#toggle").click()
    run_id = await start(page, "long")
    await page.until(
        "() => parseInt(document.querySelector('.card-count')?.textContent) >= 3"
    )  # the card has a separate hook
    assert await page.text("#status") == "idle"
    assert await page.text("#latest") == "/"
    assert subscriptions(page)[run_id, "counts"] == 1

    await page.page.locator("#toggle").click()
    await until_text(page, "status", "live")
    await page.until("() => parseInt(document.getElementById('latest').textContent) >= 3")
    await page.page.locator("#toggle").click()
    await until_text(page, "status", "idle")
    assert await page.text("#latest") == "/"


async def test_each_card_in_foreach_follows_its_own_run(open_app):
    page = await open_app()
    ids = [await start(page, kind) for kind in ("short", "long", "short")]
    await page.until(
        "() => [...document.querySelectorAll('.card-status')].map(e => e.innerText).join()"
        " === 'completed,executing,completed'"
    )
    await page.until(
        "() => { const all = [...document.querySelectorAll('.card-count')].map(e => e.innerText);"
        " return all[0] === '5/5' && /^[1-9]\\d*[/]400$/.test(all[1]) && all[2] === '5/5' }"
    )
    assert await page.texts(".card button") == ids
    assert len(page.sockets) == 1
    times = subscriptions(page)
    assert [times[id, None] for id in ids] == [1, 1, 1]


async def test_new_run_id_shows_no_value_of_previous_run(open_app):
    page = await open_app()
    long = await start(page, "long")
    await page.until("() => parseInt(document.getElementById('latest').textContent) >= 3")
    await page.page.evaluate("""() => {
      window.shown = [];
      new MutationObserver(() => window.shown.push(JSON.stringify(
        ['shown', 'latest', 'count'].map(id => document.getElementById(id).textContent)
      ))).observe(document.body, { childList: true, subtree: true, characterData: true });
    }""")
    short = await start(page, "short")
    await until_text(page, "latest", "5/5")
    for run_id, ending in ((long, "/400"), (short, "/5"), (long, "/400")):
        await page.page.get_by_role("button", name=run_id).click()
        await until_text(page, "shown", run_id)
        await page.until(
            "end => document.getElementById('latest').textContent.endsWith(end)", ending
        )
    seen = [json.loads(text) for text in await page.page.evaluate("window.shown")]
    assert {run_id for run_id, _, _ in seen} == {long, short}
    for run_id, latest, count in seen:
        total = "400" if run_id == long else "5"
        assert latest == "/" or latest.endswith(f"/{total}"), (run_id, latest)
        assert int(count) <= int(total)


async def test_run_id_and_token_may_change_in_two_updates(open_app):
    page = await open_app("/job/run_nobody")
    await until_text(page, "job-error", "run_not_found" * 2)
    for _ in range(4):
        before = page.page.url
        await page.page.locator("#next").click()
        await page.page.wait_for_url(lambda url, before=before: url != before)
        run_id = page.page.url.rstrip("/").rsplit("/", 1)[-1]
        await until_text(page, "job", f"{run_id} live live")
        assert await page.text("#job-error") == ""
    for button in ("other-0", "other-5", "other-0", "other-5"):
        before = (await page.text("#other")).split()[:-1]
        await page.page.locator(f"#{button}").click()
        await page.until(
            "before => { const [id, status] = document.getElementById('other').textContent"
            ".split(' '); return id && id !== before && status === 'live' }",
            (before or [""])[0],
        )
    assert len(page.sockets) == 1


async def test_calls_run_in_order_and_double_click_runs_once(open_app):
    page = await open_app("/job/run_nobody")
    await until_text(page, "job-error", "run_not_found" * 2)  # the page has its tokens
    lines = []
    page.page.on("console", lambda message: lines.append(message.text))
    await page.page.locator("#trigger").click()
    await until_text(page, "count", "2 2")  # two calls; the page shows the second run
    await page.until("() => document.getElementById('hint').textContent.includes('stepz')")
    assert [line for line in lines if 'without a stream "stepz"' in line]
