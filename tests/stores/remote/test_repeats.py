"""Calls of a remote store whose response is lost."""

import asyncio
from contextlib import aclosing

import pytest

from gateway import wait
from gateway.errors import (
    ConnectionLost,
    IllegalTransition,
    RunExists,
    StreamEnded,
    WaitTimeout,
)
from gateway.model.records import StreamKey, Writer
from gateway.sdk.context import RunContext, run_context
from gateway.sdk.runtime import current_runtime
from gateway.stores.remote import pending
from tests.support.gateways import (
    DEADLINE_S,
    new_run,
    serving,
    until,
)
from tests.support.records import records_of
from tests.support.remote_stores import follow, opened, relayed


async def test_append_is_repeated_safely_when_reply_was_lost():
    async with relayed() as (relay, _, store):
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        relay.drop_answer_of = "appended"
        done = await asyncio.wait_for(
            store.append(key, [b"1"], writer=Writer("w", 0, 0)), DEADLINE_S
        )
        assert (done.offset, done.duplicate, relay.dropped) == (0, True, 1)
        relay.drop_answer_of = "appended"
        end = store.append(key, [], writer=Writer("w", 0, 1), end="completed")
        assert (await asyncio.wait_for(end, DEADLINE_S)).duplicate
        assert len(await records_of(store, key)) == 1


async def test_an_append_without_a_writer_is_not_sent_twice():
    async with relayed() as (relay, _, store):
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        relay.drop_answer_of = "appended"
        with pytest.raises(ConnectionLost, match="the append may have happened"):
            await asyncio.wait_for(store.append(key, [b"1"]), DEADLINE_S)
        assert len(await records_of(store, key)) == 1


async def test_wait_tokens_go_on_when_answers_are_lost(monkeypatch):
    async with relayed() as (relay, _, store):
        monkeypatch.setattr(
            current_runtime(), "store", store
        )  # of the gateway, which is in this process
        run = await store.create_run(new_run())
        async with run_context(RunContext.of(run)), asyncio.timeout(DEADLINE_S):
            relay.drop_answer_of = "appended"
            token = await wait.create_token(int)
            relay.drop_answer_of = "appended"
            await wait.complete_token(token.id, 7)
            assert await wait.for_token(token) == 7
            with pytest.raises(StreamEnded, match="cannot be completed"):
                await wait.complete_token(token.id, 8)

            left_open = await wait.create_token(int)
            await store.append(StreamKey(*left_open.id.split("/")), [b"9"])
            relay.drop_answer_of = "appended"
            assert await wait.for_token(left_open) == 9

            late = await wait.create_token(int, timeout_s=0.001)
            relay.drop_answer_of = "appended"
            with pytest.raises(WaitTimeout):
                await wait.for_token(late)
        assert relay.dropped == 4


async def test_run_creation_is_repeated_safely_when_reply_was_lost():
    async with relayed() as (relay, _, store):
        run = new_run(payload={"a": 1})
        relay.drop_answer_of = "result"
        assert await asyncio.wait_for(store.create_run(run), DEADLINE_S) == run
        assert relay.dropped == 1
        with pytest.raises(RunExists):
            await store.create_run(new_run(id=run.id, payload={"a": 2}))


async def test_patch_is_repeated_safely_when_reply_was_lost():
    async with relayed() as (relay, _, store):
        run = await store.create_run(new_run())
        for status in ("executing", "completed"):
            relay.drop_answer_of = "result"
            patch = {"status": status}
            after = await asyncio.wait_for(store.patch_run(run.id, patch), DEADLINE_S)
            assert after.status == status
        assert relay.dropped == 2
        with pytest.raises(IllegalTransition):
            await store.patch_run(run.id, {"status": "completed"})


async def test_a_repeated_patch_is_not_taken_for_that_of_another_worker():
    """A queue brought the run to two workers; the other one began it."""
    async with relayed() as (relay, gateway, store):
        run = await store.create_run(new_run())
        begin = {"attempt": 1, "status": "executing"}
        await gateway.store.patch_run(run.id, begin | {"owner": "worker_b"})
        relay.drop_answer_of = "error"
        with pytest.raises(IllegalTransition):
            await asyncio.wait_for(
                store.patch_run(run.id, begin | {"owner": "worker_a"}), DEADLINE_S
            )
        assert relay.dropped == 1


async def test_follow_resumes_after_connection_loss():
    async with relayed() as (relay, gateway, store):
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        followed = []
        following = asyncio.create_task(follow(store, key, followed))
        for i in range(60):
            if i % 20 == 10:
                relay.drop_answer_of = "records"
            await gateway.store.append(key, [b"%d" % i])
            await until(lambda i=i: len(followed) > i)
        await gateway.store.append(key, [], end="completed")
        await asyncio.wait_for(following, DEADLINE_S)
        assert [record.data for record in followed] == [b"%d" % i for i in range(60)]
        assert relay.dropped == 3


async def test_a_follower_that_rests_pauses_its_subscription_and_loses_nothing(monkeypatch):
    monkeypatch.setattr(pending, "FOLLOW_BYTES", 100_000)
    async with serving() as gateway, opened(gateway.url) as store:
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "s")
        async with aclosing(store.follow(key)) as pages:
            big = b'"' + b"x" * 20_000 + b'"'
            await store.append(key, [big])
            records = list((await anext(pages)).records)
            (state,) = store._main._follows.values()
            for _ in range(50):
                await store.append(key, [big])
            await until(lambda: state.is_paused)
            await store.head(key)  # whatever was under way has arrived
            assert state.bytes < 400_000
            assert gateway.hub.live_streams == 0
            await gateway.store.append(key, [b"1"], end="completed")
            async for page in pages:
                assert page.gap is None
                assert page.reset is None
                records += page.records
        assert [record.offset for record in records] == list(range(52))
