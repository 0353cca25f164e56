"""The backend is killed and started again while pages stay open."""

import asyncio
import os
import subprocess
import sys

import pytest

from tests.support.browser.reflex_process import SECRET
from tests.support.processes.numbering_worker import FIRST

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
WORKER = "tests.support.processes.numbering_worker"
LOST = ("WebSocket connection to", "ERR_CONNECTION_REFUSED", "websocket error", "Failed to fetch")
NOT_OVER_HTTP = "net::ERR_FAILED"


@pytest.fixture
def start_worker(demo, tmp_path):
    """Start a worker in a child process. Returns the process and the id of its run."""
    started = []

    def start():
        env = os.environ | {"REALTIME_URL": demo.gateway_url, "REALTIME_SECRET_KEY": SECRET}
        log = tmp_path / "worker.log"
        with log.open("wb") as errors:
            worker = subprocess.Popen(
                [sys.executable, "-m", WORKER],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        started.append(worker)
        run_id = worker.stdout.readline().strip()
        assert run_id.startswith("run_"), log.read_text()
        return worker, run_id

    yield start
    for worker in started:
        worker.kill()
        worker.wait()
        worker.stdin.close()
        worker.stdout.close()


async def test_page_gets_each_record_once_when_backend_is_killed(open_page, demo, start_worker):
    worker, run_id = start_worker()
    page = await open_page(f"/runs/{run_id}")
    page.tolerate(*LOST, NOT_OVER_HTTP)
    # This test reads WebSocket frames only, so the fallback to HTTP is blocked.
    await page.page.route("**/v1/events", lambda route: route.abort())
    await page.until_lines("progress", FIRST)
    worker.stdin.write("\n")
    worker.stdin.flush()
    await page.until_lines("progress", FIRST + 10)

    demo.backend.kill()
    await page.until_shown("reconnecting, nothing will be missed")
    seen = (await page.lines("progress"))[-1]["offset"]
    await demo.backend.start()
    output, _ = await asyncio.to_thread(worker.communicate, "20\n", 60)
    assert worker.returncode == 0
    count = int(output)

    await page.until_status("completed")
    await page.until_lines("progress", count)
    assert FIRST + 10 <= seen + 1 < count  # the backend was killed in between
    kept = await demo.observer.records(run_id, "progress")
    assert [record["data"]["number"] for record in kept] == list(range(count))
    assert await page.lines("progress") == kept[-50:]
    came = [record for socket in page.sockets for record in socket.records(run_id, "progress")]
    assert [record["offset"] for record in came] == list(range(count))
    assert came == kept
    assert len([s for s in page.sockets if s.records(run_id, "progress")]) >= 2
    assert "reconnecting" not in await page.text("body")


async def test_census_of_killed_backend_is_shown_as_crashed(open_page, demo):
    page = await open_page()
    page.tolerate(*LOST)
    run_id = await page.start_census("stdlib", workers=4)
    await page.until("() => parseInt(document.querySelector('#percent')?.innerText) >= 5")
    children = "() => [...document.querySelectorAll('.worker .run-status')].map(b => b.innerText)"
    await page.until(f"() => ({children})().length === 4")

    demo.backend.kill()
    await page.until_shown("reconnecting, nothing will be missed")
    await demo.backend.start()

    await page.until_status("crashed")
    await page.until(f"() => ({children})().every(status => status === 'crashed')")
    assert (await demo.observer.run(run_id))["status"] == "crashed"
    assert await page.page.locator("#cancel").count() == 0
    percent = await page.text("#percent")
    await page.page.reload()  # a newly opened page shows the same
    await page.until_status("crashed")
    assert await page.text("#percent") == percent
