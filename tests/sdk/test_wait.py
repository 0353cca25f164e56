"""Waiting in the middle of a task."""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from gateway import current_run, runs, task, tokens, wait
from gateway.errors import (
    Forbidden,
    InvalidId,
    InvalidValue,
    NotInRun,
    RunNotFound,
    StreamEnded,
    WaitTimeout,
)
from gateway.model.records import StreamKey
from gateway.sdk.loops.bridge import run_in_loop
from gateway.sdk.wait import WaitToken
from gateway.stores.memory import MemoryStore
from gateway.stores.remote.store import RemoteStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import SECRET, Time, gateway_process, until, worker_token, working


@dataclass
class Approval:
    ok: bool
    by: str = "nobody"


async def waiting_run(run_id):
    async for run in runs.subscribe(run_id):
        if run.status == "waiting":
            return run


@pytest.mark.parametrize("kind", ["for_seconds", "until"])
async def test_timed_wait_sets_status_and_releases_its_slot(kind):
    time = Time()

    @task
    async def sleeping() -> list[str]:
        if kind == "for_seconds":
            await wait.for_seconds(30)
        else:
            now = datetime.fromtimestamp(time.now_ms / 1000, UTC)
            await wait.until(now + timedelta(seconds=30))
        return [(await runs.retrieve(current_run().id)).status]

    @task
    async def other() -> int:
        return 1

    async with working(time=time, concurrency=1):
        handle = await sleeping.trigger()
        run = await waiting_run(handle.id)
        assert run.is_waiting
        assert run.is_executing
        assert (await other.trigger_and_wait()).output == 1
        assert time.sleeping == [30]
        assert not (await runs.retrieve(handle.id)).is_finished
        time.let_pass(30)
        assert (await handle.wait()).output == ["executing"]


async def test_outside_a_run_waiting_is_sleeping():
    async with working():
        await wait.for_seconds(0)
        await wait.until(datetime(2020, 1, 1, tzinfo=UTC))


async def test_wait_rejects_invalid_time():
    async with working():
        with pytest.raises(InvalidValue, match="seconds is -1"):
            await wait.for_seconds(-1)
        with pytest.raises(InvalidValue, match="a datetime with a time zone"):
            await wait.until(datetime(2030, 1, 1))


def approving():
    made: asyncio.Queue[WaitToken[Approval]] = asyncio.Queue()

    @task
    async def approve(timeout_s: float | None = None) -> str:
        token = await wait.create_token(Approval, timeout_s=timeout_s)
        await made.put(token)
        approval = await wait.for_token(token)
        return f"{approval.ok} by {approval.by}"

    return approve, made


async def test_a_token_is_completed_by_someone_else(tmp_path):
    for store in (MemoryStore(), SqliteStore(tmp_path / "test.db", durability="normal")):
        approve, made = approving()
        async with working(store, concurrency=1):
            handle = await approve.trigger()
            token = await made.get()
            assert await waiting_run(handle.id)
            await wait.complete_token(token.id, Approval(True, "ada"))
            assert (await handle.wait()).output == "True by ada"


async def test_a_token_is_completed_before_anyone_waits():
    @task
    async def work() -> int:
        token = await wait.create_token(int)
        await wait.complete_token(token.id, 7)
        return await wait.for_token(token)

    async with working():
        assert (await work.trigger_and_wait()).output == 7


async def test_the_first_answer_counts():
    approve, made = approving()
    async with working():
        handle = await approve.trigger()
        token = await made.get()
        answers = [wait.complete_token(token.id, {"ok": True, "by": str(n)}) for n in range(20)]
        outcomes = await asyncio.gather(*answers, return_exceptions=True)
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert len(refused) == 19
        assert all(isinstance(outcome, StreamEnded) for outcome in refused)
        assert "has ended (completed); it cannot be completed" in str(refused[0])
        winner = outcomes.index(None)
        assert (await handle.wait()).output == f"True by {winner}"


async def test_uncompleted_wait_token_expires():
    approve, made = approving()
    time = Time()
    async with working(time=time):
        handle = await approve.trigger(30)
        token = await made.get()
        await waiting_run(handle.id)
        time.let_pass(30)
        result = await handle.wait()
        assert (result.status, result.error.type) == ("failed", "WaitTimeout")
        assert token.id in result.error.message
        assert token.expires_at in result.error.message
        with pytest.raises(StreamEnded, match="cannot be completed"):
            await wait.complete_token(token.id, {"ok": True})


async def test_a_task_may_go_on_after_a_time_out_and_later_answers_are_refused():
    time = Time()

    @task
    async def work() -> str:
        token = await wait.create_token(timeout_s=30)
        time.let_pass(30)
        try:
            await wait.for_token(token)
        except WaitTimeout:
            with pytest.raises(StreamEnded, match=r"has ended \(expired\)"):
                await wait.complete_token(token.id, 1)
            return "went on"
        return "answered"

    async with working(time=time):
        assert (await work.trigger_and_wait()).output == "went on"


async def test_an_answer_of_another_type_is_an_error_that_names_the_token():
    approve, made = approving()
    async with working():
        handle = await approve.trigger()
        token = await made.get()
        await wait.complete_token(token.id, {"ok": "perhaps"})
        result = await handle.wait()
        assert (result.status, result.error.type) == ("failed", "InvalidValue")
        assert token.id in result.error.message
        assert "ok: " in result.error.message


async def test_a_run_that_waits_for_a_token_is_canceled():
    approve, made = approving()
    async with working():
        handle = await approve.trigger()
        token = await made.get()
        await waiting_run(handle.id)
        await runs.cancel(handle.id)
        assert (await handle.wait()).status == "canceled"
        with pytest.raises(StreamEnded, match="canceled"):
            await wait.complete_token(token.id, {"ok": True})


async def test_complete_token_rejects_unknown_token():
    @task
    async def work() -> None:
        with pytest.raises(RunNotFound, match="there is no wait token"):
            await wait.complete_token(f"{current_run().id}/wait-0123", 1)

    async with working():
        assert (await work.trigger_and_wait()).ok
        for id in ("nonsense", "run_a/progress", "", None, 5):
            with pytest.raises(InvalidId, match="no wait token's id"):
                await wait.complete_token(id)
        with pytest.raises(RunNotFound):
            await wait.complete_token("run_a/wait-0123", 1)
        with pytest.raises(NotInRun, match="inside a task"):
            await wait.create_token()


@pytest.mark.parametrize("value", [object(), float("nan")])
async def test_an_answer_that_is_no_json_is_refused(value):
    approve, made = approving()
    async with working():
        handle = await approve.trigger()
        token = await made.get()
        with pytest.raises(InvalidValue, match="is no JSON"):
            await wait.complete_token(token.id, value)
        await wait.complete_token(token.id, {"ok": True})
        assert (await handle.wait()).ok


async def test_a_tokens_access_token_completes_it_and_does_nothing_else():
    @task
    async def work() -> str:
        return (await wait.create_token(timeout_s=10)).access_token

    async with working():
        result = await work.trigger_and_wait()
        access = tokens.verify(result.output, secret_key=SECRET, now_s=time.time())
        (scope,) = access.scopes
        run_id, _, stream_id = scope.removeprefix("write:streams:").partition("/")
        assert run_id == result.run_id
        assert access.may_write(StreamKey(run_id, stream_id))
        assert not access.may_write(StreamKey(run_id, "progress"))
        assert not access.may_read(StreamKey(run_id, stream_id), (), None)


async def test_any_client_completes_a_token_over_the_wire(tmp_path):
    approve, made = approving()
    with gateway_process(f"sqlite:{tmp_path}/test.db?durability=normal", tmp_path) as process:
        store = RemoteStore(process.url, worker_token, owner="worker_1")
        async with working(store, owner="worker_1"):
            for end in ("completed", None):
                handle = await approve.trigger()
                token = await made.get()
                page = RemoteStore(process.url, lambda token=token: token.access_token)
                await page.open()
                with pytest.raises(Forbidden):
                    await page.append(StreamKey(handle.id, "progress"), [b"1"])
                key = StreamKey(*token.id.split("/"))
                await page.append(key, [b'{"ok":true,"by":"a page"}'], end=end)
                assert (await handle.wait()).output == "True by a page"
                with pytest.raises(StreamEnded):
                    await page.append(key, [b'{"ok":false}'], end=end)
                await page.close()
            handle = await approve.trigger(0.05)
            assert (await handle.wait()).error.type == "WaitTimeout"


async def test_a_wait_in_a_plain_thread_works_too():
    made = []

    @task
    def work() -> int:
        token = run_in_loop(wait.create_token(int))
        made.append(token)
        return run_in_loop(wait.for_token(token))

    async with working(concurrency=1):
        handle = await work.trigger()
        await until(lambda: made)
        assert await waiting_run(handle.id)
        await wait.complete_token(made[0].id, 3)
        assert (await handle.wait()).output == 3
