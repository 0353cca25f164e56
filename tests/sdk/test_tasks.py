"""Tasks: their functions, names, tags and handles."""

import asyncio
import functools
import time
from collections.abc import Awaitable

import pytest

from gateway import current_run, runs, task, tokens
from gateway.errors import (
    InvalidId,
    InvalidValue,
    RunNotFound,
)
from gateway.model.records import StreamKey
from tests.support.gateways import SECRET, until
from tests.support.sdk.tasks import Item


def _passing_on(function):
    """Decorate a function as many libraries do; what it returns may be a coroutine."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


# Functions.


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


def test_task_id_defaults_to_function_name():
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
