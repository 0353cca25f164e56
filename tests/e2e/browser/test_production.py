"""`reflex run --env prod`: pages, events and the gateway on one port."""

import signal
import socket
import time

import httpx
import pytest

from tests.support.browser.projects import link_packages, project, shared
from tests.support.browser.reflex_process import ReflexProcess, environment, free_port
from tests.support.browser.watched_page import Observer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]


class Production:
    def __init__(self, folder):
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self.observer = Observer(f"ws://localhost:{self.port}")
        options = ["--env", "prod", "--frontend-port", str(self.port)]
        env = environment(folder / "store" / "realtime.db")
        self.all = ReflexProcess(folder, "reflex", options, env, [f"{self.url}/healthz"])
        self.processes = [self.all]


@shared
async def production(demo, folder):
    target = project(folder / "production")
    link_packages(demo.folder, target)
    app = Production(target)
    try:
        await app.all.start()
        yield app
    finally:
        app.all.kill()


async def test_production_uses_one_port_and_stops_on_ctrl_c(open_page, production):
    async with httpx.AsyncClient() as client:
        health = await client.get(f"{production.url}/healthz")
        assert (health.status_code, health.json()) == (200, {"status": "ok"})
    page = await open_page(url=production.url)
    run_id = await page.start_census("httpx", workers=2)
    await page.until_status("completed")
    last = (await production.observer.records(run_id, "summary"))[-1]["data"]
    assert await page.text("#percent") == "100%"
    assert await page.text("#lines") == f"{last['totals']['lines']:,}"
    assert page.errors == []

    # A page follows an executing run when the server is stopped.
    page.tolerate("WebSocket connection to", "ERR_CONNECTION_REFUSED")
    await page.start_census("stdlib", workers=2)
    await page.until("() => parseInt(document.querySelector('#percent')?.innerText) >= 2")
    started = time.monotonic()
    code = await production.all.stop(signal.SIGINT)
    assert code is not None, "the server did not stop and was killed"
    assert time.monotonic() - started < 15
    assert "Traceback" not in production.all.log_end(1000)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", production.port))
    await page.until_shown("reconnecting, nothing will be missed")
