"""The cluster demo: its page in a real browser while a gateway is killed."""

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.support.browser.reflex_process import ROOT, free_port
from tests.support.gateways import environment, until

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]


async def test_cluster_page_resumes_at_other_gateway_after_kill(browser, tmp_path):
    port, log = free_port(), tmp_path / "log"
    with log.open("wb") as output:
        demo = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [sys.executable, "-m", "demo_app.cluster", "--no-dashboard", "--port", str(port)],
            env=environment(PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), *sys.path]))),
            stdout=output,
            stderr=output,
            cwd=tmp_path,
        )
    try:
        await until(lambda: "Ctrl-C" in log.read_text() or demo.poll() is not None)
        assert demo.poll() is None, log.read_text()
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{port}")
        await page.wait_for_function("+document.querySelector('#seen').textContent > 5")
        served_by = await page.text_content("#gateway")
        seen = int(await page.text_content("#seen"))
        pids = dict(re.findall(r"gateway (\w): kill -9 (\d+)", log.read_text()))
        os.kill(int(pids[served_by]), signal.SIGKILL)
        await page.wait_for_function(f"+document.querySelector('#seen').textContent > {seen + 5}")
        assert {served_by, await page.text_content("#gateway")} == {"a", "b"}
        assert await page.text_content("#wrong") == "0"
        await page.close()
    finally:
        demo.terminate()
        demo.wait(30)
