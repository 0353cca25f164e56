"""Celery's own tasks as runs, with real prefork workers, broker and gateway."""

import asyncio
import os
import signal

import pytest
from celery.exceptions import TaskRevokedError

from gateway import runs
from gateway.errors import RunNotFound
from gateway.model.runs import iso_time
from tests.support.queues.workers import (
    CELERY_SHOP,
    close_connections,
    ended,
    first,
    on_thread,
    read_as_page,
    statuses,
    until_status,
)


@pytest.fixture
async def celery(celery_place):
    from tests.support.queues import celery_shop

    async with celery_place.connected():
        yield celery_shop
    await close_connections(celery_shop.app)


async def send(task, *args, **options):
    """Send a task as a plain program does; return its result and its run."""
    from gateway.integrations.celery import handle_of

    result = await on_thread(task.apply_async, args, **options)
    return result, handle_of(result)


async def test_task_is_a_run_with_ordered_records(celery_place, celery):
    result, run = await send(celery.greet, "ann")
    records = await read_as_page(celery_place.gateway.url, run.access_token, run.id, "lines")
    assert [(each["offset"], each["data"]) for each in records] == [
        (0, "hello ann"),
        (1, "attempt 1"),
    ]
    kept = await ended(run.id)
    assert (kept.task, kept.status, kept.attempt) == (f"{CELERY_SHOP}.greet", "completed", 1)
    assert await statuses(run.id) == ["queued", "executing", "completed"]
    assert await on_thread(result.get, timeout=10) == "ANN"
    assert kept.payload is None and kept.output is None  # stored only with `with_payloads`
    assert kept.owner.startswith("worker_") and kept.duration_ms is not None


async def test_appends_are_durable_before_success(celery):
    result, run = await send(celery.greet, "bob")
    await on_thread(result.get, timeout=10)
    values = [record.value async for record in _now(celery.lines, run.id)]
    assert values == ["hello bob", "attempt 1"]


async def _now(stream, run_id):
    from gateway.model.records import StreamKey
    from gateway.sdk.runtime import current_runtime

    page = await current_runtime().store.read(StreamKey(run_id, stream.id))
    for record in page.records:
        yield stream.read_record(record, page)


async def test_sent_tasks_are_children_with_tags(celery):
    _, run = await send(celery.order, ["ann", "bob"])
    parent = await ended(run.id)
    assert parent.metadata == {"sent": 2}
    children = await runs.list(parent_id=run.id)
    assert [child.tags for child in children] == [["to-bob"], ["to-ann"]]
    assert {(await ended(child.id)).status for child in children} == {"completed"}
    assert {child.root_id for child in children} == {run.id}


async def test_group_is_a_batch(celery):
    from celery import group

    made = group(celery.silent.s(name) for name in "abc")
    result = await on_thread(made.apply_async)
    batch = await runs.list(batch_id=f"batch_{result.id.replace('-', '')}")
    assert len(batch) == 3
    assert {(await ended(run.id)).status for run in batch} == {"completed"}


async def test_chained_task_is_a_child_of_the_previous(celery):
    made = celery.silent.s("ann") | celery.greet.s()
    result = await on_thread(made.apply_async)
    assert await on_thread(result.get, timeout=10) == "ANN"
    [child] = [run for run in await runs.list(limit=3) if run.task == f"{CELERY_SHOP}.greet"][:1]
    assert child.parent_id is not None
    assert (await runs.retrieve(child.parent_id)).task == f"{CELERY_SHOP}.silent"


async def test_retry_is_another_attempt_of_the_same_run(celery):
    result, run = await send(celery.flaky, 2)
    assert await on_thread(result.get, timeout=10) == "done"
    kept = await ended(run.id)
    assert (kept.status, kept.attempt, kept.max_attempts) == ("completed", 3, 4)
    assert kept.last_error is not None and kept.last_error.type == "ConnectionError"
    assert await statuses(run.id) == [
        "queued",
        *("executing", "delayed", "queued") * 2,
        "executing",
        "completed",
    ]
    lines = [line async for line in celery.lines.read(run.id)]
    assert lines == ["try 1", "try 2", "try 3"]


async def test_failed_task_keeps_appended_records(celery):
    _, run = await send(celery.fail, "no stock")
    kept = await ended(run.id)
    assert kept.status == "failed"
    assert kept.error is not None
    assert (kept.error.type, kept.error.message) == ("ValueError", "no stock")
    assert await first(celery.lines, run.id) == "before"


async def test_unusual_exceptions_fail_the_run(celery):
    messages = {
        "half an emoji": "cannot parse \ufffd",
        "mute": "its text cannot be shown: str() raised ValueError",
        "group": "g (2 sub-exceptions): OSError: a; OSError: b",
    }
    sent = {what: (await send(celery.fail_oddly, what))[1] for what in messages}
    for what, run in sent.items():
        kept = await ended(run.id)
        assert (kept.status, kept.error.message) == ("failed", messages[what]), what


async def test_canceled_waiting_run_is_not_executed(celery):
    result, run = await send(celery.greet, "ann", countdown=1)
    assert (await runs.retrieve(run.id)).status == "delayed"
    assert (await runs.cancel(run.id)).status == "canceled"
    with pytest.raises(TaskRevokedError):
        await on_thread(result.get, timeout=20)
    assert [line async for line in _now(celery.lines, run.id)] == []


async def test_canceled_executing_run_stops_at_next_append(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    _, run = await send(celery.linger, str(flag))
    await first(celery.lines, run.id)
    await runs.cancel(run.id)
    assert (await ended(run.id)).status == "canceled"
    assert flag.exists()


async def test_revoked_task_is_canceled(celery):
    from celery import uuid

    id = uuid()
    revoke = celery.app.control.revoke
    assert await on_thread(revoke, id, reply=True, timeout=20, limit=1)
    _, run = await send(celery.greet, "ann", task_id=id)
    assert (await ended(run.id)).status == "canceled"


async def test_terminated_task_is_canceled(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    result, run = await send(celery.linger, str(flag))
    await first(celery.lines, run.id)
    await on_thread(celery.app.control.revoke, result.id, terminate=True, signal="SIGKILL")
    assert (await ended(run.id)).status == "canceled"


async def test_expired_task_is_expired(celery):
    _, run = await send(celery.greet, "ann", expires=-1)
    kept = await ended(run.id)
    assert kept.status == "expired"
    assert kept.error is not None and kept.error.type == "Expired"


async def test_time_limit_times_out_the_run(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    _, run = await send(celery.dawdle, str(flag))
    assert (await ended(run.id)).status == "timed_out"


async def test_killed_worker_crashes_its_run(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    _, run = await send(celery.linger, str(flag))
    os.kill(int(await first(celery.lines, run.id)), signal.SIGKILL)
    kept = await ended(run.id)
    assert kept.status == "crashed"
    assert kept.error is not None and kept.error.type == "ProcessDied"


async def test_redelivered_task_continues_the_same_run(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    result, run = await send(celery.die_once, str(flag))
    began = await until_status(run.id, "executing")
    kept = await ended(run.id)
    assert kept.status == "completed" and not flag.exists()
    assert kept.owner != began.owner
    assert [line async for line in celery.lines.read(run.id)] == ["began", "began"]
    assert await on_thread(result.get, timeout=10) == "survived"


async def test_message_without_ticket_creates_one_run(celery, monkeypatch):
    """The sender has not installed the integration."""
    from celery.signals import before_task_publish

    monkeypatch.setattr(before_task_publish, "receivers", [])
    result = await on_thread(celery.greet.delay, "ann")
    assert await on_thread(result.get, timeout=10) == "ANN"
    [run] = [run for run in await runs.list(limit=1) if run.task == f"{CELERY_SHOP}.greet"]
    assert run.idempotency_key == f"celery:{result.id}"
    assert (await ended(run.id)).status == "completed"


async def test_eager_task_is_a_run(celery, monkeypatch):
    monkeypatch.setitem(celery.app.conf, "task_always_eager", True)
    result = await on_thread(celery.flaky.delay, 1)
    assert result.get() == "done"
    [run] = await runs.list(limit=1)
    assert (run.task, run.status, run.attempt) == (f"{CELERY_SHOP}.flaky", "completed", 2)
    assert [line async for line in celery.lines.read(run.id)] == ["try 1", "try 2"]


async def test_unreachable_gateway_does_not_block_tasks(celery_place, celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    result, run = await send(celery.linger, str(flag))
    await first(celery.lines, run.id)
    celery_place.gateway.kill()
    flag.unlink()
    await asyncio.to_thread(celery_place.gateway.start)
    kept = await ended(run.id)
    assert kept.status == "completed"
    await on_thread(result.get, timeout=10)
    assert [line async for line in celery.lines.read(run.id)][1] == "still here"


async def test_unknown_task_has_no_handle(celery):
    from celery.result import AsyncResult

    from gateway.integrations.celery import handle_of

    with pytest.raises(RunNotFound, match="this process has no run"):
        handle_of(AsyncResult("another", app=celery.app))


def test_message_times_are_decoded():
    from gateway.integrations.celery.publisher import _moment_ms

    assert _moment_ms(None) is None
    for text in ("2026-11-22T12:00:00+00:00", "2026-11-22T12:00:00", "2026-11-22T14:00:00+02:00"):
        moment = _moment_ms(text)
        assert moment is not None and iso_time(moment) == "2026-11-22T12:00:00.000Z"
