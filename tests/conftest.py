"""What the tests of the gateway share: nothing here stands in for the real thing."""

import os

import pytest
from redis_serving import stop_shared_server

from gateway.sdk import schemas, tasks


@pytest.fixture(autouse=True)
def _tasks_of_this_test_only(monkeypatch):
    """Tasks are known by id in a process; each test defines its own."""
    monkeypatch.setattr(tasks, "_tasks", {})
    monkeypatch.setattr(schemas, "_registered", dict(schemas._registered))
    for name in [name for name in os.environ if name.startswith("REALTIME_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _shared_redis_server():
    """Stop the server that tests share, if one of them has started it."""
    yield
    stop_shared_server()
