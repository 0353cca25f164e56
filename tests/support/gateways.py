"""Real gateways for tests: in this event loop, or as a process of their own; and a real client."""

import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from gateway import tokens
from gateway.model.runs import Run, iso_time, new_run_id
from gateway.sdk import task_registry
from gateway.sdk.execution.ownership import EMBEDDED_OWNER
from gateway.sdk.execution.runner import Runner
from gateway.sdk.runtime import Runtime, install
from gateway.sdk.session import opened
from gateway.server.app import create_app
from gateway.server.serve import FastPathRouter, configure
from gateway.server.uvicorn.sockets import listen
from gateway.server.uvicorn.websocket_protocol import DirectWebSocketProtocol
from gateway.settings import Settings
from gateway.stores.base import Store, system_clock_ms
from gateway.stores.memory import MemoryStore
from gateway.stores.remote.store import RemoteStore

SECRET = "a secret of the tests that is long enough"
DEADLINE_S = 60  # for what has to happen; far more than it takes, also on a loaded machine
_numbers = itertools.count()


def token_for(*scopes: str, ttl_s: float = 600, age_s: float = 0) -> str:
    # One that is made while the tests are found is expired by the time that the last of them run.
    is_too_early = "PYTEST_VERSION" in os.environ and "PYTEST_CURRENT_TEST" not in os.environ
    assert not is_too_early, "make the token in the test or in a fixture"
    return tokens.mint(scopes, ttl_s=ttl_s, secret_key=SECRET, now_s=time.time() - age_s)


def worker_token() -> str:
    return token_for("read:runs:*", "write:runs:*")


def new_run(**fields) -> Run:
    """Make a run whose id sorts after those made before."""
    now_ms = 1_795_352_174_000 + next(_numbers)
    id = fields.pop("id", None) or new_run_id(now_ms)
    default = {"status": "queued", "root_id": id, "created_at": iso_time(now_ms), "task": "test"}
    return Run(id=id, **(default | fields))


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Wait until something is so."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - there is nothing that would set an event
            await asyncio.sleep(0.005)


def free_socket() -> socket.socket:
    (listening,) = listen("127.0.0.1", 0)
    return listening


class Time:
    """A time that passes only when a test says so."""

    def __init__(self) -> None:
        self.now_ms = 1_795_352_174_000
        self._sleepers: set[tuple[float, asyncio.Future[None]]] = set()

    @property
    def of_runtime(self) -> dict:
        """What a `Runtime` is told of time."""
        return {
            "clock_ms": lambda: self.now_ms,
            "monotonic_s": lambda: self.now_ms / 1000,
            "sleep": self._sleep,
        }

    async def _sleep(self, seconds: float) -> None:
        sleeper = (self.now_ms + seconds * 1000, asyncio.get_running_loop().create_future())
        self._sleepers.add(sleeper)
        try:
            self.let_pass(0)
            await sleeper[1]
        finally:
            self._sleepers.discard(sleeper)

    @property
    def sleeping(self) -> list[float]:
        """Seconds that are left of each sleep."""
        return sorted(round(due_ms - self.now_ms) / 1000 for due_ms, _ in self._sleepers)

    def let_pass(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)
        for due_ms, woken in sorted(self._sleepers, key=lambda sleeper: sleeper[0]):
            if due_ms <= self.now_ms and not woken.done():
                woken.set_result(None)


class Serving:
    """A gateway that is served in this event loop."""

    def __init__(self, app, port: int, server: uvicorn.Server) -> None:
        self.app = app
        self.port = port
        self.server = server
        self.url = f"ws://127.0.0.1:{port}"

    @property
    def gateway(self):
        return self.app.state.gateway

    @property
    def store(self):
        return self.gateway._store.inner  # without the counters around it

    @property
    def hub(self):
        return self.gateway._hub

    @asynccontextmanager
    async def client(self, **hello) -> AsyncIterator["Client"]:
        """Connect, and say hello unless asked not to."""
        async with connect(f"{self.url}/v1/ws", max_size=None, compression=None) as opened:
            client = Client(opened)
            if hello.pop("greet", True):
                await client.send(type="hello", protocol=1, **hello)
                assert (await client.receive())["type"] == "welcome"
            yield client

    def remote(self, **options) -> AbstractAsyncContextManager[RemoteStore]:
        """Open a remote store over this gateway."""
        return opened(RemoteStore(self.url, worker_token, **options))


@asynccontextmanager
async def working(store: Store | None = None, **runner) -> AsyncIterator[Runtime]:
    """Work with the SDK over a store, as `connect` does, with a runner as the test needs it."""
    store = store or MemoryStore()
    time: Time | None = runner.pop("time", None)
    clock = time.of_runtime if time else {"clock_ms": runner.pop("clock_ms", system_clock_ms)}
    owner = runner.pop("owner", EMBEDDED_OWNER)
    runner = {"concurrency": 20, "cancel_grace_s": DEADLINE_S, "random": lambda: 0.0} | runner
    async with opened(store), install(Runtime(store, asyncio.get_running_loop(), **clock)) as it:
        it.runner = Runner(it, owner=owner, **runner)
        tokens.use(SECRET)
        try:
            await it.runner.recover(task_registry)
            yield it
        finally:
            await it.runner.stop()
            tokens.use(None)


class Client:
    """A client that writes and reads frames as they are."""

    def __init__(self, opened: ClientConnection) -> None:
        self.socket = opened

    async def send(self, **frame) -> None:
        await self.socket.send(json.dumps(frame))

    async def receive(self, timeout_s: float = DEADLINE_S) -> dict:
        return json.loads(await asyncio.wait_for(self.socket.recv(), timeout_s))

    async def ask(self, **frame) -> dict:
        await self.send(**frame)
        return await self.receive()

    async def close_code(self) -> int:
        async with asyncio.timeout(DEADLINE_S):
            await self.socket.wait_closed()
        return self.socket.close_code


class _Server(uvicorn.Server):
    async def main_loop(self) -> None:
        while not self.should_exit:  # noqa: ASYNC110 - as uvicorn does, but more often
            await asyncio.sleep(0.002)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.server_state.connections or self.server_state.tasks:
            await super().shutdown(sockets)
            return
        for server in self.servers:  # nobody is there to be waited for a tenth of a second
            server.close()
        for listening in sockets or []:
            listening.close()
        await self.lifespan.shutdown()


@asynccontextmanager
async def serving(
    store: str = "memory:", *, protocol=DirectWebSocketProtocol, **settings
) -> AsyncIterator[Serving]:
    """Serve a gateway on a free port of this machine, with uvicorn's `protocol` for WebSockets."""
    settings = {"secret_key": SECRET} | settings
    app = create_app(Settings(store=store, **settings))
    listening = free_socket()
    is_ours = protocol is DirectWebSocketProtocol
    config = configure(
        FastPathRouter(app, app.state.gateway) if is_ours else app,
        app.state.gateway.settings,
        log_level="error",
        lifespan="on",
        ws=protocol,
    )
    server = _Server(config)
    task = asyncio.create_task(server._serve([listening]))  # `serve` would take the signals over
    try:
        await until(lambda: server.started or task.done())
        if task.done():
            task.result()
        yield Serving(app, listening.getsockname()[1], server)
    finally:
        for _ in range(25):  # clients that are closing; uvicorn's own wait is a tenth of a second
            if server.server_state.connections:
                await asyncio.sleep(0.002)
        server.should_exit = True
        await task


class Process:
    """`python -m gateway serve` as a process that can be killed and started again."""

    def __init__(self, store: str, folder: Path, *options: str, **env: str) -> None:
        with free_socket() as chosen:
            self.port = chosen.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "gateway", "serve", "--port", str(self.port)]
        self._command += ["--store", store, "--log-level", "warning", *options]
        self._env = env
        self._log = folder / "gateway.log"
        self._process: subprocess.Popen | None = None

    def start(self, env: dict[str, str] | None = None) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=env or environment(**self._env), stdout=log, stderr=log
            )
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/healthz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"the gateway did not start: {self._log.read_text()}")

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> float:
        """Ask it to end, and wait until it has; gives the seconds that it took."""
        assert self._process is not None
        began_s = time.monotonic()
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        self._process = None
        return time.monotonic() - began_s

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def gateway_process(store: str, folder: Path, *options: str, **env: str) -> Iterator[Process]:
    process = Process(store, folder, *options, **env)
    process.start()
    try:
        yield process
    finally:
        process.kill()


def environment(**more: str) -> dict[str, str]:
    """Return an environment for a process of the project's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REALTIME_")}
    return kept | {"REALTIME_SECRET_KEY": SECRET, "PYTHONUNBUFFERED": "1"} | more
