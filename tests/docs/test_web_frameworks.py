"""Executes the page about web frameworks, and checks warnings about stopped runs."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gateway
from gateway import run_in_loop, task
from gateway.errors import InvalidValue
from tests.support.gateways import DEADLINE_S, SECRET, environment, gateway_process

PAGE = Path(__file__).parents[2] / "docs" / "web-frameworks.md"

FINISH = """
def finish(post, get):
    made = post()
    while (seen := get(made["run"]))["status"] != "completed":
        pass
    print(seen["output"], bool(made["token"]))


"""
FLASK = """
from shop import app

client = app.test_client()
finish(lambda: client.post("/orders").json, lambda run: client.get("/orders/" + run).json)
"""
DJANGO = """
import django
from django.conf import settings

settings.configure(ROOT_URLCONF="views", ALLOWED_HOSTS=["testserver"])
django.setup()
from django.test import Client

client = Client()
finish(lambda: client.post("/orders").json(), lambda run: client.get("/orders/" + run).json())
"""
STARLETTE = """
from starlette.testclient import TestClient

from asgi import app

with TestClient(app) as client:
    finish(lambda: client.post("/orders").json(), lambda run: client.get("/orders/" + run).json())
"""
LATE = """
from gateway import streams, task

numbers = streams.define("numbers", int)

@task
async def work() -> None: ...

run = work.options(delay_s=3600).trigger_sync()
for number in range(100):
    numbers.append(number, target=run.id)
print(run.id)
"""


def write(folder):
    shop, views, asgi = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    for name, text in {"shop": shop, "views": views, "asgi": asgi}.items():
        (folder / f"{name}.py").write_text(text)


def output(folder, script, **env):
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-W", "error", "script.py"]
    done = subprocess.run(
        command, cwd=folder, env=environment(**env), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("script", [FLASK, DJANGO, STARLETTE], ids=["flask", "django", "starlette"])
def test_web_frameworks_page_works_as_documented(script, tmp_path):
    write(tmp_path)
    store = f"sqlite:{tmp_path}/test.db?durability=normal"
    assert output(tmp_path, FINISH + script, REALTIME_STORE=store) == ["2", "True"]


@pytest.mark.parametrize("is_worker", [False, True], ids=["sqlite", "worker"])
def test_appends_of_script_are_durable_at_exit(is_worker, tmp_path):
    store = f"sqlite:{tmp_path}/test.db?durability=normal"
    if is_worker:
        with gateway_process(store, tmp_path) as process:
            [run_id] = output(tmp_path, LATE, REALTIME_URL=process.url)
    else:
        [run_id] = output(tmp_path, LATE, REALTIME_STORE=store)
    assert asyncio.run(_count(store, run_id)) == 100


async def _count(store, run_id):
    from gateway.model.records import StreamKey

    async with gateway.connect(store=store, secret_key=SECRET) as active:
        return (await active.store.head(StreamKey(run_id, "numbers"))).position.offset


async def test_run_in_loop_uses_existing_runtime():
    @task
    async def double(x: int) -> int:
        return 2 * x

    async with gateway.connect(store="memory:", secret_key=SECRET):
        result = await asyncio.to_thread(run_in_loop, double.trigger_and_wait(21))
        assert result.output == 42
        with pytest.raises(RuntimeError, match="await the coroutine"):
            run_in_loop(double.trigger(1))
        with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
            await asyncio.to_thread(run_in_loop, gateway.wait.for_seconds(DEADLINE_S), 0.01)
        with pytest.raises(InvalidValue):
            await asyncio.to_thread(run_in_loop, double.trigger("no number"))


async def test_connect_warns_about_runs_that_it_stops(caplog):
    @task
    async def linger() -> None:
        await asyncio.Event().wait()

    async with gateway.connect(store="memory:", secret_key=SECRET):
        handles = [await linger.trigger() for _ in range(12)]
    [line] = [line for line in caplog.messages if line.startswith("connect() ends")]
    assert "(12)" in line and "await run.wait()" in line and "…" in line
    assert [handle.id in line for handle in handles] == [True] * 10 + [False] * 2


async def test_connect_does_not_warn_after_finish_or_error(caplog):
    @task
    async def work(goes_on: bool) -> None:
        if goes_on:
            await asyncio.Event().wait()

    async with gateway.connect(store="memory:", secret_key=SECRET):
        await work.trigger_and_wait(False)
    with pytest.raises(ZeroDivisionError):
        async with gateway.connect(store="memory:", secret_key=SECRET):
            await work.trigger(True)
            raise ZeroDivisionError
    assert not [line for line in caplog.messages if line.startswith("connect() ends")]
