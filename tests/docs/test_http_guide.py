"""Executes the curl commands of docs/http.md and the README against a gateway."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.support import requirements
from tests.support.gateways import SECRET, gateway_process, token_for

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent  # the folder of `realtime`
WORKER = """
import asyncio
from gateway import connect, streams, task

progress = streams.define("progress", int)

@task
async def count() -> int:
    for n in range(5):
        progress.append(n)
        await asyncio.sleep(0.3)
    return 5

async def main() -> None:
    async with connect():
        run = await count.trigger()
        print(run.id, run.access_token, flush=True)
        await count.wait(run.id)

asyncio.run(main())
"""

pytestmark = requirements.program("curl", "curl")


def blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "http.md").read_text(), flags=re.S)


def shell(script: str, **variables: str) -> str:
    done = subprocess.run(
        ["sh", "-ec", script],
        env={"PATH": f"{BIN}:{os.environ['PATH']}", "REALTIME_SECRET_KEY": SECRET, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def gateway(tmp_path):
    with gateway_process(f"sqlite:{tmp_path}/test.db", tmp_path) as process:
        yield process


@pytest.fixture
def run(gateway, tmp_path):
    """A run that appends for 1.5 s: its id, its token and the worker."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = os.environ | {"REALTIME_URL": gateway.url, "REALTIME_SECRET_KEY": SECRET}
    worker = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert worker.stdout is not None
    run_id, token = worker.stdout.readline().split()
    yield run_id, token
    worker.kill()
    worker.wait()
    worker.stdout.close()


def test_curl_prints_records_as_they_are_appended(gateway, run):
    (line,) = re.findall(r"^curl -N .*$", (ROOT / "README.md").read_text(), flags=re.M)
    line = line.replace("localhost:8400", f"127.0.0.1:{gateway.port}")
    environment = {"PATH": os.environ["PATH"], "RUN": run[0], "TOKEN": run[1]}
    curl = subprocess.Popen(
        ["sh", "-c", "exec " + line],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert curl.stdout is not None
    arrived = {}
    for text in curl.stdout:
        if re.fullmatch(r"data:\d\n", text):
            arrived[int(text[5])] = time.monotonic()
    assert curl.wait(20) == 0, "it ends with the stream"
    assert list(arrived) == [0, 1, 2, 3, 4]
    assert arrived[4] - arrived[1] > 0.5, "one after the other, not all at the end"
    curl.stdout.close()


def test_http_page_blocks_work_as_documented(gateway, run):
    run_id, run_token = run
    base = {"GATEWAY": f"http://127.0.0.1:{gateway.port}"}
    begin, watch, look, write, paths, create, fork = blocks()
    begun = shell(begin + 'echo "$GATEWAY $TOKEN"', RUN=run_id)
    assert begun.startswith("http://localhost:8400 ")
    looked = shell(look, RUN=run_id, TOKEN=begun.split()[1], **base)
    assert looked.startswith("HTTP/1.1 200 ")
    watched = shell(watch, RUN=run_id, TOKEN=run_token, **base)
    assert re.findall(r"^data:(\d),?$", watched, flags=re.M) == ["0", "1", "2", "3", "4"]
    assert "streamClosed" in watched.splitlines()[-2]
    looked = shell(look, RUN=run_id, TOKEN=run_token, **base)
    assert looked.endswith("[0,1,2,3,4]") and "stream-next-offset: " in looked.lower()

    async_run = shell_run(gateway)
    shell(write, RUN=async_run, **base)
    notes = httpx.get(
        f"{base['GATEWAY']}/v1/stream/{async_run}/notes",
        headers={"Authorization": f"Bearer {token_for(f'read:runs:{async_run}')}"},
    )
    assert notes.json() == [{"step": 1}, {"step": 2}]

    assert shell(paths + create, **base).endswith("Hello, world")
    assert shell(paths + fork, **base).endswith("Hello, world!")


def shell_run(gateway) -> str:
    """Create an unfinished run through the gateway."""
    import asyncio

    from gateway.stores.remote.store import RemoteStore
    from tests.support.gateways import new_run, worker_token

    async def make() -> str:
        store = RemoteStore(gateway.url, worker_token)
        await store.open()
        try:
            return (await store.create_run(new_run())).id
        finally:
            await store.close()

    return asyncio.run(make())
