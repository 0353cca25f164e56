"""Executes the pages about Celery and Taskiq, with real workers."""

import asyncio
import re
import shutil
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.support.queues.workers import Shop, shop

ROOT = Path(__file__).parents[2]

DOUBLE = """
import asyncio

import gateway
import shop


async def main():
    async with gateway.connect():
        {startup}
        print((await shop.double.trigger_and_wait(21)).output)
        {shutdown}


asyncio.run(main())
"""

BROKERS = """
import os

from taskiq_lists import ListBroker

broker = ListBroker(os.environ["BROKER"])
"""


@pytest.fixture
def place(tmp_path):
    with shop(tmp_path) as place:
        yield place


def write(folder: Path, page: str, *, startup: str = "pass", shutdown: str = "pass") -> None:
    """Write the files of a page; its third block continues its first."""
    text = (ROOT / "docs" / page).read_text()
    first, send, more = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    (folder / "shop.py").write_text(f"{first}\n\n{more}")
    (folder / "send.py").write_text(send)
    (folder / "double.py").write_text(DOUBLE.format(startup=startup, shutdown=shutdown))


async def output(place: Shop, script: str) -> list[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, script, cwd=place.folder, env=place.env, stdout=PIPE, stderr=PIPE
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return out.decode().splitlines()


async def test_celery_page_works_as_documented(place):
    write(place.folder, "celery.md")
    with place.worker("celery", "-A", "shop", "worker", "-c", "1"):
        assert await output(place, "send.py") == ["packed tea", "packed cups", "completed"]
        assert await output(place, "double.py") == ["42"]


async def test_taskiq_page_works_as_documented(place):
    startup, shutdown = "await shop.broker.startup()", "await shop.broker.shutdown()"
    write(place.folder, "taskiq.md", startup=startup, shutdown=shutdown)
    (place.folder / "brokers.py").write_text(BROKERS)
    shutil.copy(ROOT / "tests" / "support" / "queues" / "taskiq_lists.py", place.folder)
    with place.worker("taskiq", "worker", "shop:broker", "--workers", "1"):
        assert await output(place, "send.py") == ["packed tea", "packed cups", "completed"]
        assert await output(place, "double.py") == ["42"]
