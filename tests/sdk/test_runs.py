"""Runs as a backend sees them."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from gateway import Run, StreamRecord, metadata, runs, streams, task
from gateway.errors import InvalidId, InvalidValue, RunNotFound, TaskNotFound
from gateway.sdk.execution.ownership import EMBEDDED_OWNER
from gateway.sdk.run_subscription import RunSubscription
from gateway.sdk.streams import Stream
from gateway.stores.memory import MemoryStore
from gateway.stores.remote.store import RemoteStore
from gateway.stores.sqlite.store import SqliteStore
from tests.support.gateways import gateway_process, new_run, worker_token, working

progress = streams.define("progress", int)
answer = streams.define("answer", str)


@dataclass
class Step:
    n: int
    name: str


async def test_a_subscription_yields_the_run_and_each_change_until_it_ends(tmp_path):
    release = asyncio.Event()

    @task
    async def work() -> str:
        await release.wait()
        metadata.set("stage", "one")
        await metadata.flush()
        metadata.set("stage", "two")
        return "done"

    for store in (MemoryStore(), SqliteStore(tmp_path / "test.db", durability="normal")):
        release.clear()
        async with working(store):
            handle = await work.trigger()
            seen = []
            async for run in runs.subscribe(handle.id):
                if run.status == "executing":
                    release.set()
                seen.append((run.status, run.metadata.get("stage"), run.output))
            assert seen[-4:] == [
                ("executing", None, None),
                ("executing", "one", None),
                ("executing", "two", None),
                ("completed", "two", "done"),
            ]
            assert run == await runs.retrieve(handle.id)


async def test_a_run_that_has_ended_is_yielded_once():
    @task
    async def work() -> int:
        return 1

    async with working():
        result = await work.trigger_and_wait()
        seen = [run async for run in runs.subscribe(result.run_id)]
        assert seen == [await runs.retrieve(result.run_id)]


async def test_subscribe_yields_run_and_streams_together(tmp_path):
    release = asyncio.Event()

    @task
    async def work() -> int:
        await release.wait()
        for i in range(1000):
            progress.append(i)
            if i % 100 == 0:
                answer.append(f"a{i}")
        return 7

    for store in (MemoryStore(), SqliteStore(tmp_path / "test.db", durability="normal")):
        release.clear()
        async with working(store):
            handle = await work.trigger()
            changes, values = [], {"progress": [], "answer": []}
            async for change in runs.subscribe(handle.id).with_streams(progress, answer):
                release.set()
                if isinstance(change, StreamRecord):
                    values[change.stream.id].append(change.value)
                    assert change.record.offset == len(values[change.stream.id]) - 1
                else:
                    changes.append(change)
            assert values["progress"] == list(range(1000))
            assert values["answer"] == [f"a{i}" for i in range(0, 1000, 100)]
            assert isinstance(change, Run)  # the run as it ended is the last
            assert (change.status, change.output) == ("completed", 7)
            assert [run.is_finished for run in changes] == [False] * (len(changes) - 1) + [True]


async def test_a_run_elsewhere_is_followed_with_its_streams(tmp_path):
    @task
    async def work() -> None:
        for i in range(20):
            progress.append(i)
            await asyncio.sleep(0.001)

    with gateway_process(f"sqlite:{tmp_path}/test.db?durability=normal", tmp_path) as process:
        store = RemoteStore(process.url, worker_token, owner="worker_1")
        async with working(store, owner="worker_1"):
            handle = await work.trigger()
            values = []
            async for change in runs.subscribe(handle.id).with_streams(progress):
                if isinstance(change, StreamRecord):
                    values.append(change.value)
            assert values == list(range(20))
            assert change.is_success


@pytest.mark.parametrize("status", ["failed", "canceled"])
async def test_a_run_that_does_not_complete_is_the_last_all_the_same(status):
    @task
    async def work() -> None:
        progress.append(1)
        if status == "failed":
            raise ValueError("no")
        await asyncio.Event().wait()

    async with working():
        handle = await work.trigger()
        seen = []
        async for change in runs.subscribe(handle.id).with_streams(progress):
            seen.append(change)
            if status == "canceled" and isinstance(change, StreamRecord):
                await runs.cancel(handle.id)
        assert seen[-1].status == status
        assert [change.value for change in seen if isinstance(change, StreamRecord)] == [1]


@pytest.mark.parametrize("kind", ["memory", "sqlite", "remote"])
async def test_all_streams_of_a_run_come_as_they_appear_each_with_its_type(kind, tmp_path):
    late = asyncio.Event()
    steps = streams.define("steps-of-all", Step)
    undefined = Stream("undefined", dict[str, int])  # as of a worker with another project

    @task
    async def work() -> int:
        for i in range(300):
            steps.append(Step(i, "early"))
        await late.wait()
        undefined.append({"n": 1})
        await undefined.append({"n": 2})
        answer.append("last")
        return 7

    @asynccontextmanager
    async def environment():
        if kind == "memory":
            yield MemoryStore(), EMBEDDED_OWNER
        elif kind == "sqlite":
            yield SqliteStore(tmp_path / "test.db", durability="normal"), EMBEDDED_OWNER
        else:
            store = f"sqlite:{tmp_path}/test.db?durability=normal"
            with gateway_process(store, tmp_path) as process:
                yield RemoteStore(process.url, worker_token, owner="worker_1"), "worker_1"

    async with environment() as (store, owner), working(store, owner=owner):
        handle = await work.trigger()
        values = {}
        async for change in runs.subscribe(handle.id).with_streams():
            if isinstance(change, StreamRecord):
                values.setdefault(change.stream.id, []).append(change.value)
                if change.value == Step(299, "early"):
                    assert list(values) == ["steps-of-all"]
                    late.set()
        assert values == {
            "steps-of-all": [Step(i, "early") for i in range(300)],
            "undefined": [{"n": 1}, {"n": 2}],
            "answer": ["last"],
        }
        assert change == await runs.retrieve(handle.id)
        again = [change async for change in runs.subscribe(handle.id).with_streams()]
        assert len(again) == 303 + 1
        assert again[-1] == change


async def test_a_stream_that_is_defined_in_several_ways_is_any_json_among_all_streams():
    one = streams.define("ambiguous", Step)
    other = streams.define("ambiguous", dict[str, int])

    @task
    async def work() -> None:
        one.append(Step(1, "x"))
        other.append({"n": 2})

    async with working():
        result = await work.trigger_and_wait()
        found = [
            change.value
            async for change in runs.subscribe(result.run_id).with_streams()
            if isinstance(change, StreamRecord)
        ]
        assert found == [{"n": 1, "name": "x"}, {"n": 2}]


async def test_a_record_that_does_not_fit_ends_the_loop_over_all_streams_too():
    streams.define("strict", int)

    @task
    async def work() -> None:
        Stream("strict", str).append("x")

    async with working():
        result = await work.trigger_and_wait()
        with pytest.raises(InvalidValue, match="strict"):
            async for _ in runs.subscribe(result.run_id).with_streams():
                pass


@pytest.mark.parametrize("which", ["named", "all"])
async def test_leaving_the_loop_early_leaves_nothing_behind(which):
    @task
    async def work() -> None:
        while True:
            progress.append(1)
            await asyncio.sleep(0)

    async with working() as active:
        handle = await work.trigger()
        named = [progress] if which == "named" else []
        changes = runs.subscribe(handle.id).with_streams(*named)
        count = 0
        async for _ in changes:
            count += 1
            if count == 1000:
                break
        await changes.aclose()
        await runs.cancel(handle.id)
        await handle.wait()
        assert active.store._growth._watches == {}


async def test_a_record_of_another_type_ends_the_loop_with_an_error():
    other = streams.define("progress", str)

    @task
    async def work() -> None:
        other.append("x")
        await asyncio.Event().wait()

    async with working():
        handle = await work.trigger()
        with pytest.raises(InvalidValue, match="progress"):
            async for _ in runs.subscribe(handle.id).with_streams(progress):
                pass


async def test_a_run_that_is_not_there_cannot_be_followed():
    async with working():
        for loop in (
            runs.subscribe("run_nowhere"),
            runs.subscribe("run_nowhere").with_streams(progress),
            runs.subscribe("run_nowhere").with_streams(),
        ):
            with pytest.raises(RunNotFound):
                async for _ in loop:
                    pass
        with pytest.raises(InvalidId):
            runs.subscribe("nonsense")
        assert isinstance(runs.subscribe("run_nowhere"), RunSubscription)


async def test_runs_are_listed_and_retrieved():
    @task
    async def work(n: int) -> int:
        return n

    async with working():
        handles = await work.options(tags=["t"]).batch_trigger([{"n": n} for n in range(5)])
        for handle in handles:
            await handle.wait()
        listed = await runs.list(tag="t", status=("completed",), limit=3)
        assert len(listed) == 3
        rest = await runs.list(tag="t", before=listed[-1].id)
        assert {run.output for run in [*listed, *rest]} == set(range(5))
        with pytest.raises(RunNotFound):
            await runs.retrieve("run_nowhere")


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"status": "complete"}, r"status is 'complete'; it lists any of delayed, "),
        ({"status": "completedfailed"}, "status is 'completedfailed'"),
        ({"status": ("complete",)}, r"status is \('complete',\); .* executing, waiting, completed"),
        ({"status": [["completed"]]}, "status is"),
        ({"limit": -1}, "limit is -1; it is a whole number from 0"),
        ({"limit": "5"}, "limit is '5'"),
        ({"limit": 1.5}, "limit is 1.5"),
    ],
)
async def test_a_list_of_what_cannot_be_is_refused(arguments, said):
    async with working():
        with pytest.raises(InvalidValue, match=said):
            await runs.list(**arguments)
        assert await runs.list(status=["completed"], limit=0) == []


@pytest.mark.parametrize("status", ["completed", ("completed",), ["completed"]])
async def test_one_status_is_listed_as_a_text_or_in_a_list(status):
    @task
    async def work(fails: bool) -> None:
        if fails:
            raise ValueError

    async with working():
        for fails in (False, True):
            await work.options(tags=["one"]).trigger_and_wait(fails)
        (found,) = await runs.list(tag="one", status=status)
        assert found.status == "completed"
        for all_of_them in ((), "", None):
            assert len(await runs.list(tag="one", status=all_of_them)) == 2


async def test_replay_triggers_the_same_run_again():
    @task(max_duration_s=30)
    async def work(n: int, name: str = "x") -> str:
        return f"{name}{n}"

    async with working() as active:
        keyed = work.options(tags=["t"], metadata={"m": 1}, idempotency_key="k")
        first = await keyed.trigger_and_wait(1, name="y")
        second = await (await runs.replay(first.run_id)).wait()
        assert second.run_id != first.run_id
        assert (second.output, first.output) == ("y1", "y1")
        run = await runs.retrieve(second.run_id)
        assert (run.tags, run.metadata, run.idempotency_key) == (["t"], {"m": 1}, None)
        assert run.max_duration_s == 30
        lost = await active.store.create_run(new_run(task="lost"))
        with pytest.raises(TaskNotFound, match="'lost' is defined in this process; the tasks here"):
            await runs.replay(lost.id)


async def test_what_a_run_took_is_kept():
    @task
    async def work() -> None:
        await asyncio.sleep(0.02)

    async with working():
        result = await work.trigger_and_wait()
        run = await runs.retrieve(result.run_id)
        assert 15 <= run.duration_ms < 20_000
        assert run.created_at == run.queued_at <= run.started_at <= run.finished_at
