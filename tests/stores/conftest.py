"""Fixtures of the tests of stores."""

import pytest

from gateway.model.records import (
    StreamKey,
)
from tests.support.gateways import new_run
from tests.support.stores import store_of


@pytest.fixture(params=["memory", "counted", "sqlite", "redis", "remote"])
async def store(request, tmp_path):
    async with store_of(request.param, tmp_path) as store:
        yield store


@pytest.fixture
async def key(store):
    run = await store.create_run(new_run())
    return StreamKey(run.id, "progress")
