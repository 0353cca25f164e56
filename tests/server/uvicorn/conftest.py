"""Fixtures of the tests of uvicorn's protocols."""

import pytest

from gateway.server.uvicorn.fast_append import FastAppendProtocol
from tests.support.gateways import serving
from tests.support.http.raw_appends import connected, post


@pytest.fixture(params=["memory", "sqlite"])
async def gateway(request, tmp_path):
    store = "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/test.db"
    async with serving(store, origins=("https://app.example",)) as running:
        async with connected(running) as client:
            put = post(b"").replace(b"POST", b"PUT", 1)
            await client.send(put)
            assert (await client.answer())[0] == 201
        yield running


@pytest.fixture
def taken(monkeypatch):
    """List the requests that were read past h11."""
    found, answer = [], FastAppendProtocol._answer

    def answering(protocol, head, body):
        found.append(body)
        answer(protocol, head, body)

    monkeypatch.setattr(FastAppendProtocol, "_answer", answering)
    return found
