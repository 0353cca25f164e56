"""What `PathStore` promises of the logs of paths, held against every store that has them."""

import asyncio
from contextlib import aclosing

import pytest

from gateway.errors import InvalidId, OutOfOrder, StreamEnded, WriterFenced, WriterGap
from gateway.model.log import NO_RECORDS, run_log
from gateway.model.records import ORIGIN, StreamKey, Writer, path_config, path_data
from gateway.stores.base import CONFIG_RECORDS, PathStore
from tests.support.gateways import DEADLINE_S, new_run
from tests.support.records import data_of, read_all
from tests.support.stores import store_of

KEY = path_data("docs/a", "g1")


@pytest.fixture(params=["memory", "sqlite", "redis"])
async def store(request, tmp_path):
    async with store_of(request.param, tmp_path) as store:
        assert isinstance(store, PathStore)
        yield store


async def test_a_log_of_a_path_is_there_without_a_run_and_from_the_first_append(store):
    assert await store.head(KEY) == NO_RECORDS
    assert (await store.append(KEY, [b"1", b"2"])).offset == 0
    await store.append(KEY, [b"3"], end="completed")
    records, page = await read_all(store, KEY)
    assert (data_of(records), page.end) == ([1, 2, 3], "completed")
    with pytest.raises(StreamEnded):
        await store.append(KEY, [b"4"])


async def test_a_deleted_log_of_a_path_stays_ended_until_it_is_dropped(store):
    await store.append(KEY, [b"1"])
    await store.delete(KEY)
    assert (await store.read(KEY)).end == "deleted"
    with pytest.raises(StreamEnded):
        await store.append(KEY, [b"2"])
    await store.delete(path_data("docs/a", "never"))
    with pytest.raises(StreamEnded):
        await store.append(path_data("docs/a", "never"), [b"2"])


async def test_a_dropped_log_is_as_if_it_had_never_been(store):
    before = await store.append(KEY, [b"1"], writer=Writer("w", 3, 0), order="z")
    assert await store.drop(KEY, before.position)
    assert await store.head(KEY) == NO_RECORDS
    assert await store.list_path_logs(None, 9) == []
    after = await store.append(KEY, [b"2"], writer=Writer("w", 0, 0), order="a")
    assert (after.offset, after.duplicate) == (0, False)
    assert after.position.epoch != before.position.epoch
    assert data_of((await read_all(store, KEY))[0]) == [2]


async def test_whether_a_log_is_at_its_end_is_known_rightly_or_not_at_all(store):
    assert not store.is_known_tail(KEY, ORIGIN)
    known = set()
    for n in range(3):
        before = (await store.head(KEY)).position
        at = (await store.append(KEY, [b"%d" % n])).position
        assert not store.is_known_tail(KEY, before)
        assert (await store.read(KEY, at)).is_empty
        known.add(store.is_known_tail(KEY, at))
    assert len(known) == 1  # a store that can know does so as soon as somebody has looked
    await store.append(KEY, [], end="completed")
    assert not store.is_known_tail(KEY, at)
    await store.drop(KEY, at)
    assert not store.is_known_tail(KEY, at)


async def test_known_tail_of_recreated_log_is_the_new_tail(store):
    at = (await store.append(KEY, [b"1"])).position
    await store.read(KEY, at)
    assert await store.drop(KEY, at)
    assert not store.is_known_tail(KEY, at)
    again = (await store.append(KEY, [b"1"])).position
    assert not store.is_known_tail(KEY, at)
    await store.read(KEY, again)
    assert not store.is_known_tail(KEY, at)


async def test_a_log_that_has_grown_is_not_dropped(store):
    at = (await store.append(KEY, [b"1"])).position
    await store.append(KEY, [b"2"])
    assert not await store.drop(KEY, at)
    assert not await store.drop(path_data("docs/a", "never"), ORIGIN)
    assert data_of((await read_all(store, KEY))[0]) == [1, 2]


async def test_concurrent_drop_and_append_are_atomic(store):
    for _ in range(20):
        at = (await store.append(KEY, [b"1"])).position
        dropped, appended = await asyncio.gather(
            store.drop(KEY, at), store.append(KEY, [b"2"], writer=Writer("w", 0, 0))
        )
        values = data_of((await read_all(store, KEY))[0])
        assert values == ([2] if dropped else [1, 2])
        assert appended.offset == len(values) - 1
        assert await store.drop(KEY, (await store.head(KEY)).position)


async def test_follower_of_dropped_log_gets_reset_and_new_records(store):
    at = (await store.append(KEY, [b"1"])).position
    async with asyncio.timeout(DEADLINE_S), aclosing(store.follow(KEY, at)) as pages:
        async with asyncio.TaskGroup() as group:
            page = group.create_task(anext(pages))
            await asyncio.sleep(0)
            assert await store.drop(KEY, at)
        assert (page.result().reset, page.result().records) == ("epoch_changed", [])
        await store.append(KEY, [b"2"])
        assert data_of((await anext(pages)).records) == [2]


async def test_only_logs_of_paths_are_listed_and_dropped(store):
    run = await store.create_run(new_run(tags=["path:x"]))
    keys = sorted(
        [path_config("b"), KEY, path_data("a", "g"), path_config("a"), path_config("a/b")]
    )
    for key in keys:
        await store.append(key, [b"1"])
    assert await store.list_path_logs(None, 99) == keys
    assert await store.list_path_logs(None, 2) == keys[:2]
    assert await store.list_path_logs(keys[1], 2) == keys[2:4]
    assert await store.list_path_logs(keys[-1], 2) == []
    for key in (run_log(run.id), StreamKey("tag:path:x", "$runs")):
        with pytest.raises(InvalidId):
            await store.drop(key, (await store.head(key)).position)


async def test_a_configuration_keeps_its_newest_records_and_its_writer_is_a_compare_and_set(store):
    key = path_config("docs/a")
    for i in range(5 * CONFIG_RECORDS):
        writer = Writer("config", 0, i)
        results = await asyncio.gather(
            *(store.append(key, [b"%d" % i], writer=writer) for _ in range(2))
        )
        assert sorted(result.duplicate for result in results) == [False, True]
    head = await store.head(key)
    kept = head.position.offset - head.earliest.offset
    assert CONFIG_RECORDS <= kept <= 2 * CONFIG_RECORDS
    last = await store.read(key, head.position._replace(offset=head.position.offset - 1))
    assert data_of(last.records) == [5 * CONFIG_RECORDS - 1]


async def test_writer_error_carries_expected_sequence_and_epoch(store):
    await store.append(KEY, [b"1"], writer=Writer("w", 1, 0, "appends"))
    with pytest.raises(WriterGap) as gap:
        await store.append(KEY, [b"1"], writer=Writer("w", 1, 5, "appends"))
    assert (gap.value.expected, gap.value.is_new_epoch) == (1, False)
    with pytest.raises(WriterGap) as gap:
        await store.append(KEY, [b"1"], writer=Writer("w", 2, 5, "appends"))
    assert (gap.value.expected, gap.value.is_new_epoch) == (0, True)
    with pytest.raises(WriterFenced) as fenced:
        await store.append(KEY, [b"1"], writer=Writer("w", 0, 1, "appends"))
    assert fenced.value.epoch == 1


async def test_the_order_of_a_dropped_stream_is_forgotten_with_it(store):
    at = (await store.append(KEY, [b"1"], order="b")).position
    with pytest.raises(OutOfOrder):
        await store.append(KEY, [b"1"], order="a")
    await store.drop(KEY, at)
    await store.append(KEY, [b"1"], order="a")
