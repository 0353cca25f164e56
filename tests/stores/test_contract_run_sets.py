"""The contract of every store: run sets, and the list of streams of a run."""

import asyncio
from contextlib import aclosing

import pytest

from gateway.errors import (
    InvalidValue,
    WriterGap,
)
from gateway.model.log import Head, RunQuery, SetState
from gateway.model.patches import fold_change
from gateway.model.records import (
    ORIGIN,
    REVOCATIONS,
    RunSet,
    StreamKey,
    Writer,
)
from gateway.sdk.session import opened
from gateway.stores.base import SET_RECORDS
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import DEADLINE_S, new_run
from tests.support.records import data_of, read_all
from tests.support.store_contract import NOWHERE, follow_whole, take

# The streams of a run as they appear.


async def test_a_stream_that_appears_is_named_in_the_runs_streams(store, key):
    appearing = asyncio.create_task(follow_whole(store, StreamKey(key.run_id, "$streams")))
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
        assert await store.list_set_runs([runs], 10) == SetState([], False, (ORIGIN,))
        assert await store.head(runs.log) == Head(ORIGIN, ORIGIN, None)
        assert (await store.read(runs.log)).is_empty


async def test_set_lists_newest_runs_once_with_has_more(store):
    made = [await store.create_run(new_run(tags=["x"] + ["y"] * (i % 2))) for i in range(7)]
    newest = [run.id for run in reversed(made)]

    async def ids(limit, *tags):
        found = await store.list_set_runs([RunSet("tag", tag) for tag in tags], limit)
        return [run.id for run in found.runs], found.has_more

    assert await ids(10, "x") == (newest, False)
    assert await ids(7, "x") == (newest, False)
    assert await ids(6, "x") == (newest[:6], True)
    assert await ids(10, "y") == (newest[1::2], False)
    assert await ids(4, "y", "x", "z") == (newest[:4], True)
    assert (await store.list_set_runs([RunSet("tag", "x")], 10)).runs == list(reversed(made))


async def test_every_change_of_a_run_is_in_the_log_of_each_of_its_sets(store):
    parent = await store.create_run(new_run())
    family = {"parent_id": parent.id, "root_id": parent.id}
    sets = [RunSet("tag", "x"), RunSet("tag", "y"), RunSet("batch", "b_1")]
    sets.append(RunSet("parent", parent.id))
    before = [(await store.list_set_runs([each], 10)).positions[0] for each in sets]
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


async def test_run_enters_set_whole_and_leaves_with_its_patch(store):
    run = await store.create_run(new_run(tags=["old", "kept"]))
    after = await store.patch_run(run.id, {"tags": ["kept", "new"]})
    patched = {"id": run.id, "version": 1, "patch": {"tags": ["kept", "new"]}}
    entered = {"id": run.id, "version": 1, "run": after.to_wire()}
    for tag, last in (("old", patched), ("kept", patched), ("new", entered)):
        records, _ = await read_all(store, RunSet("tag", tag).log)
        assert data_of(records)[-1] == last
    assert [r.id for r in (await store.list_set_runs([RunSet("tag", "old")], 9)).runs] == []
    await store.patch_run(run.id, {"tags": []})
    await store.patch_run(run.id, {"status": "executing"})
    records, _ = await read_all(store, RunSet("tag", "new").log)
    assert data_of(records)[-1] == {"id": run.id, "version": 2, "patch": {"tags": []}}


async def test_set_snapshot_plus_changes_is_exactly_once(store):
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
        found = await store.list_set_runs([tagged], 100)
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


async def test_set_log_retains_newest_records_and_reports_earliest(store):
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
        before = await store.list_set_runs([RunSet("tag", "x")], 5)
    async with opened(SqliteStore(tmp_path / "test.db", durability="normal")) as store:
        assert await store.list_set_runs([RunSet("tag", "x")], 5) == before
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
