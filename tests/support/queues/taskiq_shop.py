"""A Taskiq broker with typical tasks, for the workers of the tests."""

import asyncio
import os
import time
from pathlib import Path

from taskiq import SimpleRetryMiddleware

from gateway import Retry, current_run, metadata, streams, task
from gateway.integrations.taskiq import install
from tests.support.queues.taskiq_lists import ListBroker, Results

URL = os.environ["BROKER"]
broker = ListBroker(URL, os.environ.get("QUEUE", "taskiq")).with_result_backend(Results(URL))
install(broker)
broker.add_middlewares(SimpleRetryMiddleware(default_retry_count=3))

lines = streams.define("lines")
numbers = streams.define("numbers", int)


# ---- functions that Taskiq calls by itself ----


@broker.task
async def greet(name: str) -> str:
    lines.append(f"hello {name}")
    await lines.append(f"attempt {current_run().attempt}")
    return name.upper()


@broker.task
def greet_plainly(name: str) -> str:
    lines.append(f"hello {name}")
    return name.upper()


@broker.task
async def order(names: list[str]) -> None:
    """Send further tasks, whose runs are children of this run."""
    for name in names:
        await greet.kicker().with_labels(realtime_tags=f"to-{name},greeting").kiq(name)
    metadata.set("sent", len(names))


@broker.task
async def fail(text: str) -> None:
    lines.append("before")
    raise ValueError(text)


@broker.task(retry_on_error=True)
async def flaky(fails: int) -> str:
    attempt = current_run().attempt
    lines.append(f"try {attempt}")
    if attempt <= fails:
        raise ConnectionError(f"attempt {attempt}")
    return "done"


@broker.task
async def linger(flag: str) -> None:
    lines.append(str(os.getpid()))
    while Path(flag).exists():  # noqa: ASYNC110, ASYNC240 - for a signal from another process
        await asyncio.sleep(0.02)


@broker.task
def linger_plainly(flag: str) -> None:
    lines.append(str(os.getpid()))
    while Path(flag).exists():
        lines.append("still here")
        time.sleep(0.02)


@broker.task(timeout=0.1)
async def dawdle() -> None:
    await asyncio.Event().wait()


# ---- tasks of this library ----


@task(runner="taskiq")
def add(a: int, b: int) -> int:
    numbers.append(a)
    numbers.append(b)
    return a + b


@task(runner="taskiq")
async def add_all(pairs: list[list[int]]) -> int:
    """Wait for children; one worker is enough, since a waiting run frees its slot."""
    results = await add.batch_trigger_and_wait([{"a": a, "b": b} for a, b in pairs])
    for result in results:
        numbers.append(result.output)
    return sum(result.output for result in results)


@task(runner="taskiq", retry=Retry(max_attempts=3, min_s=0.05, max_s=0.1, jitter=False))
def sometimes(fails: int) -> int:
    attempt = current_run().attempt
    if attempt <= fails:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


@task(runner="taskiq")
async def nap(flag: str) -> None:
    numbers.append(os.getpid())
    while Path(flag).exists():  # noqa: ASYNC110, ASYNC240 - as above
        await asyncio.sleep(0.02)
