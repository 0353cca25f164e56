"""Sets of runs over a real server: who may follow them, what is left out, who begins anew."""

import json

import pytest

from gateway import tokens
from gateway.model.patches import fold_change
from gateway.model.records import StreamKey
from tests.support.gateways import SECRET, new_run, serving, token_for, worker_token


@pytest.fixture(params=["memory:", "sqlite:{folder}/sets.db?durability=normal"])
async def gateway(request, tmp_path):
    async with serving(request.param.format(folder=tmp_path)) as gateway:
        yield gateway


async def receive_changes(client, count):
    changes = []
    while len(changes) < count:
        frame = await client.receive()
        assert frame["type"] == "records", frame
        changes += [record["data"] for record in frame["records"]]
    return changes


def ids(frame):
    return [run["id"] for run in frame["runs"]]


async def follow(client, runs, id=1, **more):
    return await client.ask(type="subscribe", id=id, runs=runs, **more)


async def test_a_union_of_tags_gives_each_run_once_and_its_changes_by_version(gateway):
    store = gateway.store
    both = await store.create_run(new_run(tags=["x", "y"]))
    one = await store.create_run(new_run(tags=["y"]))
    await store.create_run(new_run(tags=["z"]))
    async with gateway.client(token=token_for("read:tags:x", "read:tags:y")) as client:
        answer = await follow(client, {"tags": ["x", "y", "x"]})
        assert ids(answer) == [one.id, both.id]
        await store.patch_run(both.id, {"status": "executing"})
        await store.patch_run(both.id, {"tags": ["y"]})
        await store.patch_run(both.id, {"status": "completed", "output": 1})
        changes = await receive_changes(client, 5)
    assert sorted(change["version"] for change in changes) == [1, 1, 2, 2, 3]
    run, version = both.to_wire(), 0
    for change in changes:
        if change["version"] > version:
            run, version = fold_change(run, change["patch"]), change["version"]
    assert (run["status"], run["tags"], run["output"], version) == ("completed", ["y"], 1, 3)


@pytest.mark.parametrize(
    ("scope", "runs", "may"),
    [
        ("read:tags:x", {"tag": "x"}, True),
        ("read:tags:*", {"tag": "x"}, True),
        ("read:runs:*", {"tag": "x"}, True),
        ("read:tags:xy", {"tag": "x"}, False),
        ("read:tags:x", {"tags": ["x", "y"]}, False),
        ("write:runs:*", {"tag": "x"}, False),
        ("read:batches:b_1", {"batch": "b_1"}, True),
        ("read:tags:b_1", {"batch": "b_1"}, False),
        ("read:runs:run_a", {"parent": "run_a"}, True),
        ("read:runs:run_b", {"parent": "run_a"}, False),
        ("read:streams:run_a/*", {"parent": "run_a"}, False),
    ],
)
async def test_a_set_may_be_followed_and_listed_with_its_own_scope(scope, runs, may):
    async with serving() as gateway, gateway.client(token=token_for(scope)) as client:
        await gateway.store.create_run(
            new_run(tags=["x", "y"], batch_id="b_1", parent_id="run_a", root_id="run_a")
        )
        answer = await follow(client, runs)
        assert answer["type"] == "subscribed" if may else answer["code"] == "forbidden"
        if may:
            assert len(answer["runs"]) == 1
        listed = await client.ask(type="runs_get", id=2, runs=runs)
        assert listed["type"] == "result" if may else listed["code"] == "forbidden"
        if "tags" not in runs:
            listed = await client.ask(type="run_list", id=3, **runs)
            assert len(listed["value"]) == 1 if may else listed["code"] == "forbidden"


async def test_run_list_paginates_by_before_and_requires_a_set(gateway):
    runs = [await gateway.store.create_run(new_run(tags=["x"])) for _ in range(5)]
    async with gateway.client(token=token_for("read:tags:x")) as client:
        answer = await client.ask(
            type="run_list", id=1, tag="x", before=runs[3].id, limit=2, status=["queued"]
        )
        assert [run["id"] for run in answer["value"]] == [runs[2].id, runs[1].id]
        for more in ({}, {"status": ["queued"]}, {"owner": "embedded"}, {"tag": "y"}):
            assert (await client.ask(type="run_list", id=2, **more))["code"] == "forbidden"


async def test_listing_children_does_not_permit_reading_their_streams(gateway):
    parent = await gateway.store.create_run(new_run())
    child = await gateway.store.create_run(new_run(parent_id=parent.id, root_id=parent.id))
    async with gateway.client(token=token_for(f"read:runs:{parent.id}")) as client:
        assert ids(await follow(client, {"parent": parent.id})) == [child.id]
        for stream in ("progress", "$run", "$streams"):
            answer = await client.ask(type="subscribe", id=2, run=child.id, stream=stream)
            assert answer["code"] == "forbidden"


@pytest.mark.parametrize(
    "runs",
    [
        {},
        {"tag": "x", "batch": "b"},
        {"tags": []},
        {"tag": ""},
        {"task": "t"},
        {"parent": "x"},
        "x",
    ],
)
async def test_invalid_set_is_refused(gateway, runs):
    async with gateway.client(token=worker_token()) as client:
        answer = await follow(client, runs)
        assert answer["type"] == "error"
        assert answer["code"] in ("malformed_frame", "invalid_id")
        assert answer["id"] == 1


async def test_run_and_runs_together_or_neither_are_refused(gateway):
    async with gateway.client(token=worker_token()) as client:
        for frame in ({}, {"run": "run_a", "runs": {"tag": "x"}}):
            answer = await client.ask(type="subscribe", id=1, **frame)
            assert (answer["code"], answer["id"]) == ("malformed_frame", 1)


async def test_a_token_that_leaves_fields_out_leaves_them_out_everywhere(gateway):
    store = gateway.store
    hidden = {"payload": {"secret": 1}, "output": {"secret": 2}}
    token = tokens.mint(
        ["read:runs:*", "write:runs:*"], skip=["payload", "output"], secret_key=SECRET
    )
    run = await store.create_run(new_run(tags=["x"], payload=hidden["payload"]))
    patch = {"status": "executing", "output": hidden["output"]}
    async with gateway.client(token=token) as client:
        seen = [await client.ask(type="subscribe", id=1, run=run.id)]
        seen.append(await client.ask(type="subscribe", id=2, run=run.id, stream="$run"))
        seen.append(await client.receive())
        seen.append(await follow(client, {"tag": "x"}, id=3))
        seen.append(await client.ask(type="subscribe", id=4, run="tag:x", stream="$runs"))
        seen.append(await client.receive())
        await store.patch_run(run.id, patch)
        seen += [await client.receive() for _ in range(4)]
        for id, request in enumerate(
            (
                {"type": "run_get", "run": run.id},
                {"type": "run_list"},
                {"type": "runs_get", "runs": {"tag": "x"}},
                {"type": "read", "run": run.id, "stream": "$run"},
                {"type": "read", "run": "tag:x", "stream": "$runs"},
                {"type": "run_patch", "run": run.id, "patch": {"metadata": {"a": 1}}},
                {"type": "run_create", "value": new_run(payload=hidden["payload"]).to_wire()},
            ),
            10,
        ):
            answer = await client.ask(id=id, **request)
            while answer["type"] == "records":  # of the patch
                seen.append(answer)
                answer = await client.receive()
            assert answer["type"] == "result", answer
            seen.append(answer)
    text = json.dumps(seen)
    assert "secret" not in text
    assert '"payload"' not in text and '"output"' not in text
    assert text.count('"executing"') > 8


async def test_a_stream_keeps_its_values_whatever_the_token_leaves_out(gateway):
    run = await gateway.store.create_run(new_run())
    await gateway.store.append(StreamKey(run.id, "s"), [b'{"payload":1}'])
    token = tokens.mint([f"read:runs:{run.id}"], skip=["payload"], secret_key=SECRET)
    async with gateway.client(token=token) as client:
        await client.ask(type="subscribe", id=1, run=run.id, stream="s")
        assert (await client.receive())["records"][0]["data"] == {"payload": 1}
        answer = await client.ask(type="read", id=2, run=run.id, stream="s")
        assert answer["value"]["records"][0]["data"] == {"payload": 1}


async def test_a_new_token_that_leaves_more_out_holds_from_then_on(gateway):
    run = await gateway.store.create_run(new_run(tags=["x"]))
    async with gateway.client(token=token_for("read:tags:x")) as client:
        await follow(client, {"tag": "x"})
        await gateway.store.patch_run(run.id, {"metadata": {"a": 1}})
        assert (await receive_changes(client, 1))[0]["patch"] == {"metadata": {"a": 1}}
        token = tokens.mint(["read:tags:x"], skip=["metadata"], secret_key=SECRET)
        assert (await client.ask(type="token", token=token))["type"] == "token_accepted"
        await gateway.store.patch_run(run.id, {"metadata": {"a": 2}})
        assert (await receive_changes(client, 1))[0]["patch"] == {}
        answer = await client.ask(type="token", token=token_for("read:tags:y"))
        assert answer["type"] == "token_accepted"
        assert (await client.receive())["code"] == "forbidden"


async def test_lagging_subscriber_gets_fresh_snapshot_after_trim(monkeypatch):
    monkeypatch.setattr("gateway.stores.reserved_logs.SET_RECORDS", 5)
    monkeypatch.setattr("gateway.fanout.tail.RING_BYTES", 1)
    async with serving() as gateway, gateway.client(token=token_for("read:tags:x")) as client:
        run = await gateway.store.create_run(new_run(tags=["x"]))
        await follow(client, {"tag": "x"}, throttle_ms=300)
        await gateway.store.patch_run(run.id, {"metadata": {"n": 0}})
        await receive_changes(client, 1)
        for n in range(1, 40):  # while the throttle's window is open
            await gateway.store.patch_run(run.id, {"metadata": {"n": n}})
        frame = await client.receive()
        assert (frame["type"], frame["id"], frame["reason"]) == ("reset", 1, "trimmed")
        assert [r["metadata"] for r in frame["runs"]] == [{"n": 39}]
        assert frame["has_more"] is False
        await gateway.store.patch_run(run.id, {"metadata": {"n": 40}})
        assert (await receive_changes(client, 1))[-1]["patch"] == {"metadata": {"n": 40}}


async def test_following_a_set_can_be_ended_and_leaves_nothing_behind(gateway):
    async with gateway.client(token=worker_token()) as client:
        await follow(client, {"tags": ["x", "y"]})
        assert gateway.hub.live_streams == 2
        assert (await client.ask(type="unsubscribe", id=1))["type"] == "unsubscribed"
        assert gateway.hub.live_streams == 0
        await gateway.store.create_run(new_run(tags=["x"]))
        assert await client.ask(type="ping") == {"type": "pong"}


@pytest.mark.parametrize("scope", ["read:tags:mine", "read:batches:batch_1"])
async def test_tag_or_batch_scope_permits_only_its_runs(gateway, scope):
    mine = await gateway.store.create_run(new_run(tags=["mine"], batch_id="batch_1"))
    other = await gateway.store.create_run(new_run(tags=["other"], batch_id="batch_2"))
    for run in (mine, other):
        await gateway.store.append(StreamKey(run.id, "s"), [b"1"])
    absent = new_run().id
    async with gateway.client(token=token_for(scope)) as client:
        answers = {}
        for run_id in (mine.id, other.id, absent):
            head = await client.ask(type="head", id=1, run=run_id, stream="s")
            read = await client.ask(type="read", id=2, run=run_id, stream="s", after=None)
            get = await client.ask(type="run_get", id=3, run=run_id)
            answers[run_id] = [head, read, get]
    head, read, get = answers[mine.id]
    assert head["value"]["end"] is None
    assert [record["data"] for record in read["value"]["records"]] == [1]
    assert get["value"]["run"]["id"] == mine.id
    for answer in (*answers[other.id], *answers[absent]):  # nor does it tell whether it is there
        assert (answer["type"], answer["code"]) == ("error", "forbidden")
