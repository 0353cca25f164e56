"""`docs/watch.py` prints every record, even if it or the gateway is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.model.records import StreamKey
from gateway.stores.remote.store import RemoteStore
from tests.support.gateways import (
    DEADLINE_S,
    environment,
    gateway_process,
    new_run,
    opened,
    token_for,
    until,
    worker_token,
)

SCRIPT = Path(__file__).parents[2] / "docs" / "watch.py"
QUICK = {name: "0.05" for name in ("INITIAL_DELAY", "MIN_DELAY", "MAX_DELAY")}


class Watching:
    """A process that runs the script; restarts append their output to the same file."""

    def __init__(self, folder: Path, url: str) -> None:
        self.run = new_run()
        token = token_for(f"read:runs:{self.run.id}")
        arguments = (self.run.id, token, "progress", f"{url}/v1/ws")
        self._command = [sys.executable, SCRIPT, *arguments]
        self._folder = folder
        self._out = folder / "out"
        self._env = environment(**{f"WEBSOCKETS_BACKOFF_{name}": s for name, s in QUICK.items()})

    def start(self) -> None:
        with self._out.open("ab") as out:
            self.process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._env, stdout=out, stderr=subprocess.PIPE
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    @property
    def position(self) -> str:
        (kept,) = self._folder.glob(".run_*.progress.position")
        return kept.read_text()


@pytest.fixture
def gateway(tmp_path):
    with gateway_process(f"sqlite:///{tmp_path}/r.db", tmp_path) as process:
        yield process


@pytest.fixture
def watching(gateway, tmp_path):
    it = Watching(tmp_path, gateway.url)
    yield it
    it.kill()


async def test_watch_resumes_after_restart_of_either_side(gateway, watching):
    async def append(*records: bytes, end: str | None = None) -> str:
        async with opened(RemoteStore(gateway.url, worker_token)) as store:
            key = StreamKey(watching.run.id, "progress")
            return str((await store.append(key, records, end=end)).position)

    async with opened(RemoteStore(gateway.url, worker_token)) as store:
        await store.create_run(watching.run)
    watching.start()

    async def shows(count: int, position: str) -> None:
        expected = [f"{number} {number}" for number in range(count)]
        await until(lambda: watching.lines == expected)
        await until(lambda: watching.position == position)

    await shows(1, await append(b"0"))
    gateway.stop()  # the gateway sends `error` and closes with 4503
    gateway.start()
    await shows(2, await append(b"1"))
    gateway.kill()
    gateway.start()
    await shows(3, await append(b"2"))
    watching.kill()
    await append(b"3")
    watching.start()
    await shows(5, await append(b"4"))
    await append(end="completed")
    assert watching.process.wait(DEADLINE_S) == 0


async def test_watch_exits_when_the_gateway_rejects_it(watching):
    watching.start()
    assert watching.process.wait(DEADLINE_S) == 1
    assert b"run_not_found" in watching.process.stderr.read()
