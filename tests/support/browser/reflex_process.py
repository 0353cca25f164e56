"""A Reflex app in a child process that can be stopped, killed and started again."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[3]
SECRET = "a secret of the browser tests, long enough"
START_S = 180  # the first start installs the frontend's packages
STOP_S = 20


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def environment(store: Path, **more: str) -> dict[str, str]:
    """Return the environment of a Reflex app with a gateway, without the caller's settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REALTIME_", "REFLEX_", "OPENAI_", "REDIS_", "PYTEST_"))
    }
    bin = Path(sys.executable).parent
    return kept | {
        "PATH": f"{bin}{os.pathsep}{kept.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "REALTIME_STORE": f"sqlite:{store}",
        "REALTIME_SECRET_KEY": SECRET,
        "REFLEX_USE_NPM": "1",
        "REFLEX_TELEMETRY_ENABLED": "false",
        **more,
    }


class ReflexProcess:
    """`reflex run …` in its own process group."""

    def __init__(
        self,
        folder: Path,
        name: str,
        options: Sequence[str],
        env: Mapping[str, str],
        ready: Sequence[str],
    ) -> None:
        """Prepare the process without starting it.

        Args:
            folder: The folder of `rxconfig.py`.
            name: Name of the log file.
            options: Options of `reflex run`.
            env: The complete environment.
            ready: URLs that return 200 when the app is ready.
        """
        self._folder = folder
        self._command = [sys.executable, "-m", "reflex", "run", *options]
        self._env = dict(env)
        self._ready = ready
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def ready(self) -> None:
        deadline = time.monotonic() + START_S
        async with httpx.AsyncClient(timeout=5) as client:
            for url in self._ready:
                while not await _answers(client, url):
                    if not self.is_running or time.monotonic() > deadline:
                        raise AssertionError(f"{url} does not answer:\n{self.log_end()}")
                    await asyncio.sleep(0.1)

    async def start(self) -> None:
        self.spawn()
        await self.ready()

    def kill(self) -> None:
        """Kill the process group with SIGKILL."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(STOP_S)
            self._process = None

    async def stop(self, by: signal.Signals = signal.SIGINT) -> int | None:
        """Send a signal to the process group, as a terminal does on Ctrl-C.

        Returns:
            The exit code, or None if the process did not end and was killed.
        """
        process = self._process
        if process is None:
            return None
        self._signal(by)
        try:
            code = await asyncio.to_thread(process.wait, STOP_S)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()  # remaining children
        return code

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def log_end(self, lines: int = 60) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


async def _answers(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
