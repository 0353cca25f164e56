import asyncio
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from gateway import connect, current_run, run_in_loop, runs, streams, task, tokens
from gateway.errors import (
    InvalidId,
    InvalidValue,
    NoParent,
    NotStarted,
    RunCanceled,
    RunFailed,
    RunNotFound,
)
from gateway.model.log import run_log
from gateway.model.records import StreamKey
from tests.support.gateways import DEADLINE_S, SECRET, environment, new_run, until

notes = streams.define("notes")


@dataclass
class Item:
    name: str
    count: int = 1


class Order(BaseModel):
    items: list[Item]
    note: str | None = None


@pytest.fixture
async def runtime():
    async with connect(store="memory:", secret_key=SECRET) as runtime:
        yield runtime


async def statuses(runtime, run_id):
    page = await runtime.store.read(run_log(run_id))
    patches = [record.data.decode() for record in page.records]
    return [part.split('"')[0] for patch in patches for part in patch.split('"status":"')[1:]]


async def notes_of(runtime, run_id):
    page = await runtime.store.read(StreamKey(run_id, "notes"))
    return [(notes.decode(record.data), record.source) for record in page.records]


async def status_is(run_id, status):
    async with asyncio.timeout(DEADLINE_S):
        while (await runs.retrieve(run_id)).status != status:  # noqa: ASYNC110
            await asyncio.sleep(0.002)


# Executing.


async def test_an_async_task_runs_and_its_run_tells_of_it(runtime):
    @task
    async def add_up(a: int, b: int = 2) -> int:
        return a + b

    handle = await add_up.trigger(1)
    result = await handle.wait()
    assert (result.ok, result.status, result.output, result.error) == (True, "completed", 3, None)
    run = await runs.retrieve(handle.id)
    assert (run.task, run.payload, run.output) == ("add-up", {"a": 1, "b": 2}, 3)
    assert (run.root_id, run.parent_id, run.attempt) == (run.id, None, 1)
    assert run.created_at <= run.started_at <= run.finished_at
    assert await statuses(runtime, run.id) == ["queued", "executing", "completed"]


async def test_a_plain_task_runs_in_a_thread(runtime):
    @task
    def where() -> list[str]:
        notes.append("from a thread")
        return [threading.current_thread().name, current_run().task]

    result = await where.trigger_and_wait()
    name, id = result.output
    assert name.startswith("realtime-task")
    assert id == "where"
    assert await notes_of(runtime, result.run_id) == [("from a thread", result.run_id)]


async def test_calling_a_task_calls_its_function():
    @task
    async def double(n: int) -> int:
        """Double a number."""
        assert current_run() is None
        return n * 2

    assert await double(4) == 8
    assert double.__doc__ == "Double a number."
    assert double.__name__ == "double"


async def test_a_task_knows_its_run(runtime):
    @task
    async def look() -> dict:
        await asyncio.sleep(0)
        run = current_run()
        return {"id": run.id, "root": run.root_id, "tags": run.tags, "canceled": run.is_canceled}

    result = await look.options(tags=["a", "b"]).trigger_and_wait()
    assert result.output == {
        "id": result.run_id,
        "root": result.run_id,
        "tags": ["a", "b"],
        "canceled": False,
    }
    assert current_run() is None


async def test_without_a_store_nothing_can_be_triggered():
    @task
    async def work() -> None: ...

    with pytest.raises(NotStarted, match="connect"):
        await work.trigger()


async def test_a_task_that_fails_shows_its_error_without_a_traceback(runtime, caplog):
    @task
    async def work():
        raise ValueError("the file is empty")

    result = await work.trigger_and_wait()
    assert (result.ok, result.status) == (False, "failed")
    assert (result.error.type, result.error.message) == ("ValueError", "the file is empty")
    with pytest.raises(RunFailed, match="ValueError: the file is empty"):
        _ = result.output
    run = await runs.retrieve(result.run_id)
    assert run.error == result.error
    assert "Traceback" not in str(run.to_wire())
    assert "Traceback" in caplog.text
    assert run.finished_at is not None


async def test_an_error_with_a_book_for_a_message_is_cut(runtime):
    @task
    async def work():
        raise ValueError("x" * 100_000)

    assert len((await work.trigger_and_wait()).error.message) <= 2000


@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_task_that_wants_to_end_the_process_ends_its_run_only(runtime, kind):
    @task(id="async")
    async def leave():
        sys.exit(3)

    @task(id="plain")
    def leave_thread():
        sys.exit(3)

    result = await (leave if kind == "async" else leave_thread).trigger_and_wait()
    assert (result.status, result.error.message) == ("failed", "the task called sys.exit(3)")


async def test_no_more_runs_execute_than_there_is_room_for():
    executing, most = 0, 0

    @task
    async def work():
        nonlocal executing, most
        executing += 1
        most = max(most, executing)
        await asyncio.sleep(0.005)
        executing -= 1

    async with room_for(3):
        results = await work.batch_trigger_and_wait([{}] * 12)
        assert all(result.ok for result in results)
    assert most == 3


@asynccontextmanager
async def room_for(concurrency):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REALTIME_CONCURRENCY", str(concurrency))
        async with connect(store="memory:", secret_key=SECRET) as runtime:
            yield runtime


# Payload and output.


async def test_payload_and_output_are_of_their_types(runtime):
    @task
    async def process(order: Order, items: list[Item], flag: bool = True) -> Item:
        assert isinstance(order, Order)
        assert isinstance(order.items[0], Item)
        assert isinstance(items[0], Item)
        assert flag is True
        return Item(order.items[0].name, items[0].count)

    order = Order(items=[Item("a")])
    result = await process.trigger_and_wait(order, items=[Item("b", 3)])
    assert result.output == Item("a", 3)
    run = await runs.retrieve(result.run_id)
    assert run.payload == {
        "order": {"items": [{"name": "a", "count": 1}], "note": None},
        "items": [{"name": "b", "count": 3}],
        "flag": True,
    }
    assert run.output == {"name": "a", "count": 3}
    (again,) = await process.batch_trigger_and_wait([run.payload])
    assert again.output == result.output


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'n'"),
        ((1, 2, 3), {}, "too many"),
        ((), {"n": 1, "x": 1}, "unexpected keyword"),
        (("many",), {}, r"n: .*'many'"),
        ((1,), {"item": {"name": 3}}, r"item\.name"),
    ],
)
async def test_a_bad_payload_is_refused_before_there_is_a_run(runtime, args, kwargs, message):
    @task
    async def work(n: int, item: Item = Item("x")): ...  # noqa: B008 - it is never changed

    with pytest.raises(InvalidValue, match=rf"task 'work'.*{message}"):
        await work.trigger(*args, **kwargs)
    assert await runs.list() == []


@pytest.mark.parametrize("start", ["trigger", "payload", "batch"])
async def test_an_unknown_argument_is_named_with_those_that_are_known(runtime, start):
    @task
    async def work(name: str, count: int = 1): ...

    @task
    async def idle(): ...

    def begin(which, arguments):
        if start == "trigger":
            return which.trigger(**arguments)
        if start == "payload":
            return which.trigger_payload(arguments)
        return which.batch_trigger([arguments])

    message = "task 'work': unexpected keyword argument 'cuont'; the arguments are count, name"
    with pytest.raises(InvalidValue) as refused:
        await begin(work, {"name": "a", "cuont": 3})
    assert refused.value.message == message
    with pytest.raises(InvalidValue, match="'m'; the task has no arguments"):
        await begin(idle, {"m": 3})
    with pytest.raises(InvalidValue) as refused:
        await begin(work, {"x" * 100_000: 1})
    assert len(refused.value.message) < 400
    assert await runs.list() == []


async def test_a_payload_has_a_limit(runtime):
    @task
    async def work(text: str): ...

    with pytest.raises(InvalidValue, match=r"the payload is \d+ bytes; the limit is 524288"):
        await work.trigger("x" * (1 << 19))


async def test_an_output_that_does_not_fit_fails_the_run(runtime):
    @task
    async def work() -> int:
        return "seven"

    result = await work.trigger_and_wait()
    assert (result.status, result.error.type) == ("failed", "InvalidValue")
    assert "task 'work': the output" in result.error.message


async def test_an_output_that_is_no_json_fails_the_run(runtime):
    @task
    async def work():
        return object()

    result = await work.trigger_and_wait()
    assert (result.status, result.error.type) == ("failed", "InvalidValue")


async def test_parameters_have_to_have_names(runtime):
    @task
    async def work(*numbers: int): ...

    with pytest.raises(InvalidValue, match="name each parameter"):
        await work.trigger(1, 2)


async def test_parameters_may_be_called_what_a_model_forbids(runtime):
    @task
    async def work(_private: int, model_dump: int, json: int, self: int) -> int:
        return _private + model_dump + json + self

    assert (await work.trigger_and_wait(1, 2, 3, 4)).output == 10


# Functions.


def _passing_on(function):
    """Decorate a function as many libraries do; what it returns may be a coroutine."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


async def test_an_async_function_behind_a_plain_decorator_is_awaited(runtime):
    @task
    @_passing_on
    async def greet(name: str) -> str:
        await asyncio.sleep(0)
        assert current_run().task == "greet"
        return f"hello {name}"

    @task
    def later() -> Awaitable[Item]:
        return asyncio.sleep(0, Item("a"))

    assert (await greet.trigger_and_wait("you")).output == "hello you"
    assert (await later.trigger_and_wait()).output == Item("a")


async def test_an_async_function_behind_a_plain_decorator_is_canceled(runtime):
    @task
    @_passing_on
    async def rest() -> None:
        await asyncio.Event().wait()

    run = await rest.trigger()
    await until(lambda: runtime.runner._executions[run.id]._work)
    await runs.cancel(run.id)
    assert (await run.wait()).status == "canceled"


def test_a_generator_or_no_function_cannot_be_a_task():
    def plain():
        yield 1

    async def asynchronous():
        yield 1

    for function in (plain, asynchronous):
        with pytest.raises(InvalidValue, match=r"task '.*' is a generator.*stream\.pipe"):
            task(function)
    for function in (functools.partial(print), 3):
        with pytest.raises(InvalidValue, match="it has to be a function"):
            task(function)


async def test_a_generator_behind_a_decorator_fails_its_run(runtime):
    @task
    @_passing_on
    def plain():
        yield 1

    @task
    @_passing_on
    async def asynchronous():
        yield 1

    for one in (plain, asynchronous):
        result = await one.trigger_and_wait()
        assert (result.status, result.error.type) == ("failed", "InvalidValue")
        assert "is a generator" in result.error.message


# Names.


def test_a_task_is_named_after_its_function_or_as_it_is_told():
    @task
    def process_items(): ...

    @task(id="other.name")
    def something(): ...

    assert process_items.id == "process-items"
    assert something.id == "other.name"


def test_two_tasks_cannot_have_one_name():
    @task(id="work")
    def first(): ...

    with pytest.raises(InvalidValue, match=r"'work' is taken by .*first"):

        @task(id="work")
        def second(): ...


def test_a_module_that_is_loaded_again_may_define_its_tasks_again():
    for _ in range(2):

        @task
        def work(): ...


@pytest.mark.parametrize("id", ["two words", "$x", "x" * 65])
def test_a_tasks_name_follows_the_rule(id):
    with pytest.raises(InvalidId):
        task(id=id)(lambda: None)


# Tags and metadata.


async def test_runs_are_found_by_their_tags(runtime):
    @task
    async def work(n: int): ...

    tagged = work.options(tags=["user_7"], metadata={"colour": "red"})
    first = await tagged.trigger(1)
    await work.trigger(2)
    (found,) = await runs.list(tag="user_7")
    assert found.id == first.id
    assert (found.tags, found.metadata) == (["user_7"], {"colour": "red"})


@pytest.mark.parametrize("tags", ["user", [""], ["x" * 129], ["ends*"], [3], ["x"] * 11])
def test_tags_outside_their_rule_are_refused(tags):
    @task
    async def work(): ...

    with pytest.raises((InvalidId, InvalidValue), match="tag"):
        work.options(tags=tags)


# Batches.


async def test_a_batch_comes_back_in_order_with_its_failures_inside(runtime):
    @task
    async def work(n: int) -> int:
        await asyncio.sleep((10 - n) / 1000)
        if n % 3 == 0:
            raise ValueError(f"no {n}")
        return n * 10

    results = await work.batch_trigger_and_wait([{"n": n} for n in range(10)])
    assert [result.ok for result in results] == [n % 3 != 0 for n in range(10)]
    assert [result.output for result in results if result.ok] == [10, 20, 40, 50, 70, 80]
    assert [result.error.message for result in results if not result.ok] == [
        "no 0",
        "no 3",
        "no 6",
        "no 9",
    ]
    batch = {(await runs.retrieve(result.run_id)).batch_id for result in results}
    assert len(batch) == 1
    assert len(await runs.list(batch_id=batch.pop())) == 10


async def test_a_batch_with_one_bad_payload_starts_nothing(runtime):
    @task
    async def work(n: int): ...

    for payloads in ([{"n": 1}, {"n": "x"}], [{"n": 1}, {}], [{"n": 1}, 7]):
        with pytest.raises(InvalidValue):
            await work.batch_trigger(payloads)
    with pytest.raises(InvalidValue, match="has 1001 payloads; the limit is 1000"):
        await work.batch_trigger([{"n": 1}] * 1001)
    assert await runs.list() == []


async def test_a_batch_of_nothing_is_nothing(runtime):
    @task
    async def work(n: int): ...

    assert await work.batch_trigger([]) == []
    assert await work.batch_trigger_and_wait([]) == []


# Children.


async def test_children_know_their_parent_and_their_root(runtime):
    @task
    async def leaf() -> list:
        run = current_run()
        return [run.parent_id, run.root_id]

    @task
    async def middle() -> list:
        return [current_run().id, (await leaf.trigger_and_wait()).output]

    @task
    async def top() -> list:
        return [current_run().id, (await middle.trigger_and_wait()).output]

    root, (mid, (leaf_parent, leaf_root)) = (await top.trigger_and_wait()).output
    assert (leaf_parent, leaf_root) == (mid, root)
    children = await runs.list(parent_id=root)
    assert [child.id for child in children] == [mid]


async def test_children_do_not_deadlock_when_there_is_room_for_one():
    @task
    async def count_down(n: int) -> int:
        if n == 0:
            return 0
        results = await count_down.batch_trigger_and_wait([{"n": n - 1}] * 2)
        return 1 + sum(result.output for result in results)

    async with room_for(1) as runtime:
        result = await asyncio.wait_for(count_down.trigger_and_wait(3), DEADLINE_S)
        assert result.output == 7
        seen = await statuses(runtime, result.run_id)
        assert seen == ["queued", "executing", "waiting", "executing", "completed"]


async def test_plain_tasks_wait_for_children_without_a_deadlock():
    @task
    def child(n: int) -> int:
        return n

    @task
    def parent() -> int:
        return run_in_loop(child.trigger_and_wait(5)).output

    async with room_for(1):
        result = await asyncio.wait_for(parent.trigger_and_wait(), DEADLINE_S)
        assert result.output == 5


async def test_two_waits_at_once_are_one_wait(runtime):
    @task
    async def child(n: int) -> int:
        await asyncio.sleep(0.005 * n)
        return n

    @task
    async def parent() -> list:
        results = await asyncio.gather(*(child.trigger_and_wait(n) for n in range(3)))
        return [result.output for result in results]

    result = await parent.trigger_and_wait()
    assert result.output == [0, 1, 2]


async def test_a_child_that_nobody_waits_for_outlives_its_parent(runtime):
    go_on = asyncio.Event()

    @task
    async def child():
        await go_on.wait()

    @task
    async def parent() -> str:
        return (await child.trigger()).id

    result = await parent.trigger_and_wait()
    assert (await runs.retrieve(result.output)).status == "executing"
    go_on.set()
    assert (await child.wait(result.output)).ok


# Where appended values go.


async def test_values_go_to_the_target_and_carry_who_wrote_them(runtime):
    @task
    async def leaf():
        notes.append("leaf to self")
        notes.append("leaf to parent", target="parent")
        notes.append("leaf to root", target="root")
        await notes.pipe(["leaf pipes to root"], target="root")

    @task
    async def middle():
        await leaf.trigger_and_wait()

    @task
    async def top():
        notes.append("top to root", target="root")
        await middle.trigger_and_wait()

    root = (await top.trigger_and_wait()).run_id
    (mid,) = await runs.list(parent_id=root)
    (low,) = await runs.list(parent_id=mid.id)
    assert await notes_of(runtime, root) == [
        ("top to root", root),
        ("leaf to root", low.id),
        ("leaf pipes to root", low.id),
    ]
    assert await notes_of(runtime, mid.id) == [("leaf to parent", low.id)]
    assert await notes_of(runtime, low.id) == [("leaf to self", low.id)]


async def test_a_run_without_a_parent_cannot_write_to_one(runtime):
    @task
    async def work():
        notes.append("lost", target="parent")

    result = await work.trigger_and_wait()
    assert (result.status, result.error.type) == ("failed", "NoParent")
    assert "has no parent" in result.error.message
    assert await notes_of(runtime, result.run_id) == []
    with pytest.raises(NoParent):
        notes.append("x", target="parent")


async def test_a_run_may_write_to_any_run_by_its_id(runtime):
    other = await runtime.store.create_run(new_run())

    @task
    async def work(target: str):
        notes.append("hello", target=target)

    result = await work.trigger_and_wait(other.id)
    assert await notes_of(runtime, other.id) == [("hello", result.run_id)]


# Canceling.


async def test_an_async_task_is_canceled_at_its_next_await(runtime):
    cleaned = []

    @task
    async def work():
        notes.append("before")
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    handle = await work.trigger()
    await status_is(handle.id, "executing")
    run = await runs.cancel(handle.id)
    assert run.cancel_requested_at is not None
    result = await asyncio.wait_for(handle.wait(), DEADLINE_S)
    assert result.status == "canceled"
    assert cleaned == [True]
    assert await notes_of(runtime, handle.id) == [("before", handle.id)]
    with pytest.raises(RunFailed, match="canceled"):
        _ = result.output


async def test_a_plain_task_is_canceled_at_its_next_append(runtime):
    told = threading.Event()

    @task
    def work():
        try:
            for i in range(1_000_000):
                notes.append(str(i))
        except RunCanceled:
            told.set()
            raise

    handle = await work.trigger()
    await status_is(handle.id, "executing")
    await runs.cancel(handle.id)
    assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).status == "canceled"
    assert await asyncio.to_thread(told.wait, 20)


async def test_a_plain_task_can_ask_whether_it_is_canceled(runtime):
    left = threading.Event()

    @task
    def work():
        while not current_run().is_canceled:
            pass
        left.set()

    handle = await work.trigger()
    await status_is(handle.id, "executing")
    await runs.cancel(handle.id)
    assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).status == "canceled"
    assert await asyncio.to_thread(left.wait, 20)


async def test_a_queued_run_is_canceled_at_once_and_never_executes():
    executed = []
    go_on = asyncio.Event()

    @task
    async def work(n: int):
        executed.append(n)
        await go_on.wait()

    async with room_for(1):
        first, second, third = await work.batch_trigger([{"n": n} for n in (1, 2, 3)])
        await until(lambda: executed)
        assert (await runs.cancel(second.id)).status == "canceled"
        assert (await second.wait()).status == "canceled"
        go_on.set()
        assert [(await handle.wait()).status for handle in (first, third)] == ["completed"] * 2
    assert executed == [1, 3]


async def test_canceling_a_waiting_run_cancels_its_children(runtime):
    @task
    async def child():
        await asyncio.Event().wait()

    @task
    async def parent():
        await child.batch_trigger_and_wait([{}, {}])

    handle = await parent.trigger()
    await status_is(handle.id, "waiting")
    children = await runs.list(parent_id=handle.id)
    await runs.cancel(handle.id)
    assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).status == "canceled"
    for run in children:
        assert (await asyncio.wait_for(child.wait(run.id), DEADLINE_S)).status == "canceled"
    assert len(children) == 2


async def test_canceling_leaves_room_for_others():
    @task
    async def stuck():
        await asyncio.Event().wait()

    @task
    async def parent():
        await stuck.trigger_and_wait()

    @task
    async def quick() -> int:
        return 1

    async with room_for(1):
        for _ in range(3):
            handle = await parent.trigger()
            await status_is(handle.id, "waiting")
            await runs.cancel(handle.id)
            assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).status == "canceled"
            result = await asyncio.wait_for(quick.trigger_and_wait(), DEADLINE_S)
            assert result.output == 1


async def test_canceling_what_has_ended_changes_nothing(runtime):
    @task
    async def work(): ...

    result = await work.trigger_and_wait()
    run = await runs.cancel(result.run_id)
    assert (run.status, run.cancel_requested_at) == ("completed", None)
    with pytest.raises(RunNotFound):
        await runs.cancel("run_nowhere")


async def test_a_child_that_is_canceled_is_a_result_for_its_parent(runtime):
    @task
    async def child():
        await asyncio.Event().wait()

    @task
    async def parent() -> str:
        return (await child.trigger_and_wait()).status

    handle = await parent.trigger()
    await status_is(handle.id, "waiting")
    (run,) = await runs.list(parent_id=handle.id)
    await status_is(run.id, "executing")
    await runs.cancel(run.id)
    assert (await asyncio.wait_for(handle.wait(), DEADLINE_S)).output == "canceled"


# The end of the process.


async def test_runs_that_execute_when_the_process_stops_are_crashed(tmp_path):
    url = f"sqlite:{tmp_path}/a.db"

    @task
    async def work():
        notes.append("started")
        await asyncio.Event().wait()

    async with connect(store=url, secret_key=SECRET):
        handle = await work.trigger()
        async for _ in notes.read(handle.id):
            break
    async with connect(store=url, secret_key=SECRET) as runtime:
        run = await runs.retrieve(handle.id)
        assert (run.status, run.error.type) == ("crashed", "ProcessStopped")
        assert await notes_of(runtime, handle.id) == [("started", handle.id)]


DYING = """
import asyncio, sys
from gateway import connect, streams, task

notes = streams.define("notes")

@task
async def work():
    await notes.append("started")
    print("started", flush=True)
    await asyncio.Event().wait()

@task
async def parent():
    await work.batch_trigger_and_wait([{}, {}])

async def main():
    async with connect(store=sys.argv[1]):
        handle = await parent.trigger()
        print(handle.id, flush=True)
        await handle.wait()

asyncio.run(main())
"""


async def test_runs_of_a_process_that_was_killed_are_crashed_at_the_next_start(tmp_path):
    url = f"sqlite:{tmp_path}/a.db"
    parent_id = await asyncio.to_thread(_start_and_kill, url)
    async with connect(store=url, secret_key=SECRET) as runtime:
        family = [await runs.retrieve(parent_id), *await runs.list(parent_id=parent_id)]
        assert len(family) == 3
        for run in family:
            assert (run.status, run.error.type) == ("crashed", "ProcessDied")
            assert run.finished_at is not None
        for child in family[1:]:
            assert await notes_of(runtime, child.id) == [("started", child.id)]
            head = await runtime.store.head(StreamKey(child.id, "notes"))
            assert head.end == "crashed"


def _start_and_kill(url):
    command = [sys.executable, "-c", DYING, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        lines = [process.stdout.readline().strip() for _ in range(3)]
        os.kill(process.pid, signal.SIGKILL)
    assert lines.count("started") == 2
    return next(line for line in lines if line != "started")


# Handles.


async def test_a_handles_token_reads_its_run_and_nothing_else(runtime):
    @task
    async def work(): ...

    one, other = await work.batch_trigger([{}, {}])
    access = tokens.verify(one.access_token, secret_key=SECRET, now_s=time.time())
    assert access.scopes == {f"read:runs:{one.id}"}
    for stream in ("$run", "notes"):
        assert access.may_read(StreamKey(one.id, stream))
        assert not access.may_read(StreamKey(other.id, stream))
        assert not access.may_write(StreamKey(one.id, stream))


async def test_a_run_can_be_waited_for_by_many_and_afterwards(runtime):
    @task
    async def work() -> int:
        await asyncio.sleep(0.005)
        return 7

    handle = await work.trigger()
    results = await asyncio.gather(*(handle.wait() for _ in range(20)))
    assert {result.output for result in results} == {7}
    assert (await handle.wait()).output == 7
    with pytest.raises(RunNotFound):
        await work.wait("run_nowhere")


LARGE = 2**53 + 1


async def test_integers_that_pages_know_exactly_arrive_as_they_are(runtime):
    @task
    async def work(values: list[int]) -> list[int]:
        return values

    values = [2**53, -(2**53), 2**53 - 1]
    assert (await work.trigger_and_wait(values=values)).output == values


async def test_a_larger_integer_is_refused_and_never_becomes_a_float(runtime):
    @task
    async def give() -> int:
        return LARGE

    @task
    async def take(value: int): ...

    for call in (take.trigger(LARGE), take.trigger_and_wait(LARGE)):
        with pytest.raises(InvalidValue, match=r"'take': value: 9007199254740993 is beyond"):
            await call
    result = await give.trigger_and_wait()
    assert (result.status, result.error.type) == ("failed", "InvalidValue")
    assert "'give': the output" in result.error.message
