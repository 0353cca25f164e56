"""Fixtures of the SDK's tests."""

import pytest

from gateway import connect
from tests.support.gateways import SECRET, new_run


@pytest.fixture
async def runtime():
    async with connect(store="memory:", secret_key=SECRET) as runtime:
        yield runtime


@pytest.fixture
async def run(runtime):
    return await runtime.store.create_run(new_run())
