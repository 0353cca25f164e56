"""Celery's own tasks as runs: real prefork workers, a real broker, a real gateway."""

import asyncio
import os
import signal

import pytest
from celery.exceptions import TaskRevokedError
from queue_workers import (
    ended,
    first,
    let_go,
    on_thread,
    seen_by_a_page,
    statuses,
    until_status,
)

from gateway import runs
from gateway.errors import RunNotFound
from gateway.model.runs import iso_time


@pytest.fixture
async def celery(celery_place):
    import celery_shop

    async with celery_place.connected():
        yield celery_shop
    await let_go(celery_shop.app)


async def send(task, *args, **options):
    """Send a task as a plain program does; returns its result and its run."""
    from gateway.integrations.celery import handle_of

    result = await on_thread(task.apply_async, args, **options)
    return result, handle_of(result)


async def test_a_task_is_a_run_whose_records_a_page_sees_in_order(celery_place, celery):
    result, run = await send(celery.greet, "ann")
    records = await seen_by_a_page(celery_place.gateway.url, run.access_token, run.id, "lines")
    assert [(each["offset"], each["data"]) for each in records] == [
        (0, "hello ann"),
        (1, "attempt 1"),
    ]
    kept = await ended(run.id)
    assert (kept.task, kept.status, kept.attempt) == ("celery_shop.greet", "completed", 1)
    assert await statuses(run.id) == ["queued", "executing", "completed"]
    assert await on_thread(result.get, timeout=10) == "ANN"
    assert kept.payload is None and kept.output is None  # not shown unless it is asked for
    assert kept.owner.startswith("worker_") and kept.duration_ms is not None


async def test_what_was_appended_is_durable_before_celery_says_that_the_task_succeeded(celery):
    result, run = await send(celery.greet, "bob")
    await on_thread(result.get, timeout=10)
    values = [record.value async for record in _now(celery.lines, run.id)]
    assert values == ["hello bob", "attempt 1"]


async def _now(stream, run_id):
    from gateway.model.records import StreamKey
    from gateway.sdk.runtime import runtime

    page = await runtime().store.read(StreamKey(run_id, stream.id))
    for record in page.records:
        yield stream.read_record(record, page)


async def test_what_a_task_sends_are_its_children_with_their_tags(celery):
    _, run = await send(celery.order, ["ann", "bob"])
    parent = await ended(run.id)
    assert parent.metadata == {"sent": 2}
    children = await runs.list(parent_id=run.id)
    assert [child.tags for child in children] == [["to-bob"], ["to-ann"]]
    assert {(await ended(child.id)).status for child in children} == {"completed"}
    assert {child.root_id for child in children} == {run.id}


async def test_the_tasks_of_a_group_are_a_batch(celery):
    from celery import group

    made = group(celery.silent.s(name) for name in "abc")
    result = await on_thread(made.apply_async)
    batch = await runs.list(batch_id=f"batch_{result.id.replace('-', '')}")
    assert len(batch) == 3
    assert {(await ended(run.id)).status for run in batch} == {"completed"}


async def test_the_next_of_a_chain_is_a_child_of_the_one_before(celery):
    made = celery.silent.s("ann") | celery.greet.s()
    result = await on_thread(made.apply_async)
    assert await on_thread(result.get, timeout=10) == "ANN"
    [child] = [run for run in await runs.list(limit=3) if run.task == "celery_shop.greet"][:1]
    assert child.parent_id is not None
    assert (await runs.retrieve(child.parent_id)).task == "celery_shop.silent"


async def test_a_retry_is_another_attempt_of_the_same_run(celery):
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


async def test_a_failure_is_the_runs_and_what_was_appended_before_it_stays(celery):
    _, run = await send(celery.fail, "no stock")
    kept = await ended(run.id)
    assert kept.status == "failed"
    assert kept.error is not None
    assert (kept.error.type, kept.error.message) == ("ValueError", "no stock")
    assert await first(celery.lines, run.id) == "before"


async def test_a_function_that_fails_oddly_has_failed(celery):
    messages = {
        "half an emoji": "cannot parse \ufffd",
        "mute": "its text cannot be shown: str() raised ValueError",
        "group": "g (2 sub-exceptions): OSError: a; OSError: b",
    }
    sent = {what: (await send(celery.fail_oddly, what))[1] for what in messages}
    for what, run in sent.items():
        kept = await ended(run.id)
        assert (kept.status, kept.error.message) == ("failed", messages[what]), what


async def test_a_run_that_is_canceled_while_it_waits_is_never_executed(celery):
    result, run = await send(celery.greet, "ann", countdown=1)
    assert (await runs.retrieve(run.id)).status == "delayed"
    assert (await runs.cancel(run.id)).status == "canceled"
    with pytest.raises(TaskRevokedError):
        await on_thread(result.get, timeout=20)
    assert [line async for line in _now(celery.lines, run.id)] == []


async def test_a_run_that_is_canceled_while_it_executes_stops_at_its_next_append(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    _, run = await send(celery.linger, str(flag))
    await first(celery.lines, run.id)
    await runs.cancel(run.id)
    assert (await ended(run.id)).status == "canceled"
    assert flag.exists()


async def test_what_celery_revokes_before_it_begins_is_canceled(celery):
    from celery import uuid

    id = uuid()
    revoke = celery.app.control.revoke
    assert await on_thread(revoke, id, reply=True, timeout=20, limit=1)
    _, run = await send(celery.greet, "ann", task_id=id)
    assert (await ended(run.id)).status == "canceled"


async def test_what_celery_terminates_is_canceled(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    result, run = await send(celery.linger, str(flag))
    await first(celery.lines, run.id)
    await on_thread(celery.app.control.revoke, result.id, terminate=True, signal="SIGKILL")
    assert (await ended(run.id)).status == "canceled"


async def test_what_comes_too_late_is_expired(celery):
    _, run = await send(celery.greet, "ann", expires=-1)
    kept = await ended(run.id)
    assert kept.status == "expired"
    assert kept.error is not None and kept.error.type == "Expired"


async def test_what_takes_longer_than_its_limit_is_timed_out(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    _, run = await send(celery.dawdle, str(flag))
    assert (await ended(run.id)).status == "timed_out"


async def test_a_worker_killed_in_the_middle_of_a_task_leaves_its_run_crashed(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    _, run = await send(celery.linger, str(flag))
    os.kill(int(await first(celery.lines, run.id)), signal.SIGKILL)
    kept = await ended(run.id)
    assert kept.status == "crashed"
    assert kept.error is not None and kept.error.type == "ProcessDied"


async def test_a_task_that_celery_brings_again_after_that_goes_on_as_the_same_run(celery, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    result, run = await send(celery.die_once, str(flag))
    began = await until_status(run.id, "executing")
    kept = await ended(run.id)
    assert kept.status == "completed" and not flag.exists()
    assert kept.owner != began.owner
    assert [line async for line in celery.lines.read(run.id)] == ["began", "began"]
    assert await on_thread(result.get, timeout=10) == "survived"


async def test_a_message_without_a_ticket_is_one_run_all_the_same(celery, monkeypatch):
    """Its sender has not installed anything."""
    from celery.signals import before_task_publish

    monkeypatch.setattr(before_task_publish, "receivers", [])
    result = await on_thread(celery.greet.delay, "ann")
    assert await on_thread(result.get, timeout=10) == "ANN"
    [run] = [run for run in await runs.list(limit=1) if run.task == "celery_shop.greet"]
    assert run.idempotency_key == f"celery:{result.id}"
    assert (await ended(run.id)).status == "completed"


async def test_a_task_executed_at_once_is_a_run_too(celery, monkeypatch):
    monkeypatch.setitem(celery.app.conf, "task_always_eager", True)
    result = await on_thread(celery.flaky.delay, 1)
    assert result.get() == "done"
    [run] = await runs.list(limit=1)
    assert (run.task, run.status, run.attempt) == ("celery_shop.flaky", "completed", 2)
    assert [line async for line in celery.lines.read(run.id)] == ["try 1", "try 2"]


async def test_a_gateway_that_is_away_keeps_no_task_from_being_executed(
    celery_place, celery, tmp_path
):
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


async def test_an_unknown_task_has_no_handle(celery):
    from celery.result import AsyncResult

    from gateway.integrations.celery import handle_of

    with pytest.raises(RunNotFound, match="knows of no run"):
        handle_of(AsyncResult("another", app=celery.app))


def test_times_of_messages_are_read_as_celery_writes_them():
    from gateway.integrations.celery.publisher import _moment_ms

    assert _moment_ms(None) is None
    for text in ("2026-11-22T12:00:00+00:00", "2026-11-22T12:00:00", "2026-11-22T14:00:00+02:00"):
        moment = _moment_ms(text)
        assert moment is not None and iso_time(moment) == "2026-11-22T12:00:00.000Z"
