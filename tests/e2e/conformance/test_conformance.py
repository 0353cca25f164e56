"""The published conformance tests of Durable Streams, against a real gateway for each store."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest

from tests.support.clients.npm import install, outcomes, start_suite
from tests.support.gateways import gateway_process
from tests.support.redis.servers import fresh_url

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(400)]

STORES = ["memory", "sqlite", "redis"]
EXPECTED = {("core", "passed"): 250, ("forks", "passed"): 82, ("subscriptions", "skipped"): 6}
"""The six are opt-in: they ask for webhooks and leases, which are not offered."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Run the tests for all stores at the same time, because they mostly wait."""
    install()
    folder = tmp_path_factory.mktemp("conformance")
    urls = {
        "memory": "memory:",
        "sqlite": f"sqlite:{folder / 'test.db'}",
        "redis": fresh_url(),
    }
    reports = {store: folder / f"{store}.json" for store in STORES}
    with ExitStack() as stack:
        running = []
        for store, url in urls.items():
            (folder / store).mkdir()
            gateway = stack.enter_context(
                # The suite waits up to 5 s for a long poll.
                gateway_process(
                    url,
                    folder / store,
                    REALTIME_HTTP_OPEN="1",
                    REALTIME_ORIGINS="*",
                    REALTIME_LONG_POLL_S="2",
                )
            )
            http = f"http://127.0.0.1:{gateway.port}"
            running.append((store, gateway, start_suite(http, reports[store])))
        for store, gateway, suite in running:
            _, errors = suite.communicate(timeout=300)
            assert reports[store].exists(), errors
            assert "Traceback" not in gateway.log, gateway.log
    return reports


@pytest.mark.parametrize("store", STORES)
def test_core_and_fork_tests_of_suite_pass(reports, store):
    found = outcomes(reports[store])
    failed = [f"{each.name}: {each.messages}" for each in found if each.status == "failed"]
    assert not failed, "\n".join(failed)
    assert Counter((each.area, each.status) for each in found) == EXPECTED
