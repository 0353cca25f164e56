"""The contract of every store: records, positions, and the end of a stream."""

import asyncio
from contextlib import aclosing

import pytest

from gateway.errors import (
    IllegalTransition,
    StoreUnavailable,
    StreamEnded,
    WriterGap,
)
from gateway.model.log import Head
from gateway.model.records import (
    ORIGIN,
    Position,
    StreamKey,
    Writer,
    source_of,
)
from tests.support.gateways import DEADLINE_S, new_run, until
from tests.support.records import data_of, read_all
from tests.support.store_contract import take

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


async def test_batch_is_contiguous_under_concurrent_appends(store, key):
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


async def test_begun_appends_complete_in_order_with_own_results(store, key):
    outcomes = await begun(store, key, [([b"%d" % i], {}) for i in range(200)])
    assert [done.offset for done in outcomes] == list(range(200))
    assert len({done.position for done in outcomes}) == 200
    assert data_of((await read_all(store, key))[0]) == list(range(200))


async def test_rejected_begun_append_does_not_affect_others(store, key):
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


async def test_begin_append_on_closed_store_fails(store, key):
    await store.close()
    (refused,) = await begun(store, key, [([b"1"], {})])
    assert isinstance(refused, StoreUnavailable)


async def test_on_page_callback_gets_each_record_once_in_order(store, key):
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


async def test_fifty_concurrent_writers_append_exactly_once(store, key):
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


async def test_record_larger_than_a_page_is_returned(store, key):
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
async def test_follow_from_void_position_resets_to_beginning(store, key, epoch, offset, reason):
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


async def test_end_without_records(store, key):
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


async def test_delete_is_idempotent_and_works_after_end(store, key):
    await store.append(key, [b"1"], end="completed")
    await store.delete(key)
    await store.delete(key)
    assert (await store.head(key)).end == "deleted"


async def test_a_stream_that_is_not_there_can_be_deleted(store, key):
    await store.delete(key)
    assert (await store.head(key)).end == "deleted"
    with pytest.raises(StreamEnded):
        await store.append(key, [b"1"])


async def test_follower_is_notified_of_deletion(store, key):
    await store.append(key, [b"1", b"2"])
    async with aclosing(store.follow(key)) as pages:
        await take(pages, 2)
        await asyncio.gather(store.append(key, [b"3"]), store.delete(key))
        ends = [page.end async for page in pages]
    assert ends[-1] == "deleted"


async def test_late_follower_is_notified_of_deletion(store, key):
    await store.append(key, [b"1", b"2"])
    await store.delete(key)
    async with asyncio.timeout(DEADLINE_S):
        pages = [page async for page in store.follow(key)]
    assert [page.end for page in pages] == ["deleted"]
