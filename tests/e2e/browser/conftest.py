"""The demo under `reflex run`, and a real Chromium that opens its pages."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.support.browser import reflex_process
from tests.support.browser.chromium import chromium
from tests.support.browser.projects import link_packages, project, shared
from tests.support.browser.reflex_process import ReflexProcess, environment, free_port
from tests.support.browser.watched_page import Observer, WatchedPage


@shared
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


class Demo:
    """The demo with its frontend and its backend as two processes, so that one can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        backend_port, frontend_port = free_port(), free_port()
        self.url = f"http://localhost:{frontend_port}"
        self.backend_url = f"http://localhost:{backend_port}"
        self.gateway_url = f"ws://localhost:{backend_port}"
        self.observer = Observer(self.gateway_url)
        # Hot reload watches an empty folder: editing sources must not restart the backend.
        unwatched = folder / "unwatched"
        unwatched.mkdir()
        env = environment(
            folder / "store" / "realtime.db",
            REFLEX_API_URL=self.backend_url,
            REFLEX_HOT_RELOAD_OVERRIDE_PATHS=str(unwatched),
        )
        self.backend = ReflexProcess(
            folder,
            "backend",
            ["--backend-only", "--backend-port", str(backend_port)],
            env,
            [f"{self.backend_url}/healthz"],
        )
        self.frontend = ReflexProcess(
            folder,
            "frontend",
            ["--frontend-only", "--frontend-port", str(frontend_port)],
            env,
            [self.url],
        )
        self.processes = [self.backend, self.frontend]


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("apps")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # the frontend's packages are 200 MB


@shared
async def demo(browser: Browser, folder: Path) -> AsyncIterator[Demo]:
    demo = Demo(project(folder / "demo"))
    try:
        # One after the other, because both write the same assets.
        await demo.frontend.start()
        await demo.backend.start()
        await _visit_all(browser, demo)
        yield demo
    finally:
        for process in demo.processes:
            process.kill()


async def _visit_all(browser: Browser, demo: Demo) -> None:
    """Open each page once: on the first visit, Vite bundles a page's modules and reloads it."""
    async with await browser.new_context() as context:
        page = await context.new_page()
        for path in ("/", "/runs", "/operator", "/runs/run_x", "/census/run_x", "/ask/run_x"):
            await page.goto(demo.url + path)
            await page.wait_for_load_state("networkidle")


Open = Callable[..., Awaitable[WatchedPage]]


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser, demo: Demo) -> AsyncIterator[Open]:
    """Open pages, each in a new context. At the end, fail if a page has reported an error."""
    contexts, pages = [], []

    async def open_page(path: str | None = None, url: str = demo.url, **options) -> WatchedPage:
        context = await browser.new_context(**options)
        contexts.append(context)
        watched = WatchedPage(await context.new_page(), url)
        pages.append(watched)
        if path is not None:
            await watched.goto(path)
        return watched

    yield open_page
    for context in contexts:
        await context.close()
    for watched in pages:
        watched.check()


class SmallApp:
    def __init__(self, folder: Path) -> None:
        frontend_port, backend_port = free_port(), free_port()
        self.url = f"http://localhost:{frontend_port}"
        options = ["--frontend-port", str(frontend_port), "--backend-port", str(backend_port)]
        env = environment(folder / "store" / "realtime.db")
        health = f"http://localhost:{backend_port}/healthz"
        self.both = ReflexProcess(folder, "reflex", options, env, [health, self.url])
        self.processes = [self.both]


@shared
async def small_app(browser: Browser, demo: Demo, folder: Path) -> AsyncIterator[SmallApp]:
    target = folder / "small_app"
    shutil.copytree(Path(reflex_process.__file__).with_name("small_app"), target)
    shutil.copytree(demo.folder / "reflex.lock", target / "reflex.lock")
    link_packages(demo.folder, target)
    app = SmallApp(target)
    try:
        await app.both.start()
        async with await browser.new_context() as context:  # Vite reloads at the first visit
            page = await context.new_page()
            for path in ("/", "/watch", "/job/run_x"):
                await page.goto(app.url + path)
                await page.wait_for_load_state("networkidle")
        yield app
    finally:
        app.both.kill()


@pytest.fixture
def open_app(open_page: Open, small_app: SmallApp) -> Open:
    async def open_app(path: str = "/") -> WatchedPage:
        page = await open_page(path, url=small_app.url)
        await page.page.locator("main button").first.wait_for()
        return page

    return open_app


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.failed:
        for name in ("demo", "production", "small_app"):
            for process in getattr(getattr(item, "funcargs", {}).get(name), "processes", ()):
                report.sections.append((f"{name}: {process.log.name}", process.log_end()))
    return report
