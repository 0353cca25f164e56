"""Tasks of this library on real prefork workers of Celery."""

import os
import signal

import orjson
import pytest
from celery import Celery

from gateway import runs
from gateway.errors import ConfigurationError, QueueUnavailable
from gateway.integrations.celery.runner import CeleryQueue
from gateway.model.log import run_log
from gateway.sdk.execution import task_queues
from gateway.sdk.runtime import current_runtime
from tests.support.queues.workers import (
    close_connections,
    ended,
    first,
    on_thread,
    read_as_page,
    statuses,
    wait_for_takeover_request,
)


@pytest.fixture
async def celery(celery_place):
    from tests.support.queues import celery_shop

    task_queues.register(CeleryQueue(celery_shop.app))
    async with celery_place.connected():
        yield celery_shop
    await close_connections(celery_shop.app)


async def test_worker_executes_task_and_appends_records(celery_place, celery):
    handle = await celery.add.trigger(a=1, b=2)
    result = await handle.wait()
    assert (result.ok, result.output) == (True, 3)
    records = await read_as_page(
        celery_place.gateway.url, handle.access_token, handle.id, "numbers"
    )
    assert [each["data"] for each in records] == [1, 2]
    run = await runs.retrieve(handle.id)
    assert run.owner.startswith("worker_") and run.owner != current_runtime().runner.owner
    assert await statuses(run.id) == ["queued", "executing", "completed"]


async def test_children_execute_while_parent_waits(celery):
    result = await celery.add_all.trigger_and_wait(pairs=[[1, 2], [3, 4], [5, 6]])
    assert result.output == 21
    children = await runs.list(parent_id=result.run_id)
    assert len(children) == 3 and len({child.batch_id for child in children}) == 1
    parent = await runs.retrieve(result.run_id)
    assert {child.owner for child in children} != {parent.owner}
    assert await statuses(result.run_id) == [
        "queued",
        "executing",
        "waiting",
        "executing",
        "completed",
    ]
    assert [number async for number in celery.numbers.read(result.run_id)] == [3, 7, 11]


async def test_run_belongs_to_queue_between_attempts(celery):
    result = await celery.sometimes.trigger_and_wait(fails=2)
    assert result.output == 3
    run = await runs.retrieve(result.run_id)
    assert (run.attempt, run.max_attempts) == (3, 3)
    assert set(run.metadata) == {"attempt 1", "attempt 2", "attempt 3"}
    page = await current_runtime().store.read(run_log(run.id))
    owners = [orjson.loads(record.data).get("owner") for record in page.records]
    assert owners.count("queue:celery") == 3  # at its creation, and after two failures


async def test_failed_task_reports_reason(celery):
    result = await celery.sometimes.trigger_and_wait(fails=9)
    assert (result.status, result.error.type) == ("failed", "ConnectionError")
    aborted = await celery.sometimes.trigger_and_wait(fails=0, abort=True)
    assert (aborted.status, aborted.error.type) == ("failed", "AbortTask")
    assert (await runs.retrieve(aborted.run_id)).attempt == 1


@pytest.mark.parametrize("kind", ["count", "nap"])
async def test_executing_run_is_canceled(celery, tmp_path, kind):
    flag = tmp_path / "flag"
    flag.touch()
    handle = await getattr(celery, kind).trigger(flag=str(flag))
    await first(celery.numbers, handle.id)
    await runs.cancel(handle.id)
    assert (await ended(handle.id)).status == "canceled"


async def test_canceled_delayed_run_is_not_executed(celery):
    handle = await celery.add.options(delay_s=1).trigger(a=1, b=2)
    assert (await runs.retrieve(handle.id)).status == "delayed"
    await runs.cancel(handle.id)
    assert (await celery.add.options(delay_s=1.1).trigger_and_wait(a=3, b=4)).ok  # later
    assert await statuses(handle.id) == ["delayed", "canceled"]


async def test_delayed_run_executes_when_due(celery):
    result = await celery.add.options(delay_s=0.3).trigger_and_wait(a=1, b=2)
    assert result.output == 3
    run = await runs.retrieve(result.run_id)
    assert await statuses(run.id) == ["delayed", "queued", "executing", "completed"]
    assert run.started_at >= run.delay_until


async def test_idempotency_key_creates_one_run(celery):
    task = celery.add.options(idempotency_key="once")
    one, two = await task.trigger(a=1, b=2), await task.trigger(a=1, b=2)
    assert one.id == two.id
    assert (await one.wait()).output == 3


@pytest.mark.parametrize("kind", ["count", "nap"])
async def test_killed_worker_crashes_its_run(celery, tmp_path, kind):
    flag = tmp_path / "flag"
    flag.touch()
    handle = await getattr(celery, kind).trigger(flag=str(flag))
    os.kill(await first(celery.numbers, handle.id), signal.SIGKILL)
    run = await ended(handle.id)
    assert run.status == "crashed"
    assert run.error is not None and run.error.type == "ProcessDied"


async def test_redelivered_task_continues_the_same_run(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    result = await celery.die.trigger_and_wait(flag=str(flag))
    assert (result.status, result.output) == ("completed", "survived")
    run = await runs.retrieve(result.run_id)
    assert run.attempt == 1 and not flag.exists()
    pids = [pid async for pid in celery.numbers.read(run.id)]
    assert len(set(pids)) == 2


async def test_redelivered_task_is_at_next_attempt(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    result = await celery.die_and_retry.trigger_and_wait(flag=str(flag))
    assert (result.status, result.output) == ("completed", 2)
    run = await runs.retrieve(result.run_id)
    assert "its queue brought it again" in run.last_error.message


async def test_duplicate_delivery_executes_once(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    handle = await celery.nap.trigger(flag=str(flag))
    pid = await first(celery.numbers, handle.id)
    run = await runs.retrieve(handle.id)
    await CeleryQueue(celery.app).enqueue(run)
    await wait_for_takeover_request(run)
    flag.unlink()
    assert (await ended(handle.id)).status == "completed"
    assert [each async for each in celery.numbers.read(handle.id)] == [pid]


async def test_terminated_task_is_canceled(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    handle = await celery.nap.trigger(flag=str(flag))
    await first(celery.numbers, handle.id)
    revoke = celery.app.control.revoke
    await on_thread(revoke, handle.id, terminate=True, signal="SIGKILL")
    assert (await ended(handle.id)).status == "canceled"


@pytest.mark.parametrize("kind", ["limited", "limited-plain"])
async def test_time_limit_times_out_the_run(celery, kind):
    """Celery's settings know a task as `realtime.<id>`."""
    result = await getattr(celery, kind.replace("-", "_")).trigger_and_wait()
    assert result.status == "timed_out"
    assert "its worker allows" in result.error.message


async def test_run_is_finished_when_broker_rejects_it(celery):
    app = Celery("nowhere", broker="redis://127.0.0.1:1/0")
    app.conf.broker_transport_options = {"socket_connect_timeout": 1}
    app.conf.task_publish_retry = False
    task_queues.register(CeleryQueue(app))
    before = await runs.list(limit=1)
    with pytest.raises(QueueUnavailable, match="did not accept a run of add"):
        await celery.add.options(idempotency_key="lost").trigger(a=1, b=2)
    assert await runs.list(limit=1) == before
    task_queues.register(CeleryQueue(celery.app))
    assert (await celery.add.options(idempotency_key="lost").trigger_and_wait(a=1, b=2)).ok
    await close_connections(app)


async def test_default_runner_is_a_setting(celery_place, celery, monkeypatch):
    monkeypatch.setattr(current_runtime(), "default_runner", "celery")
    handle = await celery.add.options(runner="process").trigger(a=1, b=2)
    assert (await handle.wait()).output == 3
    assert (await runs.retrieve(handle.id)).owner == current_runtime().runner.owner
    monkeypatch.setattr(celery.add, "_options", celery.add.options(runner="").defaults)
    handle = await celery.add.trigger(a=1, b=2)
    assert (await handle.wait()).output == 3
    assert (await runs.retrieve(handle.id)).owner != current_runtime().runner.owner


async def test_missing_runner_error_names_it(celery):
    with pytest.raises(ConfigurationError, match="'rq' is not set up"):
        await celery.add.options(runner="rq").trigger(a=1, b=2)
