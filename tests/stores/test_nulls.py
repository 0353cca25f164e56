"""Nulls inside outputs, errors and metadata: each store keeps them, and so does each reader."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from gateway import metadata, runs, task
from gateway.cli.runs_watch import RunTable
from gateway.model.log import run_log
from gateway.model.patches import Operation, fold_change, is_same
from gateway.model.records import RunSet
from gateway.stores.memory import MemoryStore
from gateway.stores.redis.store import RedisStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import new_run, serving, token_for, working
from tests.support.records import data_of, records_of
from tests.support.redis.servers import fresh_url
from tests.support.stores import store_of

TAGGED = RunSet("tag", "x")

scalars = st.none() | st.integers(-2, 2) | st.sampled_from([True, "", "a"])
names = st.sampled_from(["x", "y", "", "a/b", "~", "__proto__"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from("abc")
operations = st.builds(Operation, st.sampled_from(["set", "set", "delete"]), keys, values)
lists = st.builds(Operation, st.sampled_from(["append", "remove"]), st.just("list"), values)
objects = st.dictionaries(keys, values, max_size=2)
"""Merge patches: here null deletes."""


def kept(metadata, patch):
    """Merge a patch the simple way."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(metadata) if isinstance(metadata, dict) else {}
    for name, value in patch.items():
        merged = {k: v for k, v in merged.items() if k != name} | (
            {} if value is None else {name: kept(merged.get(name), value)}
        )
    return merged


def after(metadata, patch, operations):
    """Change metadata the simple way."""
    result = kept(metadata, patch)
    for op, key, value in ((each.op, each.key, each.value) for each in operations):
        if op == "set":
            result[key] = value
        elif op == "delete":
            result.pop(key, None)
        elif op == "append":
            result[key] = [*result.get(key, []), value]
        elif key in result:
            result[key] = [item for item in result[key] if not is_same(item, value)]
    return result


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "remote"])
def test_logs_and_sets_fold_to_the_snapshot_with_every_null(kind):
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        stack = store_of(kind, Path(folder))
        store = runner.run(stack.__aenter__())

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(
            begin=objects,
            changes=st.lists(
                st.tuples(st.just({}) | objects, st.lists(operations | lists, max_size=3)),
                max_size=4,
            ),
            output=values,
        )
        def check(begin, changes, output):
            runner.run(_check(store, begin, changes, output))

        try:
            check()
        finally:
            runner.run(stack.__aexit__(None, None, None))


async def _check(store, begin, changes, output):
    error = {"type": "E", "message": "m"}
    run = await store.create_run(new_run(tags=["x"], metadata=begin, payload=output))
    expected = begin
    for patch, operations in changes:
        expected = after(expected, patch, operations)
        patch = {"metadata": patch} if patch else {}
        run = await store.patch_run(run.id, patch, operations=operations)
        assert is_same(run.metadata, expected)
    await store.patch_run(run.id, {"last_error": error, "status": "executing"})
    await store.patch_run(run.id, {"last_error": None})
    run = await store.patch_run(run.id, {"status": "completed", "output": output, "error": error})
    assert is_same([run.output, run.payload, run.metadata], [output, output, expected])
    assert (await store.get_run(run.id)).run == run
    wire = None
    for change in data_of(await records_of(store, run_log(run.id))):
        wire = fold_change(wire, change)
    assert is_same(wire, run.to_wire())
    table = RunTable(TAGGED, 1, [])
    table.apply(await records_of(store, TAGGED.log))
    assert table.runs == [run]


@dataclass
class Answer:
    text: str | None
    usage: dict[str, int | None]


class State(BaseModel):
    stage: str | None
    counts: dict[str, int | None]


STORES = {
    "memory": lambda _: MemoryStore(),
    "sqlite": lambda folder: SqliteStore(folder / "test.db", durability="normal"),
    "redis": lambda _: RedisStore(fresh_url()),
}


@pytest.mark.parametrize("kind", STORES)
async def test_typed_output_with_nulls_is_read_back_unchanged(kind, tmp_path):
    @task
    async def answers() -> Answer:
        return Answer(None, {"input": None, "output": 1})

    async with working(STORES[kind](tmp_path)):
        handle = await answers.trigger()
        result = await handle.wait()
        assert result.ok, result.error
        assert result.output == Answer(None, {"input": None, "output": 1})
        assert (await runs.retrieve(handle.id)).output == {
            "text": None,
            "usage": {"input": None, "output": 1},
        }


async def test_metadata_set_to_none_is_null_for_the_task_for_backends_and_for_pages():
    state = metadata.typed(State)

    @task
    async def work() -> None:
        metadata.set("stage", None)
        metadata.set("counts", {"a": None, "b": 1})
        assert state.current() == State(stage=None, counts={"a": None, "b": 1})
        await metadata.flush()
        assert state.current() == State(stage=None, counts={"a": None, "b": 1})
        assert state.get("stage", "default") is None
        metadata.set("gone", None)
        await metadata.flush()
        metadata.delete("gone")
        await metadata.flush()
        assert "gone" not in metadata.current()

    expected = {"stage": None, "counts": {"a": None, "b": 1}}
    async with working():
        handle = await work.trigger()
        seen = [run.metadata async for run in runs.subscribe(handle.id)]
        assert (await handle.wait()).ok
        assert seen[-1] == expected
        assert {"stage": None, "counts": expected["counts"], "gone": None} in seen


async def test_skipped_metadata_hides_names_of_its_nulls():
    async with serving() as gateway, gateway.client(token=token_for("read:tags:x")) as client:
        run = await gateway.store.create_run(new_run(tags=["x"]))
        await client.ask(type="subscribe", id=1, runs={"tag": "x"}, skip=["metadata"])
        await client.ask(type="subscribe", id=2, run=run.id, skip=["metadata"])
        nulls = [Operation("set", "secret", None)]
        await gateway.store.patch_run(run.id, {"owner": "o"}, operations=nulls)
        frames = [await client.receive(), await client.receive()]
        told = {frame["id"]: frame["records"][0]["data"] for frame in frames}
        assert told == {1: {"id": run.id, "version": 1, "patch": {"owner": "o"}}, 2: {"owner": "o"}}
