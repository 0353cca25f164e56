"""Real workers in separate processes, with a real Valkey and a real gateway."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path

import orjson
from websockets.asyncio.client import connect

import gateway
from gateway import runs
from gateway.model.log import run_log
from gateway.sdk.runtime import current_runtime
from tests.support.gateways import DEADLINE_S, SECRET, Client, Process, environment, gateway_process
from tests.support.redis.servers import RedisServer

_thread = ThreadPoolExecutor(1, "celery")  # Celery's connections belong to threads
ROOT = Path(__file__).parents[3]
CELERY_SHOP = f"{__package__}.celery_shop"
TASKIQ_SHOP = f"{__package__}.taskiq_shop"


class Shop:
    """A broker, a gateway and workers.

    Attributes:
        broker: URL of the broker.
        gateway: The gateway's process.
        env: Environment of all participating processes.
    """

    def __init__(self, folder: Path, broker: RedisServer, gateway: Process) -> None:
        self.folder = folder
        self.server, self.broker = broker, broker.url
        self.gateway = gateway
        self.env = environment(
            REALTIME_URL=gateway.url,
            BROKER=broker.url,
            PYTHONPATH=str(ROOT),
        )

    @contextmanager
    def worker(self, *command: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker, and stop it as an operator would."""
        log = self.folder / "worker.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.env | env,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise AssertionError(f"the worker did not end:\n{log.read_text()}") from None

    def connected(self):
        """Connect the SDK in the test, as a backend that sends tasks does."""
        return gateway.connect(self.gateway.url, secret_key=SECRET)


async def on_thread(function, *args, **kwargs):
    """Call a blocking function in a separate thread, as a plain program would."""
    work = copy_context().run
    call = partial(work, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_thread, call)


async def close_connections(app) -> None:
    """Close an application's connections of this process."""

    def close() -> None:
        if hasattr(app.backend, "result_consumer"):
            app.backend.result_consumer.stop()
            app.backend.client.connection_pool.disconnect()
        app.close()

    await on_thread(close)


@contextmanager
def shop(folder: Path) -> Iterator[Shop]:
    """Start a broker and a gateway."""
    broker = RedisServer().start()
    try:
        with gateway_process(f"sqlite:{folder}/realtime.db", folder) as process:
            yield Shop(folder, broker, process)
    finally:
        broker.kill()


async def ended(run_id: str) -> gateway.Run:
    """Wait until a run has finished."""
    async with asyncio.timeout(DEADLINE_S):
        async for run in runs.subscribe(run_id):
            last = run
    return last


async def until_status(run_id: str, *statuses: str) -> gateway.Run:
    """Wait until a run has one of these statuses."""
    async with asyncio.timeout(DEADLINE_S), aclosing(runs.subscribe(run_id).__aiter__()) as each:
        async for run in each:
            if run.status in statuses:
                return run
    raise AssertionError(f"run {run_id} was never {statuses}: {run}")


async def statuses(run_id: str) -> list[str]:
    """Return all statuses of a run, in the order of its log."""
    page = await current_runtime().store.read(run_log(run_id))
    patches = [orjson.loads(record.data) for record in page.records]
    return [patch["status"] for patch in patches if "status" in patch]


async def first(stream, run_id: str):
    """Wait for the first record of a stream."""
    async with aclosing(stream.read(run_id, timeout_s=DEADLINE_S)) as values:
        return await anext(values)


async def read_as_page(url: str, token: str, run_id: str, stream: str) -> list[dict]:
    """Follow a stream to its end, as a page does, and return its records."""
    records = []
    async with asyncio.timeout(DEADLINE_S), connect(f"{url}/v1/ws", compression=None) as opened:
        page = Client(opened)
        await page.send(type="hello", protocol=1, token=token)
        await page.send(type="subscribe", id=1, run=run_id, stream=stream, start="beginning")
        while True:
            frame = await page.receive()
            assert frame["type"] != "error", frame
            records += frame.get("records", [])
            if frame["type"] == "end":
                return records


async def wait_for_takeover_request(run: gateway.Run) -> None:
    """Wait until another worker has asked for an executing run and has its answer."""
    owners = [run.owner]  # of each change: one page of a log may have several
    async with (
        asyncio.timeout(DEADLINE_S),
        aclosing(current_runtime().store.follow(run_log(run.id))) as pages,
    ):
        async for page in pages:
            patches = [orjson.loads(record.data) for record in page.records]
            owners += [patch["owner"] for patch in patches if "owner" in patch]
            asked = owners[owners.index(run.owner, 1) :] if run.owner in owners[1:] else []
            if len(set(asked)) > 1 and owners[-1] == run.owner:
                return
    raise AssertionError(f"nobody asked for run {run.id}: {owners}")
