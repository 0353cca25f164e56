"""The contract of every store: followers, canceled calls, and closing."""

import asyncio
from contextlib import aclosing

from gateway.model.records import (
    StreamKey,
)
from gateway.stores.redis.store import RedisStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import DEADLINE_S, new_run, until
from tests.support.records import data_of, read_all
from tests.support.store_contract import follow_whole, take

# Following.


async def test_follow_yields_stored_and_new_records_until_end(store, key):
    await store.append(key, [b"0", b"1"])
    async with aclosing(store.follow(key)) as pages:
        assert data_of(await take(pages, 2)) == [0, 1]
        for i in range(2, 6):
            await store.append(key, [b"%d" % i])
            assert data_of(await take(pages, 1)) == [i]
        await store.append(key, [b"6"], end="completed")
        rest = [page async for page in pages]
    assert data_of([record for page in rest for record in page.records]) == [6]
    assert [page.end for page in rest][-1] == "completed"
    assert [page.end for page in rest][:-1] == [None] * (len(rest) - 1)


async def test_a_follower_waits_for_a_stream_that_is_not_there_yet(store, key):
    async with aclosing(store.follow(key)) as pages:
        waiting = asyncio.create_task(anext(pages))
        await store.head(key)
        assert not waiting.done()
        await store.append(key, [b"1"])
        page = await asyncio.wait_for(waiting, DEADLINE_S)
        assert data_of(page.records) == [1]


async def test_follow_resumes_after_its_position(store, key):
    first = await store.append(key, [b"1", b"2"])
    await store.append(key, [b"3"])
    async with aclosing(store.follow(key, first.position)) as pages:
        records = await take(pages, 1)
        assert [record.offset for record in records] == [2]


async def test_follow_of_ended_stream_stops_after_its_records(store, key):
    await store.append(key, [b"1"], end="failed")
    async with asyncio.timeout(DEADLINE_S):
        pages = [page async for page in store.follow(key)]
    assert data_of([record for page in pages for record in page.records]) == [1]
    assert pages[-1].end == "failed"
    async with asyncio.timeout(DEADLINE_S):
        again = [page async for page in store.follow(key, pages[-1].position)]
    assert [(page.records, page.end) for page in again] == [([], "failed")]


async def test_many_followers_see_the_same_without_gap_or_repeat(store, key):
    async def follow(after):
        records = []
        async with asyncio.timeout(60):
            async for page in store.follow(key, after):
                assert not page.is_empty
                assert page.gap is None
                assert page.reset is None
                records += page.records
        return records

    async def append(who):
        for i in range(40):
            await store.append(key, [b"[%d,%d]" % (who, i)] * (1 + i % 3))

    early = [asyncio.create_task(follow(None)) for _ in range(10)]
    appending = asyncio.gather(*(append(who) for who in range(5)))
    late = []
    while not appending.done():
        after = (await store.head(key)).position if len(late) % 2 else None
        late.append(asyncio.create_task(follow(after)))
        await asyncio.sleep(0)
        if len(late) == 10:
            await appending
    await appending
    await store.append(key, [], end="completed")
    whole, _ = await read_all(store, key)
    for each in await asyncio.gather(*early):
        assert each == whole
    for each in await asyncio.gather(*late):
        assert each == whole[len(whole) - len(each) :]


async def test_a_follower_that_rests_catches_up(store, key):
    big = b'"' + b"x" * 100_000 + b'"'
    async with aclosing(store.follow(key)) as pages:
        await store.append(key, [b"0"])
        await take(pages, 1)
        for _ in range(60):  # 6 MB: more than anything holds for a follower
            await store.append(key, [big])
        records = await take(pages, 60)
        assert [record.offset for record in records] == list(range(1, 61))
        await store.append(key, [b"1"])
        assert (await take(pages, 1))[0].offset == 61


async def test_a_closed_follower_leaves_nothing_behind(store, key):
    iterators = [store.follow(key) for _ in range(5)]
    waiting = [asyncio.create_task(anext(pages)) for pages in iterators]
    await store.append(key, [b"1"])
    await asyncio.gather(*waiting)
    for pages in iterators:
        await pages.aclose()
    canceled = asyncio.create_task(anext(store.follow(key, (await store.head(key)).position)))
    await store.head(key)
    canceled.cancel()
    await asyncio.gather(canceled, return_exceptions=True)
    inner = getattr(store, "inner", store)
    if hasattr(inner, "_growth"):
        assert inner._growth._watches == {}
    elif isinstance(inner, RedisStore):
        assert inner._follows == {}
    else:
        assert inner._main._follows == {}


# Canceling a call.


async def test_a_canceled_append_happened_whole_or_not_at_all(store, key):
    calls = []
    for i in range(60):
        task = asyncio.create_task(store.append(key, [b"[%d,%d]" % (i, k) for k in range(3)]))
        calls.append(task)
        for _ in range(i % 4):
            await asyncio.sleep(0)
        if i % 2:
            task.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    last = await store.append(key, [b'"last"'])
    records, _ = await read_all(store, key)
    values = data_of(records)
    assert values.pop() == "last"
    assert last.offset == len(values)
    found = [values[start : start + 3] for start in range(0, len(values), 3)]
    assert all(group == [[group[0][0], k] for k in range(3)] for group in found)
    numbers = [group[0][0] for group in found]
    assert numbers == sorted(numbers)
    for i, outcome in enumerate(outcomes):
        if not isinstance(outcome, asyncio.CancelledError):
            assert values[outcome.offset] == [i, 0]


async def test_canceled_reads_and_follows_do_not_affect_others(store, key):
    await store.append(key, [b"1"])
    other = store.follow(key)
    await take(other, 1)
    for _ in range(20):
        tasks = [
            asyncio.create_task(store.read(key)),
            asyncio.create_task(store.head(key)),
            asyncio.create_task(anext(store.follow(key))),
        ]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await store.append(key, [b"2"])
    assert data_of(await take(other, 1)) == [2]
    await other.aclose()


# Closing.


async def test_close_is_idempotent_and_finishes_accepted_appends(tmp_path):
    store = SqliteStore(tmp_path / "test.db", durability="normal")
    await store.open()
    run = await store.create_run(new_run())
    key = StreamKey(run.id, "progress")
    calls = [asyncio.create_task(store.append(key, [b"%d" % i])) for i in range(100)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    assert [appended.offset for appended in await asyncio.gather(*calls)] == list(range(100))


# Anything, in any order, against a list.


async def test_follower_wakes_on_run_end_without_records(store, key):
    following = asyncio.create_task(follow_whole(store, key))
    await until(lambda: not following.done())
    await store.patch_run(key.run_id, {"status": "canceled"})
    assert await asyncio.wait_for(following, DEADLINE_S) == ([], "canceled")
