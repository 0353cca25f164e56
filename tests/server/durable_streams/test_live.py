"""Readers over HTTP against a gateway as a process: those who vanish or stall, and a proxy."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.model.records import StreamKey
from gateway.stores.remote.store import RemoteStore
from tests.support import nginx, requirements
from tests.support.gateways import (
    DEADLINE_S,
    gateway_process,
    new_run,
    serving,
    token_for,
    until,
    worker_token,
)


def headers() -> dict[str, str]:
    token = token_for("read:runs:*", "read:paths:*", "write:paths:*")
    return {"Authorization": f"Bearer {token}"}


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def connections(pid: int) -> int:
    found = psutil.Process(pid).net_connections("tcp")
    return sum(each.status != psutil.CONN_LISTEN for each in found)


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kib(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def connect(port: int, path: str) -> socket.socket:
    """Ask for events and do not read a byte of them."""
    it = socket.create_connection(("127.0.0.1", port))
    it.sendall(
        f"GET /v1/stream/{path}?offset=-1&live=sse HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {headers()['Authorization']}\r\n\r\n".encode()
    )
    return it


@requirements.proc()
async def test_two_hundred_readers_that_vanish_leave_the_process_as_it_was(tmp_path):
    with gateway_process(f"sqlite:{tmp_path}/test.db", tmp_path) as process:
        pid = process._process.pid
        async with httpx.AsyncClient(headers=headers()) as http:
            url = f"http://127.0.0.1:{process.port}/v1/stream/a"
            await http.put(url, headers={"Content-Type": "text/plain"}, content=b"x")
            await http.post(url, headers={"Content-Type": "text/plain"}, content=b"y")
        await until(lambda: connections(pid) == 0, "the server has seen the end of these")
        before = open_files(pid)
        with ExitStack() as stack:
            for _ in range(200):
                reader = stack.enter_context(connect(process.port, "a"))
                answer = await asyncio.to_thread(reader.recv, 65536)
                assert answer.startswith(b"HTTP/1.1 200 "), answer
            assert connections(pid) == 200
        await until(lambda: open_files(pid) <= before + 2, "the files are closed")
        used_s, began_s = cpu_s(pid), time.monotonic()
        await asyncio.sleep(2)  # what is measured is how much it does in a time
        share = (cpu_s(pid) - used_s) / (time.monotonic() - began_s)
        assert share < 0.1, f"{share:.0%} of a core with nobody there"


@requirements.proc()
async def test_stalled_readers_are_bounded_and_disconnected(tmp_path):
    settings = {"REALTIME_SEND_S": "2", "REALTIME_EVENTS_S": "300"}
    with gateway_process("memory:", tmp_path, **settings) as process:
        pid = process._process.pid
        store = RemoteStore(process.url, worker_token)
        await store.open()
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "big")
        record = json.dumps("x" * 60_000).encode()
        for _ in range(5):
            await store.append(key, [record] * 20)
        at_first, others = resident_kib(pid), connections(pid)
        stalled = [connect(process.port, str(key)) for _ in range(40)]
        async with httpx.AsyncClient(headers=headers(), timeout=30) as http:
            url = f"http://127.0.0.1:{process.port}/v1/stream/{key}"
            page = await http.get(url)
            offset, gaps = page.headers["Stream-Next-Offset"], []
            for _ in range(20):
                began_s = time.monotonic()
                waiting = asyncio.create_task(
                    http.get(url, params={"offset": offset, "live": "long-poll"})
                )
                await store.append(key, [record])
                offset = (await waiting).headers["Stream-Next-Offset"]
                gaps.append(time.monotonic() - began_s)
        assert sorted(gaps)[10] < 1, "others are answered while these stall"
        grown_kib = resident_kib(pid) - at_first
        assert grown_kib / 40 < 600, f"{grown_kib / 40:.0f} KiB each of 6 MB that wait for it"
        await until(lambda: connections(pid) <= others, "they are cut off")
        for reader in stalled:
            reader.close()
        await store.close()


def default_configuration() -> str:
    """Return nginx's configuration with nothing said about how to pass requests on."""
    return re.sub(r"\n\s+proxy_(?!pass|temp)[^\n]*", "", nginx.CONFIGURATION)


@pytest.mark.skipif(nginx.unavailable_reason() is not None, reason=str(nginx.unavailable_reason()))
async def test_records_arrive_unbuffered_through_default_nginx(tmp_path, monkeypatch):
    monkeypatch.setattr(nginx, "CONFIGURATION", default_configuration())
    assert (
        "proxy_buffering" not in nginx.CONFIGURATION and "http_version" not in nginx.CONFIGURATION
    )
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        key = StreamKey(run.id, "progress")
        it = await asyncio.to_thread(nginx.Nginx, tmp_path, gateway.port)
        await asyncio.to_thread(it.start)
        try:
            delays = await delays_of(
                f"{it.url.replace('ws', 'http')}/v1/stream/{key}", gateway, key
            )
        finally:
            it.stop()
    assert len(delays) == 40
    assert max(delays) < 0.1, f"the slowest took {max(delays) * 1000:.0f} ms"


async def delays_of(url, gateway, key):
    """Append one record after the other; say how long each took to arrive."""
    sent, delays = {}, []
    query = {"offset": "-1", "live": "sse"}
    async with (
        asyncio.timeout(DEADLINE_S),
        httpx.AsyncClient(headers=headers(), timeout=30) as http,
        http.stream("GET", url, params=query) as response,
    ):
        assert response.headers["Content-Type"] == "text/event-stream"
        lines = response.aiter_lines()
        while "upToDate" not in await anext(lines):
            pass
        for n in range(40):
            sent[n] = time.monotonic()
            await gateway.store.append(key, [b"%d" % n])
            while await anext(lines) != f"data:{n}":
                pass
            delays.append(time.monotonic() - sent[n])
    return delays
