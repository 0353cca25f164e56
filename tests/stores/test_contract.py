"""What the docstrings of `gateway.stores.base` promise, held against every store."""

import asyncio
import json
from contextlib import aclosing

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import protocol
from gateway.errors import (
    IllegalTransition,
    InvalidValue,
    MetadataTooLarge,
    OutOfOrder,
    RunExists,
    RunNotFound,
    StoreUnavailable,
    StreamEnded,
    WriterFenced,
    WriterGap,
)
from gateway.model.log import Head, RunQuery, SetState, run_log
from gateway.model.patches import Operation, fold_change
from gateway.model.records import (
    ORIGIN,
    REVOCATIONS,
    Position,
    RunSet,
    StreamKey,
    Writer,
    source_of,
)
from gateway.model.runs import FINAL_STATUSES, STATUSES, TRANSITIONS, Run
from gateway.sdk.session import opened
from gateway.stores.base import SET_RECORDS
from gateway.stores.redis.store import RedisStore
from gateway.stores.remote.store import RemoteStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import DEADLINE_S, new_run, until
from tests.support.records import data_of, read_all
from tests.support.stores import store_of

NOWHERE = "run_nowhere"


@pytest.fixture(params=["memory", "counted", "sqlite", "redis", "remote"])
async def store(request, tmp_path):
    async with store_of(request.param, tmp_path) as store:
        yield store


@pytest.fixture
async def key(store):
    run = await store.create_run(new_run())
    return StreamKey(run.id, "progress")


async def take(pages, count):
    """Take pages until so many records have come."""
    records = []
    async with asyncio.timeout(DEADLINE_S):
        while len(records) < count:
            records += (await anext(pages)).records
    return records


# Appending and reading.


async def test_records_come_back_in_order_with_dense_offsets(store, key):
    for i in range(20):
        appended = await store.append(key, [b"%d" % (2 * i), b"%d" % (2 * i + 1)])
        assert appended.offset == 2 * i
        assert appended.position.offset == 2 * i + 2
        assert not appended.duplicate
    records, page = await read_all(store, key)
    assert [record.offset for record in records] == list(range(40))
    assert data_of(records) == list(range(40))
    assert page.position == appended.position
    assert page.is_empty


async def test_records_carry_their_source_and_a_time_that_does_not_run_backwards(store, key):
    other = await store.create_run(new_run())
    await store.append(key, [b"1"], source=key.run_id)
    await store.append(key, [b"2"], source=other.id)
    await store.append(key, [b"3"])
    records, _ = await read_all(store, key)
    assert [record.source for record in records] == [key.run_id, other.id, None]
    times = [record.time_ms for record in records]
    assert times == sorted(times)
    assert times[0] > 1_600_000_000_000


async def test_a_change_by_an_attempt_that_is_over_is_refused_and_leaves_no_trace(store, key):
    await store.patch_run(key.run_id, {"status": "executing"})
    await store.patch_run(key.run_id, {"attempt": 2, "status": "queued"})
    await store.patch_run(key.run_id, {"attempt": 2, "status": "executing"})
    before = await store.get_run(key.run_id)
    for late in ({"status": "completed"}, {"attempt": 1, "status": "delayed"}, {}):
        with pytest.raises(IllegalTransition):
            await store.patch_run(key.run_id, {"attempt": 1, **late})
    with pytest.raises(IllegalTransition):
        operations = [{"op": "set", "key": "a", "value": 1}]
        await store.patch_run(key.run_id, {"attempt": 1}, operations=operations)
    assert await store.get_run(key.run_id) == before
    ended = await store.patch_run(key.run_id, {"attempt": 2, "status": "completed"})
    assert (ended.status, ended.attempt) == ("completed", 2)


async def test_records_carry_the_attempt_of_the_run_that_wrote_them(store, key):
    other = await store.create_run(new_run())
    writers = [(key.run_id, 1), (key.run_id, 2), (other.id, 1), (other.id, 1000), (key.run_id, 3)]
    for number, (run_id, attempt) in enumerate(writers):
        await store.append(key, [b"%d" % number], source=source_of(run_id, attempt))
    records, _ = await read_all(store, key)
    assert [record.written_by for record in records] == writers
    assert [record.source for record in records if record.written_by[1] == 1] == [
        key.run_id,
        other.id,
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"null",
        b'""',
        b"[]",
        b"{}",
        b"1E+300",
        b"123456789012345678901234567890",
        b"0.10000000000000000000000001",
        b'{ "spaced" :  [ 1 , 2 ] }',
        b'{"a":1,"a":2}',
        '"grüße 日本語 🎉 \u2028"'.encode(),
        b'"\\ud83c\\udf89 \\u0000 \\/ \\n"',
        b'"' + b"x" * 300_000 + b'"',
        b'{"type":"end","id":1}',
        b'"]}"',
    ],
)
async def test_the_bytes_of_a_record_are_kept_as_they_are(store, key, data):
    await store.append(key, [data])
    ((record,), _) = await read_all(store, key)
    assert record.data == data
    async with aclosing(store.follow(key)) as pages:
        (followed,) = await take(pages, 1)
    assert followed.data == data


async def test_a_batch_is_one_unit_whoever_appends_beside_it(store, key):
    async def append(who):
        for i in range(10):
            await store.append(key, [b'["%s",%d,%d]' % (who, i, k) for k in range(5)])

    await asyncio.gather(*(append(b"w%d" % n) for n in range(10)))
    records, _ = await read_all(store, key)
    values = data_of(records)
    assert len(values) == 500
    for start in range(0, 500, 5):
        who, i, _ = values[start]
        assert values[start : start + 5] == [[who, i, k] for k in range(5)]


async def test_appends_of_one_caller_keep_their_order_without_awaiting(store, key):
    await asyncio.gather(*(store.append(key, [b"%d" % i]) for i in range(200)))
    records, _ = await read_all(store, key)
    assert data_of(records) == list(range(200))


async def begun(store, key, appends):
    """Begin appends; return what each came to."""
    outcomes: list[tuple[int, object]] = []
    for n, (records, options) in enumerate(appends):
        store.begin_append(key, records, lambda done, n=n: outcomes.append((n, done)), **options)
    await until(lambda: len(outcomes) == len(appends))
    assert [n for n, _ in outcomes] == list(range(len(appends)))
    return [outcome for _, outcome in outcomes]


async def test_appends_that_are_begun_are_done_in_order_and_told_each(store, key):
    outcomes = await begun(store, key, [([b"%d" % i], {}) for i in range(200)])
    assert [done.offset for done in outcomes] == list(range(200))
    assert len({done.position for done in outcomes}) == 200
    assert data_of((await read_all(store, key))[0]) == list(range(200))


async def test_one_that_is_begun_and_refused_costs_the_others_nothing(store, key):
    first, gap, again, other, end, late = await begun(
        store,
        key,
        [
            ([b"1"], {"writer": Writer("w", 0, 0)}),
            ([b"2"], {"writer": Writer("w", 0, 7)}),
            ([b"1"], {"writer": Writer("w", 0, 0)}),
            ([b"3"], {"source": key.run_id}),
            ([], {"end": "completed"}),
            ([b"4"], {}),
        ],
    )
    assert (first.offset, first.duplicate) == (0, False)
    assert isinstance(gap, WriterGap)
    assert (again.offset, again.duplicate) == (0, True)
    assert other.offset == 1
    assert end.position == other.position
    assert isinstance(late, StreamEnded)
    records, page = await read_all(store, key)
    assert (data_of(records), page.end) == ([1, 3], "completed")
    assert [record.source for record in records] == [None, key.run_id]


async def test_one_that_is_begun_on_a_closed_store_is_told_so(store, key):
    await store.close()
    (refused,) = await begun(store, key, [([b"1"], {})])
    assert isinstance(refused, StoreUnavailable)


async def test_who_can_be_handed_pages_gets_each_record_once_and_in_order(store, key):
    seen: list[int] = []

    def take(page):
        seen.extend(data_of(page.records))

    async def follow():
        async with aclosing(store.follow(key, None, take)) as pages:
            async for page in pages:
                take(page)

    await store.append(key, [b"0", b"1"])
    following = asyncio.create_task(follow())
    await until(lambda: seen)
    for i in range(2, 100):
        store.begin_append(key, [b"%d" % i], lambda _: None)
        if i % 7 == 0:
            await asyncio.sleep(0)
    await until(lambda: len(seen) >= 100)
    await store.append(key, [b"100"], end="completed")
    await following
    assert seen == list(range(101))


async def test_fifty_appenders_at_once_lose_and_repeat_nothing(store, key):
    async def append(n):
        return [(await store.append(key, [b"[%d,%d]" % (n, i)])).offset for i in range(10)]

    offsets = await asyncio.gather(*(append(n) for n in range(50)))
    assert sorted(offset for each in offsets for offset in each) == list(range(500))
    records, _ = await read_all(store, key)
    values = data_of(records)
    for n, mine in enumerate(offsets):
        assert mine == sorted(mine)
        assert [values[offset] for offset in mine] == [[n, i] for i in range(10)]


async def test_streams_of_a_run_are_apart(store, key):
    other = StreamKey(key.run_id, "other")
    await store.append(key, [b"1"])
    await store.append(other, [b"2"])
    assert data_of((await read_all(store, key))[0]) == [1]
    assert data_of((await read_all(store, other))[0]) == [2]


async def test_pages_stay_about_as_large_as_asked_and_join(store, key):
    values = [b'"' + b"%03d" % i + b"x" * (i % 7 * 100) + b'"' for i in range(100)]
    for start in range(0, 100, 10):
        await store.append(key, values[start : start + 10])
    after, seen = None, []
    while (page := await store.read(key, after, 1000)).records:
        assert len(page.records) == 1 or sum(len(r.data) for r in page.records) <= 1000
        seen += [record.data for record in page.records]
        after = page.position
    assert seen == values


async def test_a_record_larger_than_the_page_still_comes(store, key):
    await store.append(key, [b'"' + b"x" * 5000 + b'"', b"2"])
    page = await store.read(key, None, 10)
    assert [record.offset for record in page.records] == [0]
    assert (await store.read(key, page.position, 10)).records[0].data == b"2"


async def test_reading_on_from_any_position_gives_the_rest(store, key):
    for i in range(30):
        await store.append(key, [b"%d" % i])
    epoch = (await store.head(key)).position.epoch
    for offset in range(31):
        records, _ = await read_all(store, key, Position(epoch, offset))
        assert data_of(records) == list(range(offset, 30))


async def test_a_stream_that_nothing_was_appended_to_is_empty_and_open(store, key):
    assert await store.head(key) == Head(ORIGIN, ORIGIN, None)
    page = await store.read(key)
    assert page.is_empty
    assert page.position == ORIGIN


async def test_the_head_is_where_the_stream_ends_and_begins(store, key):
    appended = await store.append(key, [b"1", b"2"])
    head = await store.head(key)
    assert head == Head(appended.position, Position(appended.position.epoch, 0), None)
    assert head.position.offset == 2


async def test_positions_of_a_stream_sort_as_strings(store, key):
    positions = [ORIGIN]
    for _ in range(12):
        positions.append((await store.append(key, [b"1"])).position)
    assert sorted(str(position) for position in positions) == [str(p) for p in positions]


async def test_two_streams_have_different_epochs(store, key):
    first = (await store.append(key, [b"1"])).position
    second = (await store.append(StreamKey(key.run_id, "other"), [b"1"])).position
    assert first.epoch != second.epoch


# Positions that say nothing.


async def test_a_position_of_another_epoch_is_void_and_reading_starts_over(store, key):
    await store.append(key, [b"1", b"2"])
    page = await store.read(key, Position("0123456789abcdef", 1))
    assert page.reset == "epoch_changed"
    assert data_of(page.records) == [1, 2]


async def test_a_position_in_a_stream_that_is_not_there_is_void(store, key):
    page = await store.read(key, Position("0123456789abcdef", 1))
    assert (page.reset, page.records, page.position) == ("epoch_changed", [], ORIGIN)


async def test_a_position_beyond_the_tail_is_void_and_reading_starts_over(store, key):
    epoch = (await store.append(key, [b"1", b"2"])).position.epoch
    page = await store.read(key, Position(epoch, 3))
    assert page.reset == "tail_lost"
    assert data_of(page.records) == [1, 2]


async def test_nothing_seen_fits_every_epoch(store, key):
    await store.append(key, [b"1"])
    for position in (ORIGIN, Position("0123456789abcdef", 0)):
        page = await store.read(key, position)
        assert page.reset is None
        assert data_of(page.records) == [1]


@pytest.mark.parametrize(
    ("epoch", "offset", "reason"),
    [("0123456789abcdef", 1, "epoch_changed"), (None, 7, "tail_lost")],
)
async def test_a_follower_at_a_void_position_is_told_and_starts_over(
    store, key, epoch, offset, reason
):
    own = (await store.append(key, [b"1", b"2"])).position.epoch
    async with aclosing(store.follow(key, Position(epoch or own, offset))) as pages:
        page = await anext(pages)
        assert page.reset == reason
        records = page.records or await take(pages, 2)
        assert data_of(records) == [1, 2]
        await store.append(key, [b"3"])
        assert data_of(await take(pages, 1)) == [3]


# The end.


@pytest.mark.parametrize("reason", ["completed", "failed", "canceled"])
async def test_a_stream_ends_with_its_reason(store, key, reason):
    await store.append(key, [b"1"])
    appended = await store.append(key, [b"2"], end=reason)
    assert appended.offset == 1
    page = await store.read(key)
    assert (data_of(page.records), page.end) == ([1, 2], reason)
    assert (await store.head(key)).end == reason


async def test_the_end_may_come_without_records(store, key):
    await store.append(key, [b"1"])
    appended = await store.append(key, [], end="completed")
    assert appended.offset is None
    assert appended.position.offset == 1
    assert (await store.head(key)).end == "completed"


async def test_a_page_speaks_of_the_end_only_when_nothing_follows(store, key):
    await store.append(key, [b"1", b"2"], end="completed")
    first = await store.read(key, None, 1)
    assert (data_of(first.records), first.end) == ([1], None)
    second = await store.read(key, first.position, 1)
    assert (data_of(second.records), second.end) == ([2], "completed")
    third = await store.read(key, second.position, 1)
    assert (third.records, third.end, third.is_empty) == ([], "completed", False)


async def test_nothing_can_be_appended_after_the_end(store, key):
    await store.append(key, [b"1"], end="completed")
    for end in (None, "failed"):
        with pytest.raises(StreamEnded, match="completed"):
            await store.append(key, [b"2"], end=end)
    assert data_of((await read_all(store, key))[0]) == [1]
    assert (await store.head(key)).end == "completed"


async def test_the_end_of_one_stream_leaves_the_others_open(store, key):
    await store.append(key, [b"1"], end="completed")
    await store.append(StreamKey(key.run_id, "other"), [b"1"])
    assert not (await store.get_run(key.run_id)).run.is_finished


# Deleting.


async def test_deleting_removes_the_records_and_ends_the_stream(store, key):
    appended = await store.append(key, [b"1", b"2", b"3"])
    await store.delete(key)
    for after in (
        None,
        ORIGIN,
        Position(appended.position.epoch, 1),
        appended.position,
    ):
        page = await store.read(key, after)
        assert (page.records, page.end, page.gap, page.reset) == ([], "deleted", None, None)
    with pytest.raises(StreamEnded, match="deleted"):
        await store.append(key, [b"4"])


async def test_deleting_twice_and_deleting_what_has_ended_is_harmless(store, key):
    await store.append(key, [b"1"], end="completed")
    await store.delete(key)
    await store.delete(key)
    assert (await store.head(key)).end == "deleted"


async def test_a_stream_that_is_not_there_can_be_deleted(store, key):
    await store.delete(key)
    assert (await store.head(key)).end == "deleted"
    with pytest.raises(StreamEnded):
        await store.append(key, [b"1"])


async def test_a_follower_hears_of_a_deletion(store, key):
    await store.append(key, [b"1", b"2"])
    async with aclosing(store.follow(key)) as pages:
        await take(pages, 2)
        await asyncio.gather(store.append(key, [b"3"]), store.delete(key))
        ends = [page.end async for page in pages]
    assert ends[-1] == "deleted"


async def test_a_late_follower_hears_of_a_deletion(store, key):
    await store.append(key, [b"1", b"2"])
    await store.delete(key)
    async with asyncio.timeout(DEADLINE_S):
        pages = [page async for page in store.follow(key)]
    assert [page.end for page in pages] == ["deleted"]


# Following.


async def test_a_follower_gets_what_is_there_and_what_comes_until_the_end(store, key):
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


async def test_a_follower_goes_on_from_its_position(store, key):
    first = await store.append(key, [b"1", b"2"])
    await store.append(key, [b"3"])
    async with aclosing(store.follow(key, first.position)) as pages:
        records = await take(pages, 1)
        assert [record.offset for record in records] == [2]


async def test_following_what_has_ended_stops_after_its_records(store, key):
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


# Writers.


async def test_a_repeat_writes_nothing_and_tells_the_same_offset(store, key):
    await store.append(key, [b'"before"'])
    first = await store.append(key, [b"1", b"2"], writer=Writer("w", 0, 0))
    again = await store.append(key, [b"1", b"2"], writer=Writer("w", 0, 0))
    assert (first.offset, first.duplicate) == (1, False)
    assert (again.offset, again.duplicate) == (1, True)
    assert again.position == first.position
    assert data_of((await read_all(store, key))[0]) == ["before", 1, 2]


async def test_a_repeat_of_an_older_append_writes_nothing_either(store, key):
    for i in range(3):
        await store.append(key, [b"%d" % i], writer=Writer("w", 0, i))
    again = await store.append(key, [b"0"], writer=Writer("w", 0, 0))
    assert again.duplicate
    assert again.offset in (0, None)
    assert len((await read_all(store, key))[0]) == 3


async def test_a_repeat_is_told_so_even_when_the_stream_has_ended(store, key):
    writer = Writer("w", 0, 0)
    await store.append(key, [b"1"], writer=writer, end="completed")
    again = await store.append(key, [b"1"], writer=writer, end="completed")
    assert (again.offset, again.duplicate) == (0, True)


async def test_a_repeated_end_without_records_is_harmless(store, key):
    await store.append(key, [b"1"], writer=Writer("w", 0, 0))
    await store.append(key, [], writer=Writer("w", 0, 1), end="completed")
    again = await store.append(key, [], writer=Writer("w", 0, 1), end="completed")
    assert (again.offset, again.duplicate) == (None, True)
    assert (await store.head(key)).end == "completed"


async def test_of_an_append_that_is_there_in_part_only_the_rest_is_written(store, key):
    await store.append(key, [b"1", b"2"], writer=Writer("w", 0, 0))
    await store.append(key, [b"2", b"3"], writer=Writer("w", 0, 1))
    assert data_of((await read_all(store, key))[0]) == [1, 2, 3]
    await store.append(key, [b"4"], writer=Writer("w", 0, 3))
    assert data_of((await read_all(store, key))[0]) == [1, 2, 3, 4]


async def test_a_sequence_ahead_of_the_writer_is_refused(store, key):
    with pytest.raises(WriterGap, match="0 is expected"):
        await store.append(key, [b"1"], writer=Writer("w", 0, 1))
    await store.append(key, [b"1"], writer=Writer("w", 0, 0))
    with pytest.raises(WriterGap, match="sequence 5; 1 is expected"):
        await store.append(key, [b"1"], writer=Writer("w", 0, 5))
    await store.append(key, [b"2"], writer=Writer("w", 0, 1))
    assert data_of((await read_all(store, key))[0]) == [1, 2]


async def test_a_newer_epoch_starts_at_zero_and_fences_the_older(store, key):
    await store.append(key, [b"1"], writer=Writer("w", 0, 0))
    with pytest.raises(WriterGap):
        await store.append(key, [b"2"], writer=Writer("w", 1, 1))
    taken_over = await store.append(key, [b"2"], writer=Writer("w", 1, 0))
    assert (taken_over.offset, taken_over.duplicate) == (1, False)
    with pytest.raises(WriterFenced, match="epoch 0; epoch 1 has taken over"):
        await store.append(key, [b"3"], writer=Writer("w", 0, 1))
    await store.append(key, [b"3"], writer=Writer("w", 1, 1))
    assert data_of((await read_all(store, key))[0]) == [1, 2, 3]


async def test_writers_count_apart_for_each_stream_and_each_id(store, key):
    other = StreamKey(key.run_id, "other")
    await store.append(key, [b"1"], writer=Writer("v", 0, 0))
    await store.append(key, [b"2"], writer=Writer("w", 0, 0))
    await store.append(other, [b"3"], writer=Writer("w", 0, 0))
    assert len((await read_all(store, key))[0]) == 2
    assert len((await read_all(store, other))[0]) == 1


async def test_equal_values_are_never_taken_for_repeats(store, key):
    for i in range(3):
        await store.append(key, [b'"a"'], writer=Writer("w", 0, i))
    assert data_of((await read_all(store, key))[0]) == ["a", "a", "a"]


async def test_a_writer_that_counts_appends_takes_one_number_for_each(store, key):
    first = await store.append(key, [b"1", b"2"], writer=Writer("w", 0, 0, "appends"))
    assert (first.offset, first.duplicate, first.next_sequence) == (0, False, 1)
    again = await store.append(key, [b"1", b"2"], writer=Writer("w", 0, 0, "appends"))
    assert (again.duplicate, again.next_sequence) == (True, 1)
    with pytest.raises(WriterGap, match="sequence 2; 1 is expected"):
        await store.append(key, [b"3"], writer=Writer("w", 0, 2, "appends"))
    await store.append(key, [b"3"], writer=Writer("w", 0, 1, "appends"))
    of_old = await store.append(key, [b'"other"'], writer=Writer("w", 0, 0, "appends"))
    assert (of_old.duplicate, of_old.next_sequence) == (True, 2)
    assert data_of((await read_all(store, key))[0]) == [1, 2, 3]


async def test_an_empty_end_takes_a_number_of_a_writer_that_counts_appends(store, key):
    await store.append(key, [b"1"], writer=Writer("w", 0, 0, "appends"))
    end = {"end": "completed", "writer": Writer("w", 0, 1, "appends")}
    assert (await store.append(key, [], **end)).next_sequence == 2
    repeat = await store.append(key, [], **end)
    assert (repeat.duplicate, repeat.next_sequence) == (True, 2)
    for writer in (Writer("w", 0, 2, "appends"), Writer("v", 0, 0, "appends"), None):
        with pytest.raises(StreamEnded):
            await store.append(key, [b"2"], writer=writer)


async def test_an_append_whose_order_is_not_after_the_last_is_refused(store, key):
    await store.append(key, [b"1"], order="2")
    for order in ("2", "10", "1"):
        with pytest.raises(OutOfOrder, match=f"'2'; '{order}' is not after it"):
            await store.append(key, [b"9"], order=order)
    await store.append(key, [b"2"])  # without one: it takes no part
    await store.append(key, [b"3"], order="2a")
    await store.append(StreamKey(key.run_id, "other"), [b"4"], order="1")
    assert data_of((await read_all(store, key))[0]) == [1, 2, 3]


async def test_a_repeat_is_told_before_its_order_is_looked_at(store, key):
    append = {"writer": Writer("w", 0, 0, "appends"), "order": "a"}
    await store.append(key, [b"1"], **append)
    assert (await store.append(key, [b"1"], **append)).duplicate


async def test_of_appends_with_one_order_at_once_one_is_taken(store, key):
    results = await asyncio.gather(
        *(store.append(key, [b"%d" % i], order="a") for i in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, OutOfOrder) for result in results) == 7
    assert len((await read_all(store, key))[0]) == 1


# Runs.


async def test_a_run_is_kept_as_it_was_made_and_its_log_begins_with_it(store):
    run = new_run(
        tags=["a", "b"],
        metadata={"deep": {"er": [1, None, "ü"]}},
        payload={"items": [1.5, "x", None]},
        batch_id="batch_1",
        owner="embedded",
    )
    assert await store.create_run(run) == run
    state = await store.get_run(run.id)
    assert state.run == run
    page = await store.read(run_log(run.id))
    assert data_of(page.records) == [run.to_wire()]
    assert state.position == page.position
    assert page.records[0].source == run.id


async def test_a_runs_id_can_be_taken_once(store):
    run = await store.create_run(new_run(payload=1))
    other = new_run(id=run.id, payload=2)
    with pytest.raises(RunExists, match=run.id):
        await store.create_run(other)
    assert (await store.get_run(run.id)).run == run


@pytest.mark.parametrize(("field", "value"), [("max_attempts", 1.5), ("retry_on_crash", 1)])
async def test_run_that_could_not_be_read_is_not_kept(store, field, value):
    run = new_run(**{field: value})
    with pytest.raises(InvalidValue, match=f"run {run.id}: {field} must be"):
        await store.create_run(run)
    kept = await store.create_run(new_run())
    assert await store.list_runs(RunQuery()) == [kept]


async def test_the_log_of_a_run_folds_to_its_snapshot(store):
    run = await store.create_run(new_run(metadata={"a": 1, "b": {"c": 2}}))
    for patch in (
        {"status": "executing", "started_at": "2026-11-22T12:56:14.130Z"},
        {"metadata": {"a": None, "b": {"d": [1]}}},
        {"tags": ["x"]},
        {"status": "completed", "output": {"n": 3}, "finished_at": "2026-11-22T12:56:15.130Z"},
    ):
        after = await store.patch_run(run.id, patch)
        state = await store.get_run(run.id)
        assert state.run == after
        records, _ = await read_all(store, run_log(run.id))
        assert len(records) == state.position.offset
        folded = None
        for record in records:
            folded = fold_change(folded, json.loads(record.data))
        assert {k: v for k, v in folded.items() if v is not None} == {
            k: v for k, v in after.to_wire().items() if v is not None
        }
    assert after.metadata == {"b": {"c": 2, "d": [1]}}
    assert (after.status, after.output, after.tags) == ("completed", {"n": 3}, ["x"])


PATHS = {
    "queued": [],
    "executing": ["executing"],
    "waiting": ["executing", "waiting"],
    "completed": ["executing", "completed"],
    "failed": ["executing", "failed"],
    "canceled": ["canceled"],
    "crashed": ["crashed"],
    "delayed": ["executing", "delayed"],
    "expired": ["expired"],
    "timed_out": ["executing", "timed_out"],
}


@pytest.mark.parametrize("before", STATUSES)
async def test_a_status_goes_only_where_the_table_says(store, before):
    for after in STATUSES:
        run = await store.create_run(new_run())
        for status in PATHS[before]:
            await store.patch_run(run.id, {"status": status})
        if after in TRANSITIONS[before] or (after == before and before not in FINAL_STATUSES):
            assert (await store.patch_run(run.id, {"status": after})).status == after
        else:
            with pytest.raises(IllegalTransition, match=before):
                await store.patch_run(run.id, {"status": after})
            assert (await store.get_run(run.id)).run.status == before


async def test_a_refused_patch_changes_nothing(store):
    run = await store.create_run(new_run())
    before = await store.get_run(run.id)
    for patch in ({"id": "run_other"}, {"nonsense": 1}, {"metadata": 3}, {"tags": "a"}):
        with pytest.raises(InvalidValue):
            await store.patch_run(run.id, patch)
    assert await store.get_run(run.id) == before


@pytest.mark.parametrize("status", sorted(FINAL_STATUSES))
async def test_the_end_of_a_run_ends_all_its_streams(store, status):
    run = await store.create_run(new_run())
    written, ended, absent = (StreamKey(run.id, id) for id in ("written", "ended", "absent"))
    await store.append(written, [b"1"])
    await store.append(ended, [b"1"], end="completed")
    followers = [asyncio.create_task(_ends(store, each)) for each in (written, absent)]
    for step in (*PATHS[status][:-1], status):
        await store.patch_run(run.id, {"status": step})
    for each, end in ((written, status), (absent, status), (ended, "completed")):
        assert (await store.head(each)).end == end
        assert (await store.read(each)).end == end
        with pytest.raises(StreamEnded):
            await store.append(each, [b"2"])
    assert (await store.head(run_log(run.id))).end == status
    assert await asyncio.wait_for(asyncio.gather(*followers), DEADLINE_S) == [status, status]


async def test_a_stream_that_was_never_written_ends_at_the_origin_and_no_other(store):
    run = await store.create_run(new_run())
    written, empty, absent = (StreamKey(run.id, id) for id in ("written", "empty", "absent"))
    await store.append(written, [b"1"])
    await store.append(empty, [], end="completed")
    following = asyncio.create_task(_follow_positions(store, absent))
    await store.patch_run(run.id, {"status": "executing"})
    await store.patch_run(run.id, {"status": "completed", "output": 1})
    for each in (written, empty, absent):
        found = {(await store.head(each)).position, (await store.read(each)).position}
        assert (found == {ORIGIN}) is (each == absent)
        assert (ORIGIN in found) is (each == absent)
    assert (await asyncio.wait_for(following, DEADLINE_S))[-1] == ORIGIN


async def _follow_positions(store, key):
    return [page.position async for page in store.follow(key)]


async def _ends(store, key):
    return [page.end async for page in store.follow(key)][-1]


async def test_the_follower_of_a_run_sees_the_last_patch_and_then_the_end(store):
    run = await store.create_run(new_run())
    following = asyncio.create_task(_follow_whole(store, run_log(run.id)))
    await store.patch_run(run.id, {"status": "executing"})
    await store.patch_run(run.id, {"status": "failed", "error": {"type": "E", "message": "m"}})
    records, end = await asyncio.wait_for(following, DEADLINE_S)
    assert end == "failed"
    assert data_of(records)[1:] == [
        {"status": "executing"},
        {"status": "failed", "error": {"type": "E", "message": "m"}},
    ]


async def _follow_whole(store, key, after=None):
    records, end = [], None
    async for page in store.follow(key, after):
        records += page.records
        end = page.end
    return records, end


async def test_runs_are_listed_newest_first_by_every_condition(store):
    parent = await store.create_run(new_run(owner="embedded"))
    a = await store.create_run(
        new_run(parent_id=parent.id, root_id=parent.id, batch_id="batch_1", tags=["x"], owner="w1")
    )
    b = await store.create_run(
        new_run(parent_id=parent.id, root_id=parent.id, batch_id="batch_1", tags=["x", "y"])
    )
    c = await store.create_run(new_run(tags=["y"], owner="w1"))
    await store.patch_run(b.id, {"status": "executing"})
    await store.patch_run(c.id, {"status": "canceled"})

    async def ids(**conditions):
        return [run.id for run in await store.list_runs(RunQuery(**conditions))]

    assert await ids() == [c.id, b.id, a.id, parent.id]
    assert await ids(status=("executing",)) == [b.id]
    assert await ids(status=("queued", "canceled")) == [c.id, a.id, parent.id]
    assert await ids(tag="x") == [b.id, a.id]
    assert await ids(tag="y") == [c.id, b.id]
    assert await ids(tag="z") == []
    assert await ids(parent_id=parent.id) == [b.id, a.id]
    assert await ids(batch_id="batch_1") == [b.id, a.id]
    assert await ids(owner="w1") == [c.id, a.id]
    assert await ids(owner="w1", tag="x") == [a.id]
    assert await ids(limit=2) == [c.id, b.id]
    assert await ids(limit=2, before=b.id) == [a.id, parent.id]
    assert await ids(before=parent.id) == []


async def test_a_run_is_found_by_the_tags_that_it_has_now(store):
    run = await store.create_run(new_run(tags=["old", "kept"]))
    await store.patch_run(run.id, {"tags": ["kept", "new"]})
    found = {
        tag: [found.id for found in await store.list_runs(RunQuery(tag=tag))]
        for tag in ("old", "kept", "new")
    }
    assert found == {"old": [], "kept": [run.id], "new": [run.id]}


async def test_what_belongs_to_no_run_is_not_found_by_any_method(store):
    key = StreamKey(NOWHERE, "progress")
    for call in (
        lambda: store.append(key, [b"1"]),
        lambda: store.append(key, [b"1"], writer=Writer("w", 0, 0)),
        lambda: store.append(key, [], end="completed"),
        lambda: store.read(key),
        lambda: store.read(key, Position("0123456789abcdef", 4)),
        lambda: store.head(key),
        lambda: store.delete(key),
        lambda: store.get_run(NOWHERE),
        lambda: store.patch_run(NOWHERE, {"status": "executing"}),
        lambda: anext(store.follow(key)),
        lambda: store.read(run_log(NOWHERE)),
        lambda: store.head(run_log(NOWHERE)),
    ):
        with pytest.raises(RunNotFound, match=NOWHERE):
            await asyncio.wait_for(call(), DEADLINE_S)
    # And nothing of it was left behind.
    with pytest.raises(RunNotFound):
        await store.get_run(NOWHERE)


async def test_what_a_run_may_not_be_is_refused_and_hurts_nobody(store, key):
    bad = [
        {"owner": None},
        {"owner": {}},
        {"status": "lost"},
        {"batch_id": 3},
        {"task": ["x"]},
        {"attempt": "first"},
        {"metadata": {"big": 2**70}},
        {"payload": 2**70},
        {"created_at": 5},
    ]
    refused = []
    for i, fields in enumerate(bad):
        wire = new_run().to_wire() | fields
        # A gateway has to take what any foreign client may send.
        create = _create_raw if isinstance(store, RemoteStore) else _create_wire
        outcome, appended = await asyncio.gather(
            create(store, wire), store.append(key, [b"%d" % i]), return_exceptions=True
        )
        refused.append(type(outcome))
        assert appended.offset == i
    assert refused == [InvalidValue] * len(bad)


async def _create_wire(store, wire):
    return await store.create_run(Run.from_wire(wire))


async def _create_raw(store, wire):
    return await store._value(protocol.RunCreate(next(store._ids), wire))


async def test_a_patch_that_is_no_json_is_refused_and_hurts_nobody(store, key):
    run = await store.create_run(new_run())
    deep = []
    for _ in range(300):
        deep = [deep]
    patches = [
        {"metadata": {"n": 2**70}},
        {"status": {}},
        {"status": ["queued"]},
        {"owner": 3},
        {"attempt": []},
        {"output": {"deep": deep}},
    ]
    for i, patch in enumerate(patches):
        outcome, appended = await asyncio.gather(
            store.patch_run(run.id, patch), store.append(key, [b"%d" % i]), return_exceptions=True
        )
        assert isinstance(outcome, InvalidValue | IllegalTransition), (patch, outcome)
        assert appended.offset == i
    assert (await store.get_run(run.id)).run == run


# Operations on metadata.


def increment(key, by=1):
    return Operation("increment", key, by)


async def test_operations_are_folded_and_the_log_holds_the_patch_they_come_to(store):
    run = await store.create_run(new_run(metadata={"n": 1, "o": {"a": 1}, "gone": 0}))
    after = await store.patch_run(
        run.id,
        {"metadata": {"patched": True}},
        operations=[
            increment("n", 2),
            Operation("set", "o", {"b": [None]}),
            Operation("delete", "gone"),
            Operation("append", "list", "x"),
            Operation("append", "list", {"y": None}),
            Operation("remove", "list", "x"),
        ],
    )
    expected = {"n": 3, "o": {"b": [None]}, "patched": True, "list": [{"y": None}]}
    assert after.metadata == expected
    assert (await store.get_run(run.id)).run == after
    records, _ = await read_all(store, run_log(run.id))
    first, patch = data_of(records)
    assert fold_change(first, patch)["metadata"] == expected
    assert set(patch) == {"metadata"}


async def test_twenty_that_increment_at_once_end_at_the_exact_sum(store):
    run = await store.create_run(new_run())

    async def work(n):
        for sequence in range(10):
            writer = Writer(f"w{n}", 0, sequence)
            await store.patch_run(run.id, {}, operations=[increment("n", n)], writer=writer)

    await asyncio.gather(*(work(n) for n in range(20)))
    assert (await store.get_run(run.id)).run.metadata == {"n": 10 * sum(range(20))}


async def test_a_repeated_operation_changes_nothing_even_after_the_end(store):
    run = await store.create_run(new_run())
    writer = Writer("w", 0, 0)
    for _ in range(3):
        after = await store.patch_run(run.id, {}, operations=[increment("n")], writer=writer)
        assert after.metadata == {"n": 1}
    await store.patch_run(run.id, {}, operations=[increment("n")], writer=Writer("w", 0, 1))
    assert (await store.patch_run(run.id, {}, operations=[increment("n")], writer=writer)).metadata
    await store.patch_run(run.id, {"status": "canceled"})
    again = await store.patch_run(run.id, {}, operations=[increment("n")], writer=Writer("w", 0, 1))
    assert (again.metadata, again.status) == ({"n": 2}, "canceled")
    with pytest.raises(IllegalTransition, match=r"has ended \(canceled\); its metadata stays"):
        await store.patch_run(run.id, {}, operations=[increment("n")], writer=Writer("w", 0, 2))


async def test_the_writer_of_changes_is_held_to_its_sequence_and_epoch(store):
    run = await store.create_run(new_run())
    for writer, refused in (
        (Writer("w", 0, 1), WriterGap),
        (Writer("w", 1, 0), None),
        (Writer("w", 0, 0), WriterFenced),
        (Writer("w", 1, 2), WriterGap),
        (Writer("w", 1, 1), None),
    ):
        if refused is None:
            await store.patch_run(run.id, {}, operations=[increment("n")], writer=writer)
        else:
            with pytest.raises(refused):
                await store.patch_run(run.id, {}, operations=[increment("n")], writer=writer)
    assert (await store.get_run(run.id)).run.metadata == {"n": 2}


@pytest.mark.parametrize(
    ("operation", "error", "message"),
    [
        (Operation("increment", "text"), InvalidValue, "'text' is 'x': it cannot be incremented"),
        (increment("n", "1"), InvalidValue, "'n' is 2: it cannot be incremented by '1'"),
        (increment("n", True), InvalidValue, "cannot be incremented"),
        (Operation("append", "text", 1), InvalidValue, "'text' is 'x': no list to append to"),
        (Operation("remove", "n", 1), InvalidValue, "'n' is 2: no list to remove from"),
        (Operation("set", "", 1), InvalidValue, "key '' is not allowed"),
        (Operation("set", "k" * 129, 1), InvalidValue, "1 to 128 characters"),
        (Operation("set", "big", "x" * (256 << 10)), MetadataTooLarge, "the limit is 262144"),
    ],
)
async def test_an_operation_that_does_not_fit_leaves_all_as_it_was(
    store, operation, error, message
):
    run = await store.create_run(new_run(metadata={"text": "x", "n": 1}))
    writer = Writer("w", 0, 0)
    with pytest.raises(error, match=message):
        await store.patch_run(run.id, {}, operations=[increment("n"), operation], writer=writer)
    assert (await store.get_run(run.id)).run == run
    # The number was not used up.
    after = await store.patch_run(run.id, {}, operations=[increment("n")], writer=writer)
    assert after.metadata == {"text": "x", "n": 2}


async def test_a_patch_may_not_make_metadata_too_large_either(store):
    run = await store.create_run(new_run())
    with pytest.raises(MetadataTooLarge):
        await store.patch_run(run.id, {"metadata": {"big": "x" * (256 << 10)}})
    assert (await store.get_run(run.id)).run == run


# Idempotency keys.


async def test_a_key_makes_one_run_however_many_ask_at_once(store):
    offered = [new_run(idempotency_key="k", payload=n) for n in range(20)]
    kept = await asyncio.gather(*(store.create_run(run) for run in offered))
    assert {run.id for run in kept} == {kept[0].id}
    assert len(await store.list_runs(RunQuery())) == 1
    await store.patch_run(kept[0].id, {"status": "canceled"})
    again = await store.create_run(new_run(idempotency_key="k"))
    assert (again.id, again.status) == (kept[0].id, "canceled")


async def test_a_key_counts_for_its_task_and_no_key_counts_for_none(store):
    runs = [
        await store.create_run(new_run(idempotency_key="k")),
        await store.create_run(new_run(idempotency_key="l")),
        await store.create_run(new_run(idempotency_key="k", task="other")),
        await store.create_run(new_run()),
        await store.create_run(new_run()),
    ]
    assert len({run.id for run in runs}) == 5


async def test_an_expired_key_makes_a_new_run(store):
    expired = "2020-01-01T00:00:00.000Z"
    first = await store.create_run(new_run(idempotency_key="k", idempotency_key_expires_at=expired))
    second = await store.create_run(
        new_run(idempotency_key="k", idempotency_key_expires_at="2120-01-01T00:00:00.000Z")
    )
    third = await store.create_run(new_run(idempotency_key="k"))
    assert first.id != second.id == third.id


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


async def test_a_canceled_reader_and_a_canceled_follower_disturb_nobody(store, key):
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


async def test_closing_twice_is_safe_and_finishes_what_was_accepted(tmp_path):
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

ops = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("write"), st.integers(1, 3), st.booleans()),
        st.tuples(st.just("read"), st.integers(0, 30), st.integers(1, 60)),
        st.tuples(st.just("follow"), st.integers(0, 30)),
        st.tuples(st.just("end"), st.sampled_from(["completed", "failed"])),
        st.tuples(st.just("delete")),
    ),
    max_size=25,
)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ops=ops)
def test_a_store_is_like_a_list(kind, ops, tmp_path_factory):
    asyncio.run(_like_a_list(kind, ops, tmp_path_factory.mktemp("store")))


async def _like_a_list(kind, ops, folder):
    async with store_of(kind, folder) as store:
        run = await store.create_run(new_run())
        key = StreamKey(run.id, "progress")
        model, end, epoch, sequence = [], None, "0" * 16, 0
        followers = []
        for op in ops:
            match op:
                case ("append", count):
                    values = [b"%d" % (len(model) + i) for i in range(count)]
                    if end is not None:
                        with pytest.raises(StreamEnded):
                            await store.append(key, values)
                        continue
                    appended = await store.append(key, values)
                    assert appended.offset == len(model)
                    epoch = appended.position.epoch
                    model += values
                case ("write", count, repeat):
                    values = [b'"w%d"' % (sequence + i) for i in range(count)]
                    writer = Writer("w", 0, sequence)
                    if end is not None:
                        with pytest.raises(StreamEnded):
                            await store.append(key, values, writer=writer)
                        continue
                    appended = await store.append(key, values, writer=writer)
                    if repeat:
                        again = await store.append(key, values, writer=writer)
                        assert (again.offset, again.duplicate) == (appended.offset, True)
                    epoch = appended.position.epoch
                    sequence += count
                    model += values
                case ("read", offset, max_bytes):
                    start = offset if offset <= len(model) else 0
                    page = await store.read(key, Position(epoch, offset), max_bytes)
                    expected_reset = offset > len(model) and offset > 0
                    if end == "deleted":
                        assert page.records == []
                        assert page.end == "deleted"
                        continue
                    assert bool(page.reset) == expected_reset
                    got = [record.data for record in page.records]
                    assert got == model[start : start + len(got)]
                    assert got or start == len(model)
                    at_tail = start + len(got) == len(model)
                    assert page.end == (end if at_tail else None)
                case ("follow", offset):
                    after = Position(epoch, min(offset, len(model)))
                    following = asyncio.create_task(_follow_whole(store, key, after))
                    followers.append((after.offset, following))
                case ("end", reason):
                    if end is None:
                        position = (await store.append(key, [], end=reason)).position
                        epoch, end = position.epoch, reason
                case ("delete",):
                    await store.delete(key)
                    end = "deleted"
        if end is None:
            await store.append(key, [], end="completed")
            end = "completed"
        for start, following in followers:
            records, seen_end = await asyncio.wait_for(following, DEADLINE_S)
            assert [record.offset for record in records] == list(range(start, start + len(records)))
            got = [record.data for record in records]
            assert got == model[start : start + len(got)]
            assert seen_end == "deleted" or start + len(got) == len(model)
            assert seen_end in (end, "completed", "failed")


async def test_a_follower_is_woken_by_the_end_of_the_run_alone(store, key):
    following = asyncio.create_task(_follow_whole(store, key))
    await until(lambda: not following.done())
    await store.patch_run(key.run_id, {"status": "canceled"})
    assert await asyncio.wait_for(following, DEADLINE_S) == ([], "canceled")


# Tokens that are good for a number of uses.


async def test_a_use_of_a_token_is_taken_as_often_as_there_are_and_no_more(store):
    taken = await asyncio.gather(*(store.spend("token", 3, 2**50) for _ in range(10)))
    assert sum(taken) == 3
    assert await store.spend("another", 1, 2**50) is True


async def test_a_token_is_forgotten_once_it_has_expired(store):
    assert await store.spend("token", 1, 1) is True
    assert await store.spend("token", 1, 2**50) is True  # the first one's record is gone
    assert await store.spend("token", 1, 2**50) is False


# The streams of a run as they appear.


async def test_a_stream_that_appears_is_named_in_the_runs_streams(store, key):
    appearing = asyncio.create_task(_follow_whole(store, StreamKey(key.run_id, "$streams")))
    other = StreamKey(key.run_id, "run")
    await store.append(key, [b"1"])
    await store.append(key, [b"2"])
    await store.append(other, [b"1"], source=None, writer=Writer("w", 0, 0))
    await store.append(other, [b"1"], source=None, writer=Writer("w", 0, 0))  # a repeat
    await store.append(StreamKey(key.run_id, "empty"), [], end="completed")
    await store.patch_run(key.run_id, {"status": "canceled"})
    records, end = await asyncio.wait_for(appearing, DEADLINE_S)
    assert data_of(records) == [{"stream": "progress"}, {"stream": "run"}, {"stream": "empty"}]
    assert [record.source for record in records] == [key.run_id] * 3
    assert end == "canceled"


async def test_a_refused_append_makes_no_stream_appear(store, key):
    await store.append(key, [b"1"])
    with pytest.raises(WriterGap):
        await store.append(StreamKey(key.run_id, "other"), [b"1"], writer=Writer("w", 0, 5))
    await store.read(StreamKey(key.run_id, "third"))
    records, _ = await read_all(store, StreamKey(key.run_id, "$streams"))
    assert data_of(records) == [{"stream": "progress"}]


# Sets of runs.


async def test_a_set_is_empty_and_open_before_its_first_run(store):
    for runs in (RunSet("tag", "x"), RunSet("batch", "b"), RunSet("parent", NOWHERE)):
        assert await store.get_set([runs], 10) == SetState([], False, (ORIGIN,))
        assert await store.head(runs.log) == Head(ORIGIN, ORIGIN, None)
        assert (await store.read(runs.log)).is_empty


async def test_a_set_gives_its_newest_runs_each_once_and_says_if_there_are_more(store):
    made = [await store.create_run(new_run(tags=["x"] + ["y"] * (i % 2))) for i in range(7)]
    newest = [run.id for run in reversed(made)]

    async def ids(limit, *tags):
        found = await store.get_set([RunSet("tag", tag) for tag in tags], limit)
        return [run.id for run in found.runs], found.has_more

    assert await ids(10, "x") == (newest, False)
    assert await ids(7, "x") == (newest, False)
    assert await ids(6, "x") == (newest[:6], True)
    assert await ids(10, "y") == (newest[1::2], False)
    assert await ids(4, "y", "x", "z") == (newest[:4], True)
    assert (await store.get_set([RunSet("tag", "x")], 10)).runs == list(reversed(made))


async def test_every_change_of_a_run_is_in_the_log_of_each_of_its_sets(store):
    parent = await store.create_run(new_run())
    family = {"parent_id": parent.id, "root_id": parent.id}
    sets = [RunSet("tag", "x"), RunSet("tag", "y"), RunSet("batch", "b_1")]
    sets.append(RunSet("parent", parent.id))
    before = [(await store.get_set([each], 10)).positions[0] for each in sets]
    run = await store.create_run(new_run(tags=["x", "y", "x"], batch_id="b_1", **family))
    await store.patch_run(run.id, {"status": "executing"})
    with pytest.raises(InvalidValue):
        await store.patch_run(run.id, {"nonsense": 1})
    await store.patch_run(run.id, {"status": "failed"})
    for each, position in zip(sets, before, strict=True):
        records, page = await read_all(store, each.log, position)
        assert page.end is None
        assert data_of(records) == [
            {"id": run.id, "version": 0, "run": run.to_wire()},
            {"id": run.id, "version": 1, "patch": {"status": "executing"}},
            {"id": run.id, "version": 2, "patch": {"status": "failed"}},
        ]


async def test_a_run_enters_a_set_whole_and_leaves_it_with_the_patch_that_says_so(store):
    run = await store.create_run(new_run(tags=["old", "kept"]))
    after = await store.patch_run(run.id, {"tags": ["kept", "new"]})
    patched = {"id": run.id, "version": 1, "patch": {"tags": ["kept", "new"]}}
    entered = {"id": run.id, "version": 1, "run": after.to_wire()}
    for tag, last in (("old", patched), ("kept", patched), ("new", entered)):
        records, _ = await read_all(store, RunSet("tag", tag).log)
        assert data_of(records)[-1] == last
    assert [r.id for r in (await store.get_set([RunSet("tag", "old")], 9)).runs] == []
    await store.patch_run(run.id, {"tags": []})
    await store.patch_run(run.id, {"status": "executing"})
    records, _ = await read_all(store, RunSet("tag", "new").log)
    assert data_of(records)[-1] == {"id": run.id, "version": 2, "patch": {"tags": []}}


async def test_a_snapshot_of_a_set_and_what_follows_its_position_miss_and_repeat_nothing(store):
    tagged = RunSet("tag", "x")

    async def change(n):
        run = await store.create_run(new_run(tags=["x"]))
        for step in range(10):
            await store.patch_run(run.id, {"metadata": {"step": step, "n": n}})

    def is_done(held):
        return len(held) == 8 and all(run["metadata"].get("step") == 9 for run in held.values())

    async def watch(delay):
        for _ in range(delay):
            await store.head(tagged.log)
        found = await store.get_set([tagged], 100)
        held = {run.id: run.to_wire() for run in found.runs}
        if is_done(held):
            return held
        async for page in store.follow(tagged.log, found.positions[0]):
            for change in data_of(page.records):
                if "run" in change:
                    assert change["id"] not in held
                    held[change["id"]] = change["run"]
                else:
                    held[change["id"]] = fold_change(held[change["id"]], change["patch"])
            if is_done(held):
                return held

    watching = [asyncio.create_task(watch(delay)) for delay in (0, 1, 3, 10, 30)]
    await asyncio.gather(*(change(n) for n in range(8)))
    expected = {run.id: run.metadata for run in await store.list_runs(RunQuery(tag="x", limit=9))}
    for held in await asyncio.wait_for(asyncio.gather(*watching), DEADLINE_S):
        assert {id: run["metadata"] for id, run in held.items()} == expected


async def test_the_log_of_a_set_keeps_its_newest_records_and_says_what_is_gone(store):
    run = await store.create_run(new_run(tags=["x"]))
    log = RunSet("tag", "x").log
    start = (await store.head(log)).position
    for lot in range(23):
        await asyncio.gather(
            *(store.patch_run(run.id, {"metadata": {"n": lot * 100 + i}}) for i in range(100))
        )
    head = await store.head(log)
    assert SET_RECORDS <= head.position.offset - head.earliest.offset <= 2 * SET_RECORDS + 100
    page = await store.read(log, start)
    assert (page.gap.start, page.gap.stop, page.gap.reason) == (start, head.earliest, "trimmed")
    records, _ = await read_all(store, log, start)
    assert [record.offset for record in records] == list(
        range(head.earliest.offset, head.position.offset)
    )
    assert data_of(records)[-1]["patch"] == {"metadata": {"n": 2299}}


async def test_runs_with_a_tag_and_its_log_survive_the_store_being_opened_again(tmp_path):
    run = new_run(tags=["x"])
    async with opened(SqliteStore(tmp_path / "test.db", durability="normal")) as store:
        await store.create_run(run)
        before = await store.get_set([RunSet("tag", "x")], 5)
    async with opened(SqliteStore(tmp_path / "test.db", durability="normal")) as store:
        assert await store.get_set([RunSet("tag", "x")], 5) == before
        await store.patch_run(run.id, {"status": "executing"})
        records, _ = await read_all(store, RunSet("tag", "x").log, before.positions[0])
        assert data_of(records) == [{"id": run.id, "version": 1, "patch": {"status": "executing"}}]


async def test_the_log_of_revoked_tokens_is_there_before_its_first_record_and_never_ends(store):
    assert await store.head(REVOCATIONS) == Head(ORIGIN, ORIGIN, None)
    assert (await store.read(REVOCATIONS)).is_empty
    async with aclosing(store.follow(REVOCATIONS)) as pages:
        following = asyncio.create_task(take(pages, 2))
        first = await store.append(REVOCATIONS, [b'{"token_id":"a"}'])
        second = await store.append(REVOCATIONS, [b'{"token_id":"b"}'])
        expected = [{"token_id": "a"}, {"token_id": "b"}]
        assert data_of(await following) == expected
    records, page = await read_all(store, REVOCATIONS)
    assert data_of(records) == expected
    assert (first.offset, second.offset) == (0, 1)
    assert (page.position, page.end) == (second.position, None)
    assert (await store.read(REVOCATIONS, first.position)).records == records[1:]
    assert (await store.head(REVOCATIONS)).position == second.position


async def test_the_log_of_revoked_tokens_survives_the_store_being_opened_again(tmp_path):
    async with opened(SqliteStore(tmp_path / "test.db")) as store:
        before = await store.append(REVOCATIONS, [b"{}"])
    async with opened(SqliteStore(tmp_path / "test.db")) as store:
        assert (await store.head(REVOCATIONS)).position == before.position
        assert (await store.append(REVOCATIONS, [b"{}"])).offset == 1
