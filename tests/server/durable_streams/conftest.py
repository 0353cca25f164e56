"""Fixtures of the tests of streams over HTTP."""

import pytest

from gateway.model.records import StreamKey
from tests.support.gateways import new_run, serving
from tests.support.http.streams import EVERYTHING, visitor


@pytest.fixture(params=["memory", "sqlite"])
async def gateway(request, tmp_path):
    store = "memory:" if request.param == "memory" else f"sqlite:{tmp_path}/test.db"
    async with serving(store) as running:
        yield running


@pytest.fixture
async def http(gateway):
    async with visitor(gateway, *EVERYTHING) as client:
        yield client


@pytest.fixture
async def key(gateway):
    run = await gateway.store.create_run(new_run())
    return StreamKey(run.id, "progress")
