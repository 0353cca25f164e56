"""A blocking call in a coroutine is reported with its stack, its task and its run."""

import asyncio
import logging
import threading

import pytest
from taskiq import InMemoryBroker

from gateway import connect, current_run, task
from gateway.integrations.taskiq import install
from gateway.sdk import background
from gateway.sdk.loops import watchdog
from gateway.sdk.loops.watchdog import BlockingWatch
from tests.support.gateways import DEADLINE_S, SECRET, serving


class Warned(logging.Handler):
    """Collects the warnings, and ends a blocking function when a warning names it."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []
        self.is_named = threading.Event()

    def emit(self, record):
        self.messages.append(record.getMessage())
        if "is_named.wait" in record.getMessage():
            self.is_named.set()


@pytest.fixture
def warned():
    handler = Warned()
    logger = logging.getLogger("realtime.runner")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def in_a_loop(main):
    """Run a coroutine function in a thread, with the watch of its event loop as the argument."""
    ready, watches = threading.Event(), []

    async def run():
        watches.append(BlockingWatch(asyncio.get_running_loop()))
        await main(ready)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(DEADLINE_S)
    return thread, watches[0]


def test_a_step_is_reported_once_it_has_blocked_for_a_second(warned):
    let_go = threading.Event()

    async def main(ready):
        ready.set()
        let_go.wait(DEADLINE_S)  # the blocking line

    thread, watch = in_a_loop(main)
    for now_s in (0.0, 0.5, 0.99):
        watch.look(now_s)
    assert warned.messages == []
    for now_s in (1.0, 1.5, 9.0):
        watch.look(now_s)
    let_go.set()
    thread.join(DEADLINE_S)
    (message,) = warned.messages
    assert "has stopped the event loop for 1.0 s" in message
    assert "# the blocking line" in message
    assert "asyncio/events.py" not in message and "base_events.py" not in message


def test_steps_that_return_to_the_loop_are_not_reported(warned):
    is_over, returns = threading.Event(), []

    async def main(ready):
        ready.set()
        while not is_over.is_set():
            returns.append(None)
            await asyncio.sleep(0)

    thread, watch = in_a_loop(main)
    for now_s in range(0, 40, 2):  # each call of `look` is late
        before = len(returns) + 2
        watch.look(float(now_s))
        while len(returns) < before:
            pass
    is_over.set()
    thread.join(DEADLINE_S)
    assert warned.messages == []


def test_an_idle_loop_is_not_asked(warned):
    is_over = asyncio.Event()

    async def main(ready):
        asyncio.get_running_loop().call_soon(ready.set)
        await is_over.wait()

    thread, watch = in_a_loop(main)
    while asyncio.current_task(watch._loop) is not None:
        pass
    for now_s in (0.0, 5.0, 10.0):
        watch.look(now_s)
    assert watch._question is None
    watch._loop.call_soon_threadsafe(is_over.set)
    thread.join(DEADLINE_S)
    assert warned.messages == []


def on_connect(body):
    async def main():
        async with connect(store="memory:", secret_key=SECRET):
            assert (await task(id="blocks")(body).trigger_and_wait()).ok

    asyncio.run(main())
    return "task 'blocks', run "


def on_a_gateway(body):
    async def main():
        async with serving():
            assert (await task(id="blocks")(body).trigger_and_wait()).ok

    asyncio.run(main())
    return "task 'blocks', run "


def in_the_background(body):
    """Run code on the background loop, like views of Django and workers of Celery."""
    try:
        assert task(id="blocks")(body).trigger_and_wait_sync().ok
    finally:
        background.stop()
    return "task 'blocks', run "


def in_taskiq(body):
    broker = InMemoryBroker()
    install(broker)
    taskiq = broker.task("own-function")(body)

    async def main():
        async with connect(store="memory:", secret_key=SECRET):
            await broker.startup()
            result = await (await taskiq.kiq()).wait_result(timeout=DEADLINE_S)
            assert not result.is_err, result.error
            await broker.shutdown()

    asyncio.run(main())
    return "task 'own-function', run "


@pytest.mark.parametrize("execute", [on_connect, on_a_gateway, in_the_background, in_taskiq])
def test_a_blocking_call_in_a_task_names_the_task_and_the_run(warned, monkeypatch, execute):
    monkeypatch.setattr(watchdog, "LOOK_S", 0.01)
    monkeypatch.setattr(watchdog, "LATE_S", 0.05)
    monkeypatch.setattr(watchdog, "QUIET_S", 0.0)  # a loaded machine may delay the loop, too
    monkeypatch.setenv("REALTIME_STORE", "memory:")
    monkeypatch.setenv("REALTIME_SECRET_KEY", SECRET)
    executed = []

    async def body() -> None:
        executed.append(current_run().id)
        warned.is_named.wait(DEADLINE_S)

    start = execute(body)
    message = next(each for each in warned.messages if "warned.is_named.wait(DEADLINE_S)" in each)
    assert message.startswith(start + executed[0])


def test_a_plain_function_may_block(warned, monkeypatch):
    monkeypatch.setattr(watchdog, "LOOK_S", 0.01)
    monkeypatch.setattr(watchdog, "LATE_S", 0.05)
    looked = threading.Event()
    look, count = BlockingWatch.look, []

    def counted(self, now_s):
        look(self, now_s)
        count.append(now_s)
        if len(count) == 20:
            looked.set()

    monkeypatch.setattr(BlockingWatch, "look", counted)

    @task
    def blocks() -> bool:
        count.clear()
        return looked.wait(DEADLINE_S)

    async def main():
        async with connect(store="memory:", secret_key=SECRET):
            assert (await blocks.trigger_and_wait()).output is True

    asyncio.run(main())
    assert not any("looked.wait" in message for message in warned.messages)
