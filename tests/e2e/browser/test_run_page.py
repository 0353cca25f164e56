import asyncio
import json
import subprocess
import sys

import pytest

from tests.support.browser.reflex_process import ROOT
from tests.support.browser.watched_page import subscriptions, until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
STREAMS = ("progress", "summary", "answer")


async def test_reloaded_page_resumes_and_shows_stored_records(open_page, demo):
    census = await open_page()
    run_id = await census.start_census("pip", workers=4)
    page = await open_page(f"/runs/{run_id}")
    await page.until_lines("summary", 3)
    before = (await page.lines("summary"))[-1]["offset"]
    await page.page.reload()
    await page.page.locator("#stream-summary").wait_for()
    assert (await page.lines("summary"))[-1]["offset"] >= before

    await page.until_status("completed")
    for stream in ("progress", "summary"):
        kept = await demo.observer.records(run_id, stream)
        await page.until_lines(stream, len(kept))
        assert await page.lines(stream) == kept[-50:]
    # After the reload, each record arrived once, without a hole.
    offsets = [record["offset"] for record in page.sockets[-1].records(run_id, "summary")]
    assert offsets == list(range(offsets[0], len(kept)))


async def test_shown_command_prints_records_of_its_run_only(open_page, demo, tmp_path):
    page = await open_page()
    other_id = await page.ask("What is a deque?")
    await page.until_status("completed")
    run_id = await page.start_census("httpx", workers=2)
    await page.goto(f"/runs/{run_id}")
    await page.until_status("completed")
    command = (await page.text("#command")).split()
    token = await page.text("#token")
    assert command[:4] == [".venv/bin/python", "docs/watch.py", run_id, token]

    async def watch(*arguments):
        script = [sys.executable, str(ROOT / "docs" / "watch.py"), *arguments]
        return await asyncio.to_thread(
            subprocess.run, script, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )

    done = await watch(*command[2:])
    kept = await demo.observer.records(run_id, command[4])
    expected = [f"{record['offset']} {json.dumps(record['data'])}" for record in kept]
    assert done.stdout.splitlines() == expected
    assert "'reason': 'completed'" in done.stderr

    refused = await watch(other_id, token, "answer", command[5])
    assert refused.stdout == ""
    assert "'code': 'forbidden'" in refused.stderr


@pytest.mark.parametrize("kind", ["runs", "census", "ask"])
async def test_unknown_run_shows_error(open_page, kind):
    unknown = "run_0mwzzzzzzzzzzzzzzzzzzzzzzzzzz"
    page = await open_page(f"/{kind}/{unknown}")
    await page.until_shown(f"there is no run {unknown}")
    assert await page.page.locator(".loading, .rt-Spinner").count() == 0
    assert subscriptions(page) == {}
    await page.page.get_by_role("link", name="Start a new run").click()
    await page.page.locator("#start").wait_for()


async def test_invalid_run_id_shows_error(open_page):
    page = await open_page("/runs/%3Cimg%20src=x%20onerror=alert(1)%3E")
    await page.page.get_by_role("alert").wait_for()
    assert await page.page.locator(".loading, .rt-Spinner, main img").count() == 0


async def test_page_has_one_socket_and_one_subscription_per_stream(open_page):
    page = await open_page()
    run_id = await page.start_census("stdlib", workers=4)
    await page.until("() => document.querySelectorAll('.worker .run-status').length === 4")
    workers = await page.page.locator(".worker a").evaluate_all(
        "all => all.map(a => a.pathname.split('/').at(-1))"
    )
    assert len(page.sockets) == 1
    streams = [(run_id, None), (run_id, "summary"), *((worker, None) for worker in workers)]
    assert subscriptions(page) == dict.fromkeys(streams, 1)
    await page.page.locator("#cancel").click()
    await page.until_status("canceled")
    assert len(page.sockets) == 1


OBSERVE = """() => {
  window.shown = [];
  const look = () => {
    const id = document.getElementById('run-id')?.innerText;
    if (!id) return;
    window.shown.push(JSON.stringify([
      id,
      document.getElementById('payload')?.textContent ?? '',
      [...document.querySelectorAll('[id^=stream-]')].map(e => e.id + e.textContent).join(),
      document.getElementById('token')?.textContent ?? '',
    ]));
  };
  look();
  new MutationObserver(look).observe(
    document.body, { childList: true, subtree: true, characterData: true });
}"""


async def test_other_run_shows_no_value_of_first_run(open_page):
    page = await open_page()
    first = await page.start_census("stdlib", workers=2)
    await page.page.get_by_role("link", name="The run in detail").click()
    await page.page.wait_for_url("**/runs/*")
    await page.page.reload()  # the list of children is built when the page loads
    await page.until("() => document.querySelectorAll('.child .run-status').length === 2")
    await page.until_lines("progress", 3)
    await page.until_lines("summary", 3)
    socket = page.sockets[-1]
    first_ids = {i for i, (run, _) in socket.subscriptions().items() if run == first}
    first_token = await page.text("#token")
    await page.page.evaluate(OBSERVE)

    await page.page.locator(".child a").first.click()
    await page.page.wait_for_url(lambda url: first not in url)
    second = page.run_id
    await page.until("id => document.getElementById('run-id')?.innerText === id", second)
    await page.until("() => document.getElementById('payload')?.textContent.includes('part')")
    await until(lambda: {f["id"] for f in socket.of("unsubscribe")} >= first_ids)

    assert socket.is_open
    assert socket is page.sockets[-1]
    times = subscriptions(page)
    assert [times[second, stream] for stream in STREAMS] == [1, 1, 1]
    assert socket.subscriptions().keys() & first_ids == first_ids
    shown = [json.loads(text) for text in await page.page.evaluate("window.shown")]
    under_second = [(payload, lines, token) for id, payload, lines, token in shown if id == second]
    assert under_second
    for payload, lines, token in under_second:
        assert '"workers"' not in payload
        assert lines == ""  # a child reports to its parent's stream, not to its own
        assert token != first_token
    await page.cancel_census(first)
