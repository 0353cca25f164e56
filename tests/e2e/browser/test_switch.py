"""Switch between runs on a page; sets of runs; all streams of a run."""

import pytest

from tests.support.browser.watched_page import until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]

SWITCHES = 50

# After every React commit: all shown values belong to the shown run.
WATCH_FOR_FOREIGN_VALUES = """
() => {
  window.foreign = [];
  window.commits = 0;
  window.seen = new Set();
  const values = document.getElementById("values");
  const streams = document.getElementById("streams");
  const look = () => {
    window.commits += 1;
    for (const [list, isForeign] of [
      [values, (text, run) => !text.startsWith(run + ":")],
      [streams, (text, run) => text.startsWith("marks=run_") && !text.startsWith(`marks=${run}:`)],
    ]) {
      const run = list.dataset.run;
      for (const item of list.children) {
        if (isForeign(item.textContent, run)) window.foreign.push([run, item.textContent]);
        else window.seen.add(run);
      }
    }
  };
  const options = { childList: true, subtree: true, characterData: true, attributes: true };
  new MutationObserver(look).observe(document.querySelector("main"), options);
}
"""


async def test_switched_run_shows_no_value_of_other_run(open_app):
    page = await open_app("/watch")
    await page.page.evaluate(WATCH_FOR_FOREIGN_VALUES)
    await page.page.locator("#two").click()
    await page.until("() => document.querySelectorAll('#values li').length > 3")
    for _ in range(SWITCHES):
        before = await page.page.locator("#values").get_attribute("data-run")
        await page.page.locator("#switch").click()
        await page.until(
            "before => document.getElementById('values').dataset.run !== before", before
        )
        await page.until("() => document.querySelectorAll('#values li').length > 0")
    assert await page.page.evaluate("window.foreign") == []
    assert await page.page.evaluate("window.seen.size") == 2
    assert await page.page.evaluate("window.commits") > SWITCHES
    assert len(page.sockets) == 1


async def test_new_streams_appear_even_if_named_run(open_app):
    page = await open_app("/watch")
    await page.page.locator("#two").click()
    await page.until("() => document.querySelectorAll('.stream').length === 2")
    # A stream is shown when its name is known; its value arrives later.
    await page.until(
        "() => [...document.querySelectorAll('.stream')].every(e => !e.innerText.endsWith('='))"
    )
    marks, named_run = await page.texts(".stream")
    assert marks.startswith("marks=run_")
    assert named_run == "run=value"


async def test_runs_with_tag_are_updated_and_more_are_loaded(open_app):
    page = await open_app("/watch")
    await page.page.locator("#tagged").click()
    await page.until("() => document.querySelectorAll('.tagged').length === 3")
    await page.until(
        "() => [...document.querySelectorAll('.tagged')].every(e => e.innerText.endsWith(' done'))"
    )
    rows = await page.texts(".tagged")
    # Newest first. The token does not give access to payloads.
    assert rows == sorted(rows, reverse=True)
    await page.page.locator("#more:enabled").click()
    await page.until("() => document.querySelectorAll('.tagged').length >= 5")
    assert (await page.texts(".tagged"))[:3] == rows
    await page.until(
        "() => document.querySelector('#tagged-count').innerText"
        " === String(document.querySelectorAll('.tagged').length)"
    )
    await page.page.locator("#one").click()
    await page.until(
        "first => { const row = document.querySelector('.tagged').innerText;"
        " return row > first && row.endsWith(' done') }",
        rows[0],
    )


async def test_invalid_token_shows_error_instead_of_empty_list(open_app):
    page = await open_app("/watch")
    await page.page.locator("#wrong").click()
    await page.until("() => document.getElementById('tagged-status').innerText === 'error'")
    assert "not valid" in await page.text("#tagged-error")


async def test_children_appear_and_parents_end_is_reported_once(open_app):
    page = await open_app("/watch")
    await page.page.locator("#family").click()
    await page.until("() => document.querySelectorAll('.child').length === 3")
    await page.until("() => document.getElementById('completed').innerText !== ''")
    parent = await page.page.locator("#values").get_attribute("data-run")
    assert await page.text("#completed") == f"{parent}:completed:True"
    await page.until(
        "() => [...document.querySelectorAll('.child')].every(e => e.innerText === 'completed')"
    )
    frames = [frame for socket in page.sockets for frame in socket.of("subscribe")]
    assert [f["runs"] for f in frames if "runs" in f] == [{"parent": parent}]
    await until(lambda: all(socket.is_open for socket in page.sockets))
