"""A forked child of a process that uses the SDK: refused with a remedy, and the remedy works."""

import asyncio
import multiprocessing
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor

import pytest

from gateway import connect, current_run, metadata, streams, task
from gateway.errors import NotStarted
from gateway.sdk.runtime import has_runtime
from tests.support.gateways import DEADLINE_S, SECRET, serving

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
FORK = multiprocessing.get_context("fork")
numbers = streams.define("numbers", int)


def in_child(work) -> str:
    """Run a function in a forked child; give "" or the traceback of what it raised."""
    told, telling = FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            work()
            telling.send("")
        except BaseException:
            telling.send(traceback.format_exc())

    child = FORK.Process(target=run)
    child.start()
    assert told.poll(DEADLINE_S), "the child hangs"
    text = told.recv()
    child.join(DEADLINE_S)
    return text


@pytest.mark.process
async def test_append_in_a_forked_child_is_refused_with_a_remedy() -> None:
    told: list[str] = []

    @task
    def works() -> bool:
        receipt = numbers.append(1)
        held, pipe = numbers.writer(), numbers.pipe([2])
        for use in (
            lambda: numbers.append(3),
            lambda: metadata.set("n", 3),
            lambda: held.append(3),
            lambda: list(pipe),
            lambda: receipt.wait(1) if not receipt.is_done else numbers.append(3),
        ):
            told.append(in_child(use))
        return list(pipe) == [2] and has_runtime()

    async with connect(store="memory:"):
        run = await works.trigger()
        assert (await run.wait()).output is True
        assert [value async for value in numbers.read(run.id, timeout_s=DEADLINE_S)] == [1, 2]
    assert len(told) == 5
    for text in told:
        assert "NotStarted" in text and "forked from" in text and "target=run_id" in text


def doubled(n: int) -> int:
    numbers.append(n)
    return 2 * n


@pytest.mark.process
async def test_append_in_a_pool_of_forked_processes_fails_where_its_result_is_awaited() -> None:
    @task
    def works() -> int:
        with ProcessPoolExecutor(1, mp_context=FORK) as pool:
            return pool.submit(doubled, 4).result(DEADLINE_S)

    async with connect(store="memory:"):
        result = await (await works.trigger()).wait()
    assert (result.status, result.error.type) == ("failed", NotStarted.__name__)


async def test_forked_child_appends_through_its_own_connection() -> None:
    async def append_all(url: str, run_id: str) -> None:
        async with connect(url, secret_key=SECRET):
            for n in range(3):
                await numbers.append(n, target=run_id)

    async with serving() as server:

        @task
        def works() -> str:
            run = current_run()
            return in_child(lambda: asyncio.run(append_all(server.url, run.id)))

        run = await works.trigger()
        assert (await run.wait()).output == ""
        assert [value async for value in numbers.read(run.id)] == [0, 1, 2]
