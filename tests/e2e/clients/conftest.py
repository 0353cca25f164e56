"""A gateway, and pages without a build step that use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page

from tests.support.browser.chromium import chromium
from tests.support.gateways import Serving, serving

Open = Callable[[str], Awaitable[Page]]


class Site:
    """Serves one page at another origin than the gateway's.

    A page needs a real origin: Chromium blocks requests of `about:blank` and `data:` pages to
    local servers.
    """

    html = ""
    origin = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            body = self.html.encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
            writer.write(
                head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
            )
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # a browser also opens connections that it does not use
        finally:
            writer.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def site() -> AsyncIterator[Site]:
    site = Site()
    server = await asyncio.start_server(site.answer, "127.0.0.1", 0)
    site.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield site
    server.close()


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(site: Site) -> AsyncIterator[Serving]:
    async with serving(origins=(site.origin,)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    async with await browser.new_context() as context:
        context.set_default_timeout(15_000)
        yield context


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(context: BrowserContext, site: Site) -> AsyncIterator[Open]:
    """Open pages of the site. At the end, fail if a page has thrown an error."""
    errors: list[str] = []

    async def open_page(html: str) -> Page:
        page = await context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: print("console:", message.text))
        site.html = html
        await page.goto(site.origin)
        return page

    yield open_page
    assert errors == []
