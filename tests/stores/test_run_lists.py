"""Lists and sets of large runs: bounded in bytes and memory; `omitted` names missing fields."""

import asyncio
import sqlite3
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from gateway import runs, task
from gateway.model.limits import LEAST_LISTED_RUNS, LIST_BYTES, LISTED_FIELD_BYTES
from gateway.model.log import RunQuery
from gateway.model.records import RunSet
from gateway.model.runs import RunError
from gateway.sdk.execution.ownership import EMBEDDED_OWNER
from gateway.sdk.session import opened
from gateway.stores.base import all_runs
from gateway.stores.redis.topology import bucket_of
from gateway.stores.remote.store import RemoteStore
from gateway.stores.sqlite import queries
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import (
    DEADLINE_S,
    SECRET,
    Client,
    gateway_process,
    new_run,
    serving,
    token_for,
    worker_token,
    working,
)
from tests.support.stores import new_store, store_of

KINDS = ["memory", "sqlite", "redis", "remote"]
SET = RunSet("batch", "b")
LARGE = {"text": "x" * LISTED_FIELD_BYTES}
AROUND_BYTES = 11  # `{"text":"…"}`
HEADERS = {"Authorization": f"Bearer {SECRET}"}


def bare(run):
    """Return a run without the fields that lists omit, and without `omitted`."""
    return run.to_wire() | {"payload": None, "output": None, "metadata": {}, "omitted": {}}


@pytest.mark.parametrize("kind", KINDS)
async def test_pages_list_every_run_once_and_name_omitted_fields(kind, tmp_path):
    async with store_of(kind, tmp_path) as store:
        small = await store.create_run(new_run(batch_id="b", payload={"a": 1}))
        many = {"text": "m" * (LISTED_FIELD_BYTES // 2)}
        middling = [
            await store.create_run(new_run(batch_id="b", payload=many, metadata=many))
            for _ in range(LIST_BYTES // LISTED_FIELD_BYTES + 10)
        ]
        large = await store.create_run(
            new_run(status="executing", batch_id="b", payload=LARGE, metadata=LARGE)
        )
        large = await store.patch_run(large.id, {"status": "completed", "output": LARGE})
        size = LISTED_FIELD_BYTES + AROUND_BYTES
        query = RunQuery(batch_id="b", limit=1000)
        page = await store.list_runs(query)
        assert 1 < len(page) < len(middling), "the page is cut by its bytes"
        assert page[0].omitted == {"payload": size, "output": size, "metadata": size}
        assert page[0].to_wire() | {"payload": None, "output": None, "metadata": {}} == bare(
            large
        ) | {"omitted": page[0].omitted}
        assert page[1] == middling[-1]
        found = await all_runs(store, query)
        assert [run.id for run in found] == [run.id for run in (large, *reversed(middling), small)]
        assert found[-1] == small
        of_set = await store.list_set_runs([SET], 1000)
        assert of_set.has_more
        assert 1 < len(of_set.runs) < len(middling)
        assert of_set.runs[0].metadata == LARGE, "its changes are merged into it"
        assert of_set.runs[0].omitted == {"payload": size, "output": size}
        assert not (await store.list_set_runs([SET], 1)).runs[0].output
        assert (await store.get_run(large.id)).run == large


@pytest.mark.parametrize("kind", KINDS)
async def test_a_list_follows_a_run_that_grows_and_shrinks(kind, tmp_path):
    async with store_of(kind, tmp_path) as store:
        run = await store.create_run(new_run(status="executing"))
        (listed,) = await store.list_runs(RunQuery())
        assert listed == run
        grown = await store.patch_run(run.id, {"metadata": LARGE})
        (listed,) = await store.list_runs(RunQuery())
        assert list(listed.omitted) == ["metadata"]
        shrunk = await store.patch_run(run.id, {"metadata": {"text": None}})
        assert grown.metadata == LARGE
        assert await store.list_runs(RunQuery()) == [shrunk]
        again = await store.patch_run(run.id, {"metadata": LARGE, "owner": "o"})
        (listed,) = await store.list_runs(RunQuery(owner="o"))
        assert (listed.owner, listed.metadata, again.metadata) == ("o", {}, LARGE)
        assert await store.delete_run(run.id)
        assert await store.list_runs(RunQuery()) == []


async def test_a_large_error_of_an_earlier_version_is_left_out(tmp_path):
    store = new_store("sqlite", tmp_path)
    async with opened(store):
        old = new_run(status="failed", error=RunError("E", "m" * 100_000))
        await store._write(lambda tx: tx.create_run(old, 0))
        (listed,) = await store.list_runs(RunQuery())
        assert (listed.error, list(listed.omitted)) == (None, ["error"])
        assert (await store.get_run(old.id)).run == old


async def test_a_list_reads_no_large_field_from_the_file(tmp_path, monkeypatch):
    read = []
    decode = queries.decode_listed
    monkeypatch.setattr(
        queries, "decode_listed", lambda data: read.append(len(data)) or decode(data)
    )
    async with opened(new_store("sqlite", tmp_path)) as store:
        for _ in range(20):
            await store.create_run(new_run(batch_id="b", payload={"text": "x" * 400_000}))
        assert len(await store.list_runs(RunQuery())) == 20
        assert len((await store.list_set_runs([SET], 50)).runs) == 20
    assert len(read) == 40
    assert sum(read) < 40 * 1000


async def test_a_file_of_the_version_before_is_listed_by_bytes(tmp_path):
    store = SqliteStore(tmp_path / "test.db", durability="normal")
    async with opened(store):
        made = [await store.create_run(new_run(payload={"a": "x" * 500_000})) for _ in range(20)]
    with sqlite3.connect(tmp_path / "test.db") as db:
        db.executescript("DROP TABLE listed; PRAGMA user_version = 6;")
    read_alone = store._connect_alone()  # as on a full disk, where it cannot be upgraded
    page = queries.read_runs(read_alone, RunQuery())
    read_alone.close()
    assert len(page) == LEAST_LISTED_RUNS, "one that is large is read whole, as long as it is"
    assert all(list(run.omitted) == ["payload"] for run in page)
    async with opened(store):
        page = await store.list_runs(RunQuery())
        assert len(page) == LEAST_LISTED_RUNS
        found = await all_runs(store, RunQuery())
        assert [run.id for run in found] == [run.id for run in reversed(made)]
        await store.patch_run(made[-1].id, {"metadata": {"a": 1}})
        assert (await store.list_runs(RunQuery(limit=1)))[0].metadata == {"a": 1}


@pytest.mark.process
async def test_a_gateway_of_the_version_before_on_the_same_redis_is_not_hidden(tmp_path):
    async with opened(new_store("redis", tmp_path)) as store:
        run = await store.create_run(new_run(status="executing", batch_id="b", payload=LARGE))
        bucket = bucket_of(run.id)
        key = f"{store._servers.base(bucket)}{run.id}:run"
        shown = await store._servers.command(bucket, "HGET", key, "listed", kind="read")
        assert shown
        after = await store.patch_run(run.id, {"status": "completed", "output": 1})
        # The previous version writes only the snapshot.
        await store._servers.command(bucket, "HSET", key, "listed", shown, "listed_at", 1)
        for found in (
            await store.list_runs(RunQuery()),
            (await store.list_set_runs([SET], 9)).runs,
        ):
            assert [(each.status, each.output) for each in found] == [("completed", 1)]
            assert list(found[0].omitted) == ["payload"]
        assert (await store.get_run(run.id)).run == after


async def test_http_run_list_paginates_to_the_end():
    async with serving() as gateway, httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{gateway.port}/v1/runs"
        text = "m" * (LISTED_FIELD_BYTES // 2)
        made = [
            await gateway.store.create_run(
                new_run(tags=["x"], payload={"a": text}, metadata={"a": text})
            )
            for _ in range(70)
        ]
        made.append(await gateway.store.create_run(new_run(tags=["x"], payload=LARGE)))
        pages, before = [], {}
        while before is not None:
            answer = await http.get(
                url, params={"tag": "x", "limit": 1000, **before}, headers=HEADERS
            )
            assert len(answer.content) < LIST_BYTES + LISTED_FIELD_BYTES
            pages.append(answer.json()["runs"])
            next_before = answer.json()["next_before"]
            before = {"before": next_before} if next_before is not None else None
        assert len(pages) == 2
        assert [run["id"] for page in pages for run in page] == [run.id for run in made[::-1]]
        first = pages[0][0]
        assert "payload" not in first
        assert first["omitted"] == {"payload": LISTED_FIELD_BYTES + AROUND_BYTES}
        whole = await http.get(f"{url}/{first['id']}", headers=HEADERS)
        assert whole.json()["payload"] == LARGE
        assert "omitted" not in whole.json()
        refused = await http.get(url, params={"status": "over"}, headers=HEADERS)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_value")


async def test_skipped_fields_are_not_listed_as_omitted():
    async with serving() as gateway:
        await gateway.store.create_run(new_run(batch_id="b", payload=LARGE, metadata=LARGE))
        async with gateway.client(token=token_for("read:runs:*")) as client:
            await client.send(
                type="subscribe", id=1, runs={"batch": "b"}, skip=["payload", "metadata"]
            )
            (run,) = (await client.receive())["runs"]
            assert "omitted" not in run
            answer = await client.ask(type="run_list", id=2)
            assert set(answer["value"][0]["omitted"]) == {"payload", "metadata"}


@pytest.mark.parametrize("kind", ["sqlite", "remote"])
async def test_the_sdk_lists_over_pages_and_gives_whole_runs_where_that_is_asked_for(
    kind, tmp_path
):
    text = {"a": "m" * (LISTED_FIELD_BYTES // 2)}
    async with opened(new_store("sqlite", tmp_path)) as store:
        for _ in range(70):
            await store.create_run(new_run(tags=["x"], payload=text, metadata=text))
        large = await store.create_run(new_run(tags=["x"], payload=LARGE))
    if kind == "sqlite":
        async with working(new_store("sqlite", tmp_path)):
            await check_lists(large)
    else:
        with gateway_process(f"sqlite:{tmp_path}/test.db", tmp_path) as process:
            async with working(RemoteStore(process.url, worker_token), owner="worker_1"):
                await check_lists(large)


async def check_lists(large):
    found = await runs.list(tag="x", limit=1000)
    assert len(found) == 71
    assert (found[0].payload, list(found[0].omitted)) == (None, ["payload"])
    assert len(await runs.list(tag="x", limit=69)) == 69
    whole = await runs.list(tag="x", limit=2, whole=True)
    assert whole[0] == large
    assert whole[1] == found[1]
    assert await runs.retrieve(large.id) == large


async def test_a_queued_run_with_a_large_payload_is_executed_after_a_restart(tmp_path):
    @task
    async def measure(text: str) -> int:
        return len(text)

    store = new_store("sqlite", tmp_path)
    async with opened(store):
        run = new_run(task="measure", owner=EMBEDDED_OWNER, payload=LARGE)
        await store.create_run(run)
    async with working(new_store("sqlite", tmp_path)):
        result = await asyncio.wait_for(measure.wait(run.id), DEADLINE_S)
        assert result.output == LISTED_FIELD_BYTES


async def test_a_worker_retrieves_a_large_output_of_an_earlier_version(tmp_path):
    old = new_run(status="completed", output="x" * 10_000_000)
    async with opened(new_store("sqlite", tmp_path)) as store:
        await store._write(lambda tx: tx.create_run(old, 0))
    async with serving(f"sqlite:{tmp_path}/test.db") as gateway, gateway.remote() as worker:
        assert (await worker.get_run(old.id)).run == old
        (listed,) = await worker.list_runs(RunQuery())
        assert listed.omitted == {"output": 10_000_002}


def rss_mb(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


async def test_lists_of_many_large_runs_cost_a_gateway_little_memory(tmp_path):
    async with opened(new_store("sqlite", tmp_path)) as store:
        for _ in range(60):
            await store.create_run(new_run(batch_id="b", payload={"text": "x" * 500_000}))
    url = f"sqlite:{tmp_path}/test.db?durability=normal"
    with gateway_process(url, tmp_path) as process:
        http_url = f"http://127.0.0.1:{process.port}/v1/runs"
        async with (
            httpx.AsyncClient(timeout=DEADLINE_S) as http,
            connect(f"{process.url}/v1/ws") as socket,
        ):
            client = Client(socket)
            await client.send(type="hello", protocol=1, token=worker_token())
            await client.receive()
            await http.get(f"{http_url}?limit=1", headers=HEADERS)
            before_mb = rss_mb(process._process.pid)
            lists = [
                (await http.get(f"{http_url}?limit=1000", headers=HEADERS)).json()["runs"],
                (await client.ask(type="run_list", id=1, limit=1000))["value"],
                (await client.ask(type="runs_get", id=2, runs={"batch": "b"}, limit=1000))["value"][
                    "runs"
                ],
                (await client.ask(type="subscribe", id=3, runs={"batch": "b"}, limit=1000))["runs"],
            ]
            grown_mb = rss_mb(process._process.pid) - before_mb
    assert [len(each) for each in lists] == [60] * 4
    assert grown_mb < 40, "measured: 4 MB; with whole runs: 200 MB"
