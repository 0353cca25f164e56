import json

import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
HOSTILE = (
    "<script>window.attacked = 'script'</script>"
    "<img src=x onerror=\"window.attacked = 'image'\">"
    "<svg onload=\"window.attacked = 'svg'\"></svg>"
    "[click](javascript:window.attacked='link') `<b>` zzqqxx"
)


async def test_question_is_answered_with_tool_calls(open_page, demo):
    page = await open_page()
    run_id = await page.ask("What is a deque?")
    await page.until_status("completed")
    assert await page.text("h1") == "What is a deque?"
    # A run's status and its streams are two subscriptions: the last parts may arrive after it.
    await page.until_texts(".tool-call summary", ["done search", "done read"])
    await page.until_shown("collections.deque is a class of the standard library")
    parts = [record["data"] for record in await demo.observer.records(run_id, "answer")]
    text = "".join(part["text"] for part in parts if part["type"] == "text-delta")
    assert (await demo.observer.run(run_id))["output"] == text
    last_line = text.strip().splitlines()[-1].rpartition(": ")[2]
    await page.until_shown(last_line)
    assert "Answered offline, without a model" in await page.text("#who-answers")

    await page.page.locator(".tool-call summary").first.click()
    assert '"module": "collections"' in await page.text(".tool-call pre")


async def test_answer_continues_after_reload(open_page, demo):
    page = await open_page()
    run_id = await page.ask("How does functools.lru_cache work?")
    await page.until("() => document.querySelector('#answer')?.innerText.length > 40")
    await page.page.reload()
    await page.until_status("completed")
    text = (await demo.observer.run(run_id))["output"]
    await page.until_shown(text.strip().splitlines()[-1].rpartition(": ")[2])


async def ask_with_approval(page, question):
    """Ask with approval required. Returns the run's id when a tool call waits for approval."""
    await page.goto("/")
    await page.page.locator("#question").fill(question)
    await page.page.locator("#ask-first").click()
    await page.page.locator("#ask").click()
    await page.page.wait_for_url("**/ask/run_*")
    await page.page.locator(".approve").wait_for()
    await page.until_status("waiting")
    await page.until_texts(".tool-call summary", ["done", "waiting"])
    return page.run_id


async def test_tool_call_needs_approval_also_after_reload(open_page):
    page = await open_page()
    await ask_with_approval(page, "What is a deque?")
    await page.page.reload()
    await page.page.locator(".approve").click()
    await page.until_status("completed")
    await page.until_texts(".tool-call summary", ["done search", "done read"])
    await page.until_shown("from _collections import deque")

    await ask_with_approval(page, "What is a deque?")
    await page.page.locator(".reject").click()
    await page.until_status("completed")
    await page.until(
        "() => { const call = document.querySelectorAll('.tool-call summary')[1]?.innerText;"
        " return call && !/^(done|running|waiting)/.test(call) }"
    )
    refused = (await page.texts(".tool-call summary"))[1].split()
    assert refused[1] == "read"
    assert refused[0] not in ("done", "running", "waiting")
    assert "from _collections import deque" not in await page.text("#answer")


async def test_answer_can_be_stopped_while_waiting_for_approval(open_page, demo):
    page = await open_page()
    run_id = await ask_with_approval(page, "What is a deque?")
    await page.page.locator("#stop").click()
    await page.until_status("completed")
    await page.until_shown("There is no answer.")
    assert await page.page.locator("#stop").count() == 0
    parts = [record["data"] for record in await demo.observer.records(run_id, "answer")]
    assert (parts[-1]["type"], parts[-1]["reason"]) == ("finish", "stopped")
    assert (await demo.observer.run(run_id))["output"] == ""


async def test_empty_question_is_rejected(open_page):
    page = await open_page("/")
    for number, question in enumerate(("", "   ")):
        await page.page.locator("#question").fill(question)
        await page.page.locator("#ask").click()
        await page.page.get_by_text("Type a question first.").nth(number).wait_for()
    assert page.page.url == f"{page.base_url}/"
    assert await page.page.get_by_text("No runs yet.").count() == 1


async def test_markup_in_question_is_shown_as_text(open_page):
    async def nothing_was_executed():
        return await page.page.evaluate("window.attacked") is None

    page = await open_page()
    run_id = await page.ask(HOSTILE)
    await page.until_status("completed")
    assert await page.text("h1") == HOSTILE
    await page.page.locator("#answer").wait_for()
    hrefs = await page.page.locator("a").evaluate_all("all => all.map(a => a.href)")
    assert not [href for href in hrefs if href.startswith("javascript:")]
    assert await page.page.locator("#answer :is(script, img, svg, iframe, a)").count() == 0
    await page.until_shown("<script>window.attacked")
    assert await nothing_was_executed()

    await page.goto("/runs")
    await page.page.get_by_text("zzqqxx").first.wait_for()
    assert await nothing_was_executed()

    await page.goto(f"/runs/{run_id}")
    await page.until_status("completed")
    assert json.loads(await page.text("#payload"))["question"] == HOSTILE
    assert await nothing_was_executed()
