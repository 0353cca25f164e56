"""The contract of every store: writers, with their repeats, gaps and epochs."""

import asyncio

import pytest

from gateway.errors import (
    OutOfOrder,
    StreamEnded,
    WriterFenced,
    WriterGap,
)
from gateway.model.records import (
    StreamKey,
    Writer,
)
from tests.support.records import data_of, read_all


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


async def test_repeated_append_is_duplicate_after_stream_end(store, key):
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


async def test_partly_stored_append_writes_only_the_rest(store, key):
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


async def test_append_rejects_order_not_after_the_last(store, key):
    await store.append(key, [b"1"], order="2")
    for order in ("2", "10", "1"):
        with pytest.raises(OutOfOrder, match=f"'2'; '{order}' is not after it"):
            await store.append(key, [b"9"], order=order)
    await store.append(key, [b"2"])  # without one: it takes no part
    await store.append(key, [b"3"], order="2a")
    await store.append(StreamKey(key.run_id, "other"), [b"4"], order="1")
    assert data_of((await read_all(store, key))[0]) == [1, 2, 3]


async def test_repeated_append_is_duplicate_before_order_check(store, key):
    append = {"writer": Writer("w", 0, 0, "appends"), "order": "a"}
    await store.append(key, [b"1"], **append)
    assert (await store.append(key, [b"1"], **append)).duplicate


async def test_concurrent_appends_with_one_order_accept_one(store, key):
    results = await asyncio.gather(
        *(store.append(key, [b"%d" % i], order="a") for i in range(8)), return_exceptions=True
    )
    assert sum(isinstance(result, OutOfOrder) for result in results) == 7
    assert len((await read_all(store, key))[0]) == 1
