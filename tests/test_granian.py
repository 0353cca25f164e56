"""The gateway under granian, which serves it in a Reflex app."""

import asyncio
import json
import subprocess
import sys
import time

import httpx
import pytest
from websockets.asyncio.client import connect

from tests.serving import DEADLINE_S, environment, free_socket, token_for


@pytest.fixture(scope="module")
def url():
    with free_socket() as chosen:
        port = chosen.getsockname()[1]
    command = [sys.executable, "-m", "granian", "--interface", "asgi", "--factory"]
    command += ["--port", str(port), "--log-level", "warning", "gateway:create_app"]
    env = environment(REALTIME_STORE="memory:", REALTIME_IDLE_S="0.2")
    with subprocess.Popen(command, env=env) as process:
        try:
            until_s = time.monotonic() + DEADLINE_S
            while not is_up(port):
                assert time.monotonic() < until_s
                time.sleep(0.05)
            yield f"ws://127.0.0.1:{port}/v1/ws"
        finally:
            process.terminate()


def is_up(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("hello", "code", "close"),
    [
        ({"type": "ping"}, "hello_expected", 4400),
        ({"type": "hello", "protocol": 9}, "protocol_version", 4406),
        ({"type": "hello", "protocol": 1, "token": "x"}, "invalid_token", 4401),
        ({"type": "hello", "protocol": 1, "token": token_for("read:runs:run_a")}, "idle", 4509),
    ],
)
async def test_why_a_connection_is_closed_reaches_the_client(url, hello, code, close):
    async with connect(url, compression=None) as client, asyncio.timeout(DEADLINE_S):
        await client.send(json.dumps(hello))
        told = json.loads(await client.recv())
        if told["type"] == "welcome":
            told = json.loads(await client.recv())
        await client.wait_closed()
        assert (told["code"], client.close_code) == (code, close)


async def test_a_page_of_another_origin_is_told_why_it_may_not_connect(url):
    async with connect(url, origin="https://evil.example") as client, asyncio.timeout(DEADLINE_S):
        assert json.loads(await client.recv())["code"] == "origin_forbidden"
        await client.wait_closed()
        assert client.close_code == 4403
