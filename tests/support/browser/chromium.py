"""A real Chromium: the system's, or the one that Playwright has installed."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Nothing but the page may use the network, and a container has neither a sandbox nor a GPU.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start one; the test is skipped where there is none."""
    async with async_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        path = found or playwright.chromium.executable_path
        if not os.path.exists(path):  # noqa: ASYNC240 - nothing else runs
            pytest.skip(
                f"no Chromium: none of {', '.join(NAMES)} is on PATH: apt install chromium, or "
                "playwright install chromium"
            )
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()
