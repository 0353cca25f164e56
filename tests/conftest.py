"""What the tests of the gateway share: nothing here stands in for the real thing."""

import os
import signal
import sys

import hypothesis
import pytest

from gateway.sdk import task_registry
from gateway.sdk.values import input_schemas
from tests.support import lanes
from tests.support.gateways import new_run, worker_token

# A shell that starts tests in the background lets them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a loaded machine one example may take any time: no deadline, and no check of their speed.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _tasks_of_this_test_only(monkeypatch):
    """Tasks are known by id in a process; each test defines its own."""
    monkeypatch.setattr(task_registry, "_tasks", {})
    monkeypatch.setattr(input_schemas, "_registered", dict(input_schemas._registered))
    for name in [name for name in os.environ if name.startswith("REALTIME_")]:
        monkeypatch.delenv(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Let logs with lone surrogates, which cannot be encoded, reach the process that reports."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture
async def run(gateway):
    """A run at the `gateway` of the test's module."""
    return await gateway.store.create_run(new_run())


@pytest.fixture
async def client(gateway):
    """A worker's connection to the `gateway` of the test's module."""
    async with gateway.client(token=worker_token()) as client:
        yield client


@pytest.fixture(scope="session", autouse=True)
def _shared_redis_server():
    """Stop the server that tests share, if one of them has started it."""
    yield
    if servers := sys.modules.get("tests.support.redis.servers"):
        servers.stop_shared_server()


def pytest_addoption(parser):
    text = "run the tests that need no process, no network and no browser"
    parser.addoption("--fast", action="store_true", help=text)


def pytest_configure(config):
    if config.getoption("--fast"):
        config.pluginmanager.register(lanes.Guard())


def pytest_ignore_collect(collection_path, config):
    return True if config.getoption("--fast") and lanes.is_left_out(collection_path) else None


def pytest_collection_modifyitems(config, items):
    for item in items:
        for need in sorted(lanes.needs(item)):
            item.add_marker(need)
    items.sort(key=lanes.turn)
    if config.getoption("--fast"):
        chosen = [i for i in items if not any(map(i.get_closest_marker, lanes.LEFT_OUT))]
        config.hook.pytest_deselected(items=sorted(set(items) - set(chosen), key=str))
        items[:] = chosen
