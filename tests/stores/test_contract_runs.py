"""The contract of every store: runs, metadata, and idempotency keys."""

import asyncio
import json

import pytest

from gateway import protocol
from gateway.errors import (
    IllegalTransition,
    InvalidValue,
    MetadataTooLarge,
    RunExists,
    RunNotFound,
    StreamEnded,
    WriterFenced,
    WriterGap,
)
from gateway.model.log import RunQuery, run_log
from gateway.model.patches import Operation, fold_change
from gateway.model.records import (
    ORIGIN,
    Position,
    StreamKey,
    Writer,
)
from gateway.model.runs import FINAL_STATUSES, STATUSES, TRANSITIONS, Run
from gateway.stores.remote.store import RemoteStore
from tests.support.gateways import DEADLINE_S, new_run
from tests.support.records import data_of, read_all
from tests.support.store_contract import NOWHERE, follow_whole

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
async def test_status_transitions_follow_the_table(store, before):
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
    following = asyncio.create_task(follow_whole(store, run_log(run.id)))
    await store.patch_run(run.id, {"status": "executing"})
    await store.patch_run(run.id, {"status": "failed", "error": {"type": "E", "message": "m"}})
    records, end = await asyncio.wait_for(following, DEADLINE_S)
    assert end == "failed"
    assert data_of(records)[1:] == [
        {"status": "executing"},
        {"status": "failed", "error": {"type": "E", "message": "m"}},
    ]


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


async def test_invalid_run_is_rejected_without_affecting_appends(store, key):
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


async def test_invalid_patch_is_rejected_without_affecting_appends(store, key):
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


def increment(key, by=1):
    return Operation("increment", key, by)


# Operations on metadata.


async def test_operations_are_folded_into_one_logged_patch(store):
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


async def test_twenty_concurrent_writers_increment_to_the_exact_sum(store):
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


async def test_idempotency_key_makes_one_run_under_concurrency(store):
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


# Tokens that are good for a number of uses.


async def test_token_uses_are_consumed_up_to_the_limit(store):
    taken = await asyncio.gather(*(store.consume_token_use("token", 3, 2**50) for _ in range(10)))
    assert sum(taken) == 3
    assert await store.consume_token_use("another", 1, 2**50) is True


async def test_a_token_is_forgotten_once_it_has_expired(store):
    assert await store.consume_token_use("token", 1, 1) is True
    assert (
        await store.consume_token_use("token", 1, 2**50) is True
    )  # the first one's record is gone
    assert await store.consume_token_use("token", 1, 2**50) is False
