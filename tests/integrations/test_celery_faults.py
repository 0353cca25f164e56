"""Runs after the death of a Celery worker, without a gateway, and with a shared Redis."""

import asyncio
import os
import signal
import time

import pytest

import gateway
from gateway import runs
from gateway.integrations.celery import publisher
from gateway.sdk import background
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    Process,
    environment,
    gateway_process,
    serving,
    until,
)
from tests.support.queues.workers import (
    CELERY_SHOP,
    Shop,
    close_connections,
    ended,
    first,
    on_thread,
)

WORKER = ("celery", "-A", CELERY_SHOP, "worker", "-c", "2", "-l", "info")
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")


@pytest.fixture
async def celery(celery_place):
    from tests.support.queues import celery_shop

    yield celery_shop
    await close_connections(celery_shop.app)


async def test_death_of_worker_and_children_crashes_runs(celery_place, celery, tmp_path):
    """The gateway detects lost connections; here at once, by default after a minute."""
    flag = tmp_path / "flag"
    flag.touch()
    async with serving() as here:
        here.gateway._leases._lease_s = 0.0
        own = Shop(tmp_path, celery_place.server, here)
        with own.worker(*WORKER, *QUIET, "-Q", "dies") as worker:
            from gateway.integrations.celery import handle_of

            sent = await on_thread(celery.linger.apply_async, (str(flag),), queue="dies")
            run = handle_of(sent)
            await first(celery.lines, run.id)
            os.killpg(worker.pid, signal.SIGKILL)
            kept = await ended(run.id)
    assert (kept.status, kept.error.type) == ("crashed", "ProcessDied")


async def test_workers_share_redis_with_gateway(celery_place, celery, tmp_path):
    store = celery_place.broker.removesuffix("/0") + "/4"
    with gateway_process(store, tmp_path) as process:
        own = Shop(tmp_path, celery_place.server, process)
        del own.env["REALTIME_URL"]
        async with gateway.connect(process.url, secret_key=SECRET):
            with own.worker(*WORKER, *QUIET, "-Q", "direct", REALTIME_STORE=store):
                from gateway.integrations.celery import handle_of

                sent = await on_thread(celery.greet.apply_async, ("ann",), queue="direct")
                run = await ended(handle_of(sent).id)
                assert run.status == "completed" and run.owner.startswith("worker_")
                lines = [line async for line in celery.lines.read(run.id)]
                assert lines == ["hello ann", "attempt 1"]


def _not_started(tmp_path, monkeypatch, *, patience_s):
    """Configure Celery in this process with a gateway that has not started."""
    process = Process("memory:", tmp_path)
    for name, value in environment(REALTIME_URL=process.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(publisher, "UPDATE_TIMEOUT_S", patience_s)
    monkeypatch.setattr(publisher, "_gateway_is_slow", False)
    return process


async def test_task_is_sent_while_gateway_is_unreachable(
    celery_place, celery, tmp_path, monkeypatch
):
    process = _not_started(tmp_path, monkeypatch, patience_s=1.0)
    began_s = time.monotonic()
    sent = [
        await on_thread(celery.greet.apply_async, (name,), queue="nobody") for name in "abcdefgh"
    ]
    assert time.monotonic() - began_s < len(sent), "each waited, not only the first"
    process.start()
    try:
        kept = [await on_thread(_kept, result) for result in sent]
        assert [run.status for run in kept] == ["queued"] * len(sent)
        assert publisher._gateway_is_slow is False
    finally:
        await on_thread(background.stop)
        process.kill()


async def test_worker_starts_before_its_gateway(celery_place, celery, tmp_path, monkeypatch):
    process = _not_started(tmp_path, monkeypatch, patience_s=0.1)
    from gateway.integrations.celery import handle_of

    result = await on_thread(celery.greet.apply_async, ("ann",), queue="early")
    run_id = handle_of(result).id
    await on_thread(background.stop)  # this process has stored no run
    own = Shop(tmp_path, celery_place.server, process)
    log = tmp_path / "worker.log"
    try:
        with own.worker(*WORKER, *QUIET, "-Q", "early", PATIENCE_S="0.1"):
            await until(lambda: log.exists() and "the task continues" in log.read_text())
            await asyncio.to_thread(process.start)
            assert await on_thread(result.get, timeout=DEADLINE_S) == "ANN"
            async with gateway.connect(process.url, secret_key=SECRET):
                assert (await ended(run_id)).status == "completed"
                lines = [line async for line in celery.lines.read(run_id)]
                assert lines == ["hello ann", "attempt 1"]
    finally:
        process.kill()


def _kept(result):
    """Wait until a run is stored: updates of the same order are applied one after another."""
    from gateway.integrations.celery import handle_of

    async def nothing(active):
        return None

    background.submit(nothing).result(20)  # connected
    id = handle_of(result).id

    async def get(active):
        return await runs.retrieve(id)

    return background.submit(get, order=id).result(20)


def test_updates_over_queue_limit_are_rejected(monkeypatch, tmp_path):
    process = Process("memory:", tmp_path)  # never started
    for name, value in environment(REALTIME_URL=process.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(background, "MAX_WAITING", 2)

    async def ask(active):
        return await active.store.get_run("run_a")

    try:
        waiting = [background.submit(ask) for _ in range(2)]
        with pytest.raises(gateway.errors.StoreUnavailable, match="2 changes wait"):
            background.submit(ask)
    finally:
        background.stop()
    assert all(future.cancelled() for future in waiting)


def test_invalid_setting_fails_all_pending_updates(monkeypatch):
    monkeypatch.setenv("REALTIME_URL", "no address")
    monkeypatch.setenv("REALTIME_SECRET_KEY", SECRET)

    async def nothing(active):
        return None

    try:
        with pytest.raises(gateway.errors.ConfigurationError, match="no gateway's address"):
            background.submit(nothing).result(20)
    finally:
        background.stop()
