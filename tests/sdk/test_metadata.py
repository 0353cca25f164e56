"""Metadata: from tasks, threads and children into the run, exactly once."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

import gateway
from gateway import current_run, metadata, runs, task
from gateway.errors import (
    ConnectionLost,
    IllegalTransition,
    InvalidValue,
    MetadataTooLarge,
    NoParent,
    NotInRun,
    StoreUnavailable,
    WriterFull,
)
from gateway.model.log import run_log
from gateway.model.patches import Operation
from gateway.sdk.loops.bridge import run_in_loop
from gateway.sdk.writers import metadata_writer
from gateway.sdk.writers.metadata_writer import MetadataWriter
from gateway.stores.memory import MemoryStore
from gateway.stores.remote.store import RemoteStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import SECRET, gateway_process, new_run, until, worker_token, working


class Shaky(MemoryStore):
    """Fails as a network does: before the change, or after it with its answer lost."""

    def __init__(self, failures) -> None:
        super().__init__()
        self.failures = list(failures)
        self.calls = 0

    async def patch_run(self, run_id, patch, *, operations=(), writer=None):
        if not operations:
            return await super().patch_run(run_id, patch)
        self.calls += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure == "before":
            raise StoreUnavailable("not there")
        run = await super().patch_run(run_id, patch, operations=operations, writer=writer)
        if failure == "after":
            raise ConnectionLost("the answer was lost")
        return run


async def test_a_task_changes_its_metadata_without_await():
    @task
    async def work() -> dict:
        metadata.set("status", "reading")
        metadata.set("gone", 1)
        metadata.delete("gone")
        metadata.append("files", "a")
        metadata.append("files", "b")
        metadata.remove("files", "a")
        metadata.increment("done")
        metadata.increment("done", 2.5)
        metadata.decrement("left", 3)
        return metadata.current()

    expected = {"start": 1, "status": "reading", "files": ["b"], "done": 3.5, "left": -3}
    async with working():
        result = await work.options(metadata={"start": 1}).trigger_and_wait()
        assert result.output == expected
        assert (await runs.retrieve(result.run_id)).metadata == expected


async def test_plain_functions_in_threads_change_it_too():
    @task
    def work() -> dict:
        for _ in range(100):
            metadata.increment("n")
        run_in_loop(metadata.flush())
        metadata.set("flushed", True)
        return metadata.current()

    async with working():
        result = await work.trigger_and_wait()
        assert result.output == {"n": 100, "flushed": True}
        assert (await runs.retrieve(result.run_id)).metadata == result.output


async def test_what_gathers_is_sent_together_and_long_before_the_end():
    store = Shaky([])
    release = asyncio.Event()

    @task
    async def work() -> None:
        for _ in range(500):
            metadata.increment("n")
        await release.wait()

    async with working(store):
        handle = await work.trigger()
        async for run in runs.subscribe(handle.id):
            if run.metadata:
                break
        assert run.metadata == {"n": 500}
        assert store.calls == 1
        release.set()
        assert (await handle.wait()).ok


async def count_by_children(children: int, each: int) -> dict:
    @task
    async def child(n: int) -> None:
        for _ in range(n):
            metadata.parent.increment("done")
            metadata.root.append("who", current_run().id)
            await asyncio.sleep(0)

    @task
    async def parent(children: int, each: int) -> int:
        results = await child.batch_trigger_and_wait([{"n": each}] * children)
        return sum(result.ok for result in results)

    result = await parent.trigger_and_wait(children, each)
    assert result.output == children
    return (await runs.retrieve(result.run_id)).metadata


async def check_children(found: dict, children: int, each: int) -> None:
    assert found["done"] == children * each
    assert sorted(map(found["who"].count, set(found["who"]))) == [each] * children


async def test_twenty_children_increment_to_the_exact_sum(tmp_path):
    for store in (MemoryStore(), SqliteStore(tmp_path / "test.db", durability="normal")):
        async with working(store):
            await check_children(await count_by_children(20, 25), 20, 25)


async def test_children_in_a_worker_elsewhere_come_to_the_exact_sum(tmp_path):
    with gateway_process(f"sqlite:{tmp_path}/test.db?durability=normal", tmp_path) as process:
        store = RemoteStore(process.url, worker_token, owner="worker_1")
        async with working(store, owner="worker_1"):
            await check_children(await count_by_children(20, 25), 20, 25)


@pytest.mark.parametrize("failures", [["before"] * 3, ["after"] * 3, ["after", "before"] * 2])
async def test_fault_10_a_failed_flush_loses_no_operation_and_repeats_none(failures, monkeypatch):
    monkeypatch.setattr(metadata_writer, "FIRST_RETRY_S", 0.001)
    store = Shaky(failures)

    @task
    async def work() -> None:
        for _ in range(5):
            metadata.increment("n")
            metadata.append("list", "x")
            await metadata.flush()

    async with working(store):
        result = await work.trigger_and_wait()
        assert result.ok
        assert (await runs.retrieve(result.run_id)).metadata == {"n": 5, "list": ["x"] * 5}


async def test_fault_10_a_flush_that_gave_up_keeps_the_operations_for_the_next(monkeypatch):
    monkeypatch.setattr(metadata_writer, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(metadata_writer, "ATTEMPTS", 2)
    store = Shaky(["after", "before", "after", "before"])

    @task
    async def work() -> list[str]:
        told = []
        metadata.increment("n")
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await metadata.flush()
            metadata.increment("n")
            told.append("refused")
            assert metadata.get("n") == 1 + len(told)
        await metadata.flush()
        return told

    async with working(store):
        result = await work.trigger_and_wait()
        assert result.output == ["refused", "refused"]
        assert (await runs.retrieve(result.run_id)).metadata == {"n": 3}


def test_fault_10_a_canceled_run_is_completed():
    for status in ("completed", "failed", "canceled", "crashed", "expired", "timed_out"):
        run = new_run(status=status)
        assert run.is_finished and run.is_completed
        assert (run.is_success, run.is_canceled) == (status == "completed", status == "canceled")
        assert run.is_failed == (status not in ("completed", "canceled"))


async def test_fault_11_the_parents_metadata_without_a_parent_is_an_error():
    @task
    async def work() -> None:
        with pytest.raises(NoParent, match="has no parent"):
            metadata.parent.set("a", 1)
        metadata.root.set("mine", True)

    async with working():
        result = await work.trigger_and_wait()
        assert (await runs.retrieve(result.run_id)).metadata == {"mine": True}


async def test_outside_a_run_there_is_no_metadata():
    async with working():
        for call in (lambda: metadata.set("a", 1), metadata.current):
            with pytest.raises(NotInRun, match="inside a task"):
                call()
        with pytest.raises(NotInRun):
            await metadata.flush()


async def test_flush_reports_change_over_limit_and_applies_the_rest():
    @task
    async def work() -> None:
        metadata.set("first", "x" * 200_000)
        await metadata.flush()
        metadata.set("second", "x" * 100_000)
        metadata.set("third", 3)
        with pytest.raises(MetadataTooLarge, match=r"would be 3000\d\d bytes; the limit is 262144"):
            await metadata.flush()
        await metadata.flush()  # told once

    async with working():
        result = await work.trigger_and_wait()
        assert result.ok, result.error
        found = (await runs.retrieve(result.run_id)).metadata
        assert (len(found["first"]), found["third"], len(found)) == (200_000, 3, 2)


async def test_unflushed_invalid_change_fails_the_run_at_its_end():
    @task
    async def work() -> int:
        metadata.set("text", "x")
        metadata.increment("text")
        metadata.set("after", 1)
        return 1

    async with working():
        result = await work.trigger_and_wait()
        assert (result.status, result.error.type) == ("failed", "InvalidValue")
        assert "'text' is 'x': it cannot be incremented by 1" in result.error.message
        assert (await runs.retrieve(result.run_id)).metadata == {"text": "x", "after": 1}


async def test_set_rejects_too_large_value_immediately():
    @task
    async def work() -> None:
        with pytest.raises(MetadataTooLarge, match="'a': the value is 300002 bytes"):
            metadata.set("a", "x" * 300_000)

    async with working():
        assert (await work.trigger_and_wait()).ok


async def test_a_run_cannot_begin_with_metadata_over_the_limit():
    @task
    async def work() -> None: ...

    async with working():
        with pytest.raises(MetadataTooLarge):
            await work.options(metadata={"a": "x" * 300_000}).trigger()
        assert await runs.list() == []


@pytest.mark.parametrize("value", [float("nan"), object(), {"a": float("inf")}, 2**80])
async def test_set_rejects_invalid_json_immediately(value):
    @task
    async def work() -> None:
        with pytest.raises(InvalidValue, match="is no JSON"):
            metadata.set("a", value)
            await metadata.flush()

    async with working():
        assert (await work.trigger_and_wait()).ok


async def test_the_metadata_of_an_ended_run_stays():
    @task
    async def child() -> None:
        await runs_over.wait()
        metadata.parent.set("late", True)
        with pytest.raises(IllegalTransition, match=r"has ended \(completed\); its metadata stays"):
            await metadata.flush()

    @task
    async def parent() -> str:
        return (await child.trigger()).id

    runs_over = asyncio.Event()
    async with working():
        result = await parent.trigger_and_wait()
        runs_over.set()
        assert (await child.wait(result.output)).ok
        assert (await runs.retrieve(result.run_id)).metadata == {}


async def test_run_end_waits_for_pending_metadata():
    @task
    async def work(n: int) -> None:
        for i in range(n):
            metadata.set(f"key{i}", i)

    async with working():
        result = await work.trigger_and_wait(2500)  # more than one batch
        assert len((await runs.retrieve(result.run_id)).metadata) == 2500


async def test_too_much_that_waits_is_an_error_and_not_a_loss(monkeypatch):
    monkeypatch.setattr(metadata_writer, "MAX_WAITING_OPERATIONS", 10)

    @task
    async def work() -> None:
        for _ in range(10):
            metadata.increment("n")
        with pytest.raises(WriterFull, match="10 operations wait; the limit is 10"):
            metadata.increment("n")
        await metadata.flush()
        metadata.increment("n")

    async with working():
        result = await work.trigger_and_wait()
        assert (await runs.retrieve(result.run_id)).metadata == {"n": 11}


async def test_a_batch_whose_fate_is_unknown_is_sent_again_as_it_was(monkeypatch):
    monkeypatch.setattr(metadata_writer, "ATTEMPTS", 1)
    store = Shaky(["after"])
    await store.open()
    run = await store.create_run(new_run())
    writer = MetadataWriter(store, run.id, "w", asyncio.get_running_loop(), {}, flush_s=0)
    writer.put(Operation("append", "list", 1), 1)
    await until(lambda: store.calls == 1)
    writer.put(Operation("append", "list", 2), 1)
    await until(lambda: store.calls == 3)
    await writer.flush()
    assert writer.view() == {"list": [1, 2]}
    page = await store.read(run_log(run.id))
    assert len(page.records) == 3  # the run, and one patch for each batch


# Typed.


class Model(BaseModel):
    stage: str
    total: int = 0
    share: Annotated[float, Field(le=1)] = 0
    files: list[str] = Field(default_factory=list)


@dataclass
class Data:
    stage: str
    total: int = 0
    share: Annotated[float, Field(le=1)] = 0
    files: list[str] = field(default_factory=list)


class Dict(TypedDict, total=False):
    stage: str
    total: int
    share: Annotated[float, Field(le=1)]
    files: list[str]


@pytest.mark.parametrize("model", [Model, Data, Dict])
async def test_a_model_checks_keys_and_values_and_names_what_it_refuses(model):
    state = metadata.typed(model)

    @task
    async def work() -> None:
        for change, message in (
            (lambda: state.set("total", "many"), "'total': the value: Input should be a valid int"),
            (lambda: state.set("share", 2), "'share': the value: Input should be less than"),
            (lambda: state.set("colour", "red"), "'colour': the model has no such field; it has s"),
            (lambda: state.delete("colour"), "'colour': the model has no such field"),
            (lambda: state.append("files", 1), "'files': 0: Input should be a valid string"),
            (lambda: state.increment("total", 1.5), "'total'"),
            (lambda: state.increment("stage"), "'stage'"),
        ):
            with pytest.raises(InvalidValue, match=message):
                change()
        state.set("stage", "reading")
        state.append("files", "a")
        state.increment("total", 2)
        state.set("share", 0.5)
        assert state.get("total") == 2
        assert state.current() == model(stage="reading", total=2, share=0.5, files=["a"])
        state.delete("stage")
        if model is not Dict:
            with pytest.raises(InvalidValue, match="stage"):
                state.current()

    async with working():
        result = await work.trigger_and_wait()
        assert result.ok, result.error
        found = (await runs.retrieve(result.run_id)).metadata
        assert found == {"files": ["a"], "total": 2, "share": 0.5}


async def test_a_child_changes_its_parents_typed_metadata():
    state = metadata.typed(Model)

    @task
    async def child() -> None:
        state.parent.increment("total")
        state.root.set("stage", "done")

    @task
    async def parent() -> None:
        await child.batch_trigger_and_wait([{}] * 3)

    async with working():
        result = await parent.trigger_and_wait()
        assert (await runs.retrieve(result.run_id)).metadata == {"total": 3, "stage": "done"}


def test_a_type_that_has_no_fields_cannot_describe_metadata():
    with pytest.raises(InvalidValue, match="a Pydantic model, a dataclass or a TypedDict"):
        metadata.typed(int)


async def test_metadata_works_through_connect(tmp_path):
    @task
    async def work() -> None:
        metadata.set("a", 1)

    store = f"sqlite:{tmp_path}/test.db?durability=normal"
    async with gateway.connect(store=store, secret_key=SECRET):
        result = await work.trigger_and_wait()
        assert (await runs.retrieve(result.run_id)).metadata == {"a": 1}
