"""The pages of docs/web-frameworks.md: served by Flask and Django, shown by a real Chromium."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.support.gateways import DEADLINE_S, Process, environment

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.browser]

DOCUMENT = Path(__file__).parents[3] / "docs" / "web-frameworks.md"
WAIT_MS = DEADLINE_S * 1000
SERVE = """
from wsgiref.simple_server import make_server
server = make_server("127.0.0.1", 0, app)
print(server.server_port, flush=True)
server.serve_forever()
"""
FLASK = "from shop import app\n" + SERVE
DJANGO = (
    """
from django.conf import settings
settings.configure(
    ROOT_URLCONF="views",
    SECRET_KEY="of the test",
    ALLOWED_HOSTS=["127.0.0.1"],
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
    TEMPLATES=[
        {"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": ["templates"]}
    ],
)
from django.core.wsgi import get_wsgi_application
app = get_wsgi_application()
"""
    + SERVE
)


@pytest.fixture
def folder(tmp_path):
    text = DOCUMENT.read_text()
    shop, views, _ = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    [page] = re.findall(r"```html\n(.*?)```", text, flags=re.S)
    (tmp_path / "templates").mkdir()
    for name, content in {
        "shop.py": shop,
        "views.py": views,
        "templates/orders.html": page,
        "flask_app.py": FLASK,
        "django_app.py": DJANGO,
    }.items():
        (tmp_path / name).write_text(content)
    return tmp_path


@asynccontextmanager
async def served(script: str, folder: Path, env: dict[str, str]):
    """Serve an application and yield its origin."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, cwd=folder, env=env, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.terminate()
        await process.wait()


async def test_pages_of_flask_and_django_show_stream(folder, context):
    gateway = Process("memory:", folder)
    address = gateway.url.replace("ws:", "http:")
    env = environment(REALTIME_URL=gateway.url, GATEWAY=address)
    async with AsyncExitStack() as stack:
        origins = [
            await stack.enter_async_context(served(script, folder, env))
            for script in ("flask_app.py", "django_app.py")
        ]
        stack.callback(gateway.kill)
        allowed = environment(REALTIME_ORIGINS=" ".join(origins))
        await asyncio.to_thread(gateway.start, allowed)
        for origin in origins:
            page = await context.new_page()
            await page.goto(origin)
            await page.get_by_role("button").click()
            await expect(page.locator("li")).to_have_text(
                ["packed tea", "packed cups"], timeout=WAIT_MS
            )
            await expect(page.locator("output")).to_have_js_property(
                "value", "ended", timeout=WAIT_MS
            )
            await page.close()
