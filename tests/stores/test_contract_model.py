"""Every store, compared with a list of records."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import (
    StreamEnded,
)
from gateway.model.records import (
    Position,
    StreamKey,
    Writer,
)
from tests.support.gateways import DEADLINE_S, new_run
from tests.support.store_contract import follow_whole
from tests.support.stores import store_of

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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
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
                    following = asyncio.create_task(follow_whole(store, key, after))
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
