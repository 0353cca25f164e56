"""A connection that sends no request is cut off; one that has sent one is not."""

import asyncio
import time

import pytest

from gateway.server.uvicorn.http_protocol import AbortableHttpProtocol
from tests.support.gateways import DEADLINE_S, new_run, serving, token_for


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(AbortableHttpProtocol, "request_s", 0.1)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
async def test_a_connection_without_a_whole_request_is_cut_off(sent):
    async with serving() as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(sent)
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(ConnectionResetError):
                assert await reader.read() == b""
                raise ConnectionResetError  # an orderly end will do as well
        writer.close()


async def test_connection_with_a_request_outlives_silence_timeout():
    async with serving() as gateway:
        run = await gateway.store.create_run(new_run())
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        async with gateway.client(token=token_for(f"read:runs:{run.id}")) as client:
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            over = time.monotonic() + 0.3  # three times as long as a silent one has
            while time.monotonic() < over:
                assert (await client.ask(type="ping"))["type"] == "pong"
                await asyncio.sleep(0.05)
        writer.close()
