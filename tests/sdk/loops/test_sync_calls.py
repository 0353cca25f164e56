"""Synchronous code calls the SDK by functions that end with `_sync`, without an event loop."""

import asyncio
import inspect
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway import connect, current_run, metadata, run_in_loop, runs, streams, task, tokens, wait
from gateway.errors import ConfigurationError, InvalidValue, NotStarted, ReadTimeout, RunNotFound
from gateway.sdk import background, inputs, results, task_registry, tasks
from gateway.sdk.metadata import Metadata
from gateway.sdk.runtime import current_runtime, has_runtime
from gateway.sdk.streams import Stream
from tests.support.gateways import DEADLINE_S, SECRET, environment, until

numbers = streams.define("numbers", int)
orders = streams.input("orders", int)


@pytest.fixture
def plain(monkeypatch):
    """Start the test in a process that is not connected; disconnect it at the end."""
    monkeypatch.setenv("REALTIME_STORE", "memory:")
    monkeypatch.setenv("REALTIME_SECRET_KEY", SECRET)
    assert not has_runtime()
    yield
    background.stop()
    assert not has_runtime()


@task
async def twice(x: int) -> int:
    for number in range(x):
        numbers.append(number)
    return 2 * x


@task
def all_in_plain_code() -> dict:
    found = {}
    run_id = current_run().id
    found["child"] = twice.trigger_and_wait_sync(2).output
    handles = [twice.trigger_sync(x) for x in (3, 4)]
    found["waited"] = [handle.wait_sync().output for handle in handles]
    found["again"] = twice.wait_sync(handles[0].id).output
    found["batch"] = [
        *(each.output for each in twice.batch_trigger_and_wait_sync([{"x": 5}])),
        *(each.wait_sync().output for each in twice.batch_trigger_sync([{"x": 6}])),
    ]
    found["parent"] = runs.retrieve_sync(handles[0].id).parent_id == run_id
    found["children"] = len(runs.list_sync(parent_id=run_id))
    found["read"] = list(numbers.read_sync(handles[0].id))
    found["offsets"] = [each.offset for each in numbers.read_records_sync(handles[0].id)]
    found["seen"] = [run.output for run in runs.subscribe_sync(handles[0].id)][-1]
    found["replayed"] = runs.replay_sync(handles[0].id).wait_sync().output
    found["canceled"] = runs.cancel_sync(twice.options(delay_s=3600).trigger_sync(1).id).status
    found["appended"] = [numbers.append_sync(7), numbers.append_sync(8)]
    metadata.set("here", True)
    metadata.flush_sync()
    wait.for_seconds_sync(0)
    token = wait.create_token_sync(int)
    wait.complete_token_sync(token.id, 10)
    found["answer"] = wait.for_token_sync(token)
    found["sent"] = orders.send_sync(run_id, 11)
    found["peek"] = orders.peek_sync()
    found["orders"] = [orders.once_sync()]
    orders.send_sync(run_id, 12)
    found["orders"].append(orders.wait_sync())
    return found


EVERYTHING = {
    "child": 4,
    "waited": [6, 8],
    "again": 6,
    "batch": [10, 12],
    "parent": True,
    "children": 5,
    "read": [0, 1, 2],
    "offsets": [0, 1, 2],
    "seen": 6,
    "replayed": 6,
    "canceled": "canceled",
    "appended": [0, 1],
    "answer": 10,
    "sent": 0,
    "peek": 11,
    "orders": [11, 12],
}


async def test_plain_task_calls_everything(monkeypatch):
    monkeypatch.setitem(task_registry._tasks, "twice", twice)  # to be replayed
    async with connect(store="memory:", secret_key=SECRET):
        result = await asyncio.wait_for(all_in_plain_code.trigger_and_wait(), DEADLINE_S)
        assert result.output == EVERYTHING
        assert (await runs.retrieve(result.run_id)).metadata == {"here": True}


WITHOUT_TWIN = {"Task.trigger_payload", "Task.execute_queued"}  # called by gateways and queues
PLACES = (runs, wait, tasks.Task, results.RunHandle, inputs.InputStream, Stream, Metadata.__base__)
ITERATED = {"gateway.sdk.runs.subscribe", "Stream.read"}


def _twins():
    for place in PLACES:
        for name, member in list(vars(place).items()):
            full = f"{place.__name__}.{name}"
            is_awaited = inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
            is_own = inspect.isclass(place) or getattr(member, "__module__", "") == place.__name__
            is_public = is_own and not name.startswith("_") and full not in WITHOUT_TWIN
            if (is_awaited or full in ITERATED) and is_public:
                yield place, name


TWINS = list(_twins())


@pytest.mark.parametrize(("place", "name"), TWINS, ids=[name for _, name in TWINS])
def test_sync_variant_has_the_same_parameters(place, name):
    awaited, twin = vars(place)[name], vars(place)[f"{name}_sync"]
    names = [list(inspect.signature(each).parameters.values()) for each in (awaited, twin)]
    assert names[0] == names[1]
    assert not inspect.iscoroutinefunction(twin)
    assert twin.__name__ == f"{name}_sync"
    assert twin.__doc__.splitlines()[0] == awaited.__doc__.splitlines()[0] or name in twin.__doc__


def test_the_page_names_every_twin():
    text = (Path(__file__).parents[3] / "docs" / "web-frameworks.md").read_text()
    [table] = re.findall(r"\| awaited \| in plain code \|\n(.*?)\n\n", text, flags=re.S)
    told = set(re.findall(r"[a-z_]+", table))
    assert {name for _, name in TWINS} <= told


SCRIPT = """
from gateway import streams, task

numbers = streams.define("numbers", int)

@task
async def count(to: int) -> int:
    for number in range(to):
        numbers.append(number)
    return to

handle = count.trigger_sync(3)
for number in numbers.read_sync(handle.id, timeout_s=60):
    print(number)
print(handle.wait_sync().output)
"""


def test_plain_script_needs_no_event_loop(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=tmp_path,
        env=environment(REALTIME_STORE="memory:"),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "1", "2", "3"]


def test_threads_of_a_process_share_one_runtime(plain):
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda x: twice.trigger_and_wait_sync(x).output, range(8))
        assert list(results) == [2 * x for x in range(8)]


async def test_twins_refuse_to_block_an_event_loop():
    calls = {
        "trigger": lambda: twice.trigger_sync(1),
        "read": lambda: numbers.read_sync("run_a"),
        "append": lambda: numbers.append_sync(1),
        "send": lambda: orders.send_sync("run_a", 1),
        "retrieve": lambda: runs.retrieve_sync("run_a"),
        "create_token": lambda: wait.create_token_sync(int),
    }
    for name, call in calls.items():
        with pytest.raises(RuntimeError, match=f"^{name}_sync blocks its thread.* use `{name}`"):
            call()
    assert not has_runtime()  # the call has not connected the process
    with pytest.raises(NotStarted):
        run_in_loop(tokens.revoke(subject="a"))
    async with connect(store="memory:", secret_key=SECRET):
        for name, call in calls.items():
            with pytest.raises(RuntimeError, match=f"^{name}_sync blocks"):
                call()
        # The same holds on a loop that is not the runtime's.
        with pytest.raises(RuntimeError, match=r"^trigger_sync blocks"):
            await asyncio.to_thread(asyncio.run, _trigger_in_a_coroutine())


async def _trigger_in_a_coroutine():
    twice.trigger_sync(1)


def test_sync_variant_raises_the_same_errors(plain):
    with pytest.raises(InvalidValue, match="unexpected keyword argument 'y'"):
        twice.trigger_sync(y=1)
    with pytest.raises(RunNotFound):
        runs.retrieve_sync("run_absent")
    with pytest.raises(RunNotFound):
        list(numbers.read_sync("run_absent"))
    run = twice.options(delay_s=3600).trigger_sync(1)
    with pytest.raises(ReadTimeout):
        next(numbers.read_sync(run.id, timeout_s=0))


def test_append_names_its_twin_where_nothing_is_connected():
    with pytest.raises(NotStarted, match="append_sync"):
        numbers.append(1, target="run_a")


def test_a_run_in_loop_that_takes_too_long_is_canceled(plain):
    is_canceled = threading.Event()

    async def linger():
        try:
            await asyncio.Event().wait()
        finally:
            is_canceled.set()

    with pytest.raises(TimeoutError, match=r"no result came within 0\.05 s"):
        run_in_loop(linger(), timeout_s=0.05)
    assert is_canceled.wait(DEADLINE_S)

    async def own():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        run_in_loop(own(), timeout_s=DEADLINE_S)


async def test_a_loop_that_is_left_reads_no_longer():
    async with connect(store="memory:", secret_key=SECRET) as active:
        run = await twice.options(delay_s=3600).trigger(1)
        await numbers.append(5, target=run.id)

        def read():
            for number in numbers.read_sync(run.id):
                return number

        before = asyncio.all_tasks()
        assert await asyncio.to_thread(read) == 5
        await until(lambda: asyncio.all_tasks() <= before)
        assert active is current_runtime()


async def test_a_canceled_plain_task_stops_reading():
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    @task
    def reads() -> None:
        loop.call_soon_threadsafe(begun.set)
        for _ in numbers.read_sync(current_run().id):
            pass

    async with connect(store="memory:", secret_key=SECRET):
        handle = await reads.trigger()
        await begun.wait()
        await runs.cancel(handle.id)
        result = await asyncio.wait_for(handle.wait(), DEADLINE_S)
        assert result.status == "canceled"


def test_unopenable_store_is_reported(plain, monkeypatch):
    monkeypatch.setenv("REALTIME_STORE", "sqlite:///no-such-folder/x.db")
    with pytest.raises(ConfigurationError, match="needs the folder /no-such-folder"):
        twice.trigger_sync(1)


def test_failed_store_opening_is_cached_briefly_then_retried(plain, monkeypatch):
    monkeypatch.setenv("REALTIME_STORE", "nowhere:")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="nowhere"):
            twice.trigger_sync(1)
        monkeypatch.setenv("REALTIME_STORE", "memory:")  # the cause is gone, as a lock may be
    monkeypatch.setattr(background, "REFUSED_FOR_S", 0.0)
    assert twice.trigger_and_wait_sync(4).output == 8
