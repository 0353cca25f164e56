"""A real nginx in front of gateways, configured as in docs/deploy.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.gateways import DEADLINE_S, free_socket

PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])

CONFIGURATION = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
worker_processes 1;
worker_shutdown_timeout 1s;  # after a reload, open connections are cut after this time
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream gateways {{
        {affinity}
        {servers}
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://gateways;
            proxy_connect_timeout 1s;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_read_timeout 90s;
        }}
    }}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
}}
"""


def unavailable_reason() -> str | None:
    """Return why nginx cannot be used here, or None if it can."""
    if shutil.which("nginx", path=PATH) is None:
        return "nginx is not on PATH: apt install nginx-light"
    return None


class Nginx:
    """One nginx process.

    Attributes:
        url: URL for WebSocket clients.
    """

    def __init__(self, folder: Path, *gateway_ports: int, has_affinity: bool = False) -> None:
        with free_socket() as chosen:
            port = chosen.getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}"
        self.reloads = 0
        self._health = f"http://127.0.0.1:{port}/healthz"
        self._folder = folder
        configuration = folder / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        # Without max_fails=0, a node that is up again gets one connection per fail_timeout: nginx
        # clears its failure only when a request to it has ended, and a WebSocket does not end.
        servers = [f"server 127.0.0.1:{each} max_fails=0;" for each in gateway_ports]
        affinity = "ip_hash;" if has_affinity else ""
        configuration.write_text(
            CONFIGURATION.format(
                folder=folder, port=port, servers=" ".join(servers), affinity=affinity, user=user
            )
        )
        self._command = ["nginx", "-p", str(folder), "-c", str(configuration)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until the gateway answers through it."""
        executable = shutil.which("nginx", path=PATH)
        errors = subprocess.DEVNULL  # its log has the same
        self._process = subprocess.Popen(self._command, executable=executable, stderr=errors)
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self._folder / "nginx.log").read_text()
            try:
                if httpx.get(self._health).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError((self._folder / "nginx.log").read_text())

    def reload(self) -> None:
        """Run `nginx -s reload`: new workers start, the old ones cut open connections."""
        subprocess.run(
            [*self._command, "-s", "reload"],
            executable=shutil.which("nginx", path=PATH),
            check=True,
            capture_output=True,
        )
        self.reloads += 1

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


@contextmanager
def nginx_before(*gateway_ports: int, folder: Path, has_affinity: bool = False) -> Iterator[Nginx]:
    """Run an nginx in front of gateways. With affinity, an address stays at one gateway."""
    it = Nginx(folder, *gateway_ports, has_affinity=has_affinity)
    try:
        it.start()
        yield it
    finally:
        it.stop()
