"""What the SDK awaits works on other event loops: in `asyncio.run(…)` of a plain task or thread."""

import asyncio
import inspect
import threading
from contextlib import aclosing

import pytest

from gateway import connect, current_run, metadata, run_in_loop, runs, streams, task, tokens, wait
from gateway.errors import RunCanceled
from gateway.sdk import inputs, results, tasks
from gateway.sdk.metadata import Metadata
from gateway.sdk.runtime import current_runtime
from gateway.sdk.streams import Stream
from tests.support.gateways import DEADLINE_S, SECRET, until, working
from tests.support.stores import working_on

numbers = streams.define("numbers", int)
orders = streams.input("orders", int)


@task
async def double(x: int) -> int:
    for number in range(x):
        numbers.append(number)
    return 2 * x


@task
def everything() -> dict:
    return asyncio.run(all_of_it())


async def all_of_it():
    found = {}
    run_id = current_run().id
    found["child"] = (await double.trigger_and_wait(2)).output
    handles = await asyncio.gather(*(double.trigger(x) for x in (3, 4)))
    found["gathered"] = [each.output for each in await asyncio.gather(*(h.wait() for h in handles))]
    batch = await double.batch_trigger_and_wait([{"x": 5}, {"x": 6}])
    found["batch"] = [each.output for each in batch]
    found["parent"] = (await runs.retrieve(handles[0].id)).parent_id == run_id
    found["children"] = len(await runs.list(parent_id=run_id))
    found["read"] = [number async for number in numbers.read(handles[0].id)]
    async for first in numbers.read(handles[1].id):  # noqa: B007
        break
    found["first"] = first
    seen = [each async for each in runs.subscribe(handles[0].id)]
    both = [each async for each in runs.subscribe(handles[0].id).with_streams(numbers)]
    found["seen"] = (seen[-1].output, len(both))
    found["piped"] = await numbers.pipe([7, 8])
    async with numbers.writer() as writer:
        await writer.append(9)
    metadata.set("here", True)
    await metadata.flush()
    await wait.for_seconds(0)
    token = await wait.create_token(int)
    await wait.complete_token(token.id, 10)
    found["answer"] = await wait.for_token(token)
    await orders.send(run_id, 11)
    found["peek"] = await orders.peek()
    found["orders"] = [await orders.once()]
    await orders.send(run_id, 12)
    found["orders"].append(await orders.wait())
    taken, loop = asyncio.Event(), asyncio.get_running_loop()

    async def take(order):
        assert asyncio.get_running_loop() is loop  # a handler belongs to the loop of its block
        found["orders"].append(order)
        taken.set()

    async with orders.on(take):
        await orders.send(run_id, 13)
        await taken.wait()
    return found


EVERYTHING = {
    "child": 4,
    "gathered": [6, 8],
    "batch": [10, 12],
    "parent": True,
    "children": 5,
    "read": [0, 1, 2],
    "first": 0,
    "seen": [6, 4],
    "piped": [7, 8],
    "answer": 10,
    "peek": 11,
    "orders": [11, 12, 13],
}


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "remote"])
async def test_plain_task_awaits_everything_in_asyncio_run(kind, tmp_path):
    async with working_on(kind, tmp_path):
        result = await asyncio.wait_for(everything.trigger_and_wait(), DEADLINE_S)
        assert result.output == EVERYTHING
        assert (await runs.retrieve(result.run_id)).metadata == {"here": True}
        own = [number async for number in numbers.read(result.run_id)]
        assert own == [7, 8, 9]


async def test_plain_thread_awaits_outside_a_run():
    async with working():
        result = await asyncio.to_thread(asyncio.run, double.trigger_and_wait(3))
        assert result.output == 6


def _is_imported(where, member):
    return inspect.ismodule(where) and member.__module__ != where.__name__


def _coroutines(where):
    for name, member in vars(where).items():
        is_async = inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
        if is_async and not (name.startswith("_") or _is_imported(where, member)):
            yield f"{where.__name__}.{name}", member


NEVER_CALLED_BY_USERS = ("Task.execute_queued",)
MADE_OF_OTHERS = ("Stream.read_records",)


def test_every_coroutine_of_the_sdk_is_carried_to_its_loop():
    places = (runs, wait, tasks.Task, results.RunHandle, inputs.InputStream, Metadata.__base__)
    carried = [each for place in (*places, Stream) for each in _coroutines(place)]
    assert len(carried) > 15
    for name, function in carried:
        if name not in NEVER_CALLED_BY_USERS + MADE_OF_OTHERS:
            assert hasattr(function, "__wrapped__"), f"{name} lacks @run_on_sdk_loop"


@pytest.mark.parametrize("how", ["asyncio.run", "run_in_loop"])
async def test_wait_of_plain_task_on_another_loop_is_cancelable(how):
    reasons, is_waiting = [], threading.Event()

    async def linger():
        is_waiting.set()
        await wait.for_seconds(3600)

    @task
    def patient() -> None:
        try:
            asyncio.run(linger()) if how == "asyncio.run" else run_in_loop(linger())
        except BaseException as error:
            reasons.append(type(error))
            raise

    async with working():
        run = await patient.trigger()
        await until(is_waiting.is_set)
        await until_waiting(run.id)
        await runs.cancel(run.id)
        assert (await run.wait()).status == "canceled"
        assert reasons == [RunCanceled]


async def until_waiting(run_id):
    async for run in runs.subscribe(run_id):
        if run.is_waiting:
            return


async def test_reader_on_another_loop_that_is_canceled_leaves_nothing_behind():
    async def read_a_little(run_id):
        async with aclosing(numbers.read(run_id)) as values:
            assert await anext(values) == 1
            async with asyncio.timeout(0.01):
                await anext(values)

    async with working() as active:
        run = await double.options(delay_s=3600).trigger(1)
        await numbers.append(1, target=run.id)
        before = len(asyncio.all_tasks())
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(asyncio.run, read_a_little(run.id))
        await until(lambda: len(asyncio.all_tasks()) <= before)
        assert active is current_runtime()


async def test_token_is_revoked_on_another_loop():
    async with connect(store="memory:", secret_key=SECRET):
        await asyncio.to_thread(asyncio.run, tokens.revoke(subject="a leaver"))


def test_loop_that_does_not_run_is_an_error_and_no_hang():
    loop = asyncio.new_event_loop()
    place = working()
    loop.run_until_complete(place.__aenter__())
    try:
        with pytest.raises(RuntimeError, match="event loop does not run"):
            asyncio.run(double.trigger(1))
    finally:
        loop.run_until_complete(place.__aexit__(None, None, None))
        loop.close()
