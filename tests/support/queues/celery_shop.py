"""A typical Celery application, for the workers of the tests."""

import os
import signal
import time
from pathlib import Path

from celery import Celery

from gateway import AbortTask, Retry, current_run, metadata, streams, task
from gateway.integrations.celery import install, publisher

app = Celery("shop", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"polling_interval": 0.02},
    task_annotations={
        "realtime.die": {"acks_late": True, "reject_on_worker_lost": True},
        "realtime.die-and-retry": {"acks_late": True, "reject_on_worker_lost": True},
        "realtime.limited": {"soft_time_limit": 0.2},
        "realtime.limited-plain": {"soft_time_limit": 0.2},
    },
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
install(app)
publisher.UPDATE_TIMEOUT_S = float(os.environ.get("PATIENCE_S", publisher.UPDATE_TIMEOUT_S))

lines = streams.define("lines")
numbers = streams.define("numbers", int)


# ---- functions that Celery calls by itself ----


@app.task
def greet(name):
    context = current_run()
    lines.append(f"hello {name}")
    lines.append(f"attempt {context.attempt}")
    return name.upper()


@app.task
def silent(name):
    return name


@app.task
def order(names):
    """Send further tasks, whose runs are children of this run."""
    for name in names:
        greet.apply_async((name,), headers={"realtime_tags": [f"to-{name}"]})
    metadata.set("sent", len(names))


@app.task
def fail(text):
    lines.append("before")
    raise ValueError(text)


class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")


@app.task
def fail_oddly(what):
    errors = {
        "half an emoji": ValueError("cannot parse \ud83d"),
        "mute": Mute(),
        "group": ExceptionGroup("g", [OSError("a"), OSError("b")]),
    }
    raise errors[what]


@app.task(bind=True, max_retries=3)
def flaky(self, fails):
    lines.append(f"try {self.request.retries + 1}")
    if self.request.retries < fails:
        raise self.retry(exc=ConnectionError("not yet"), countdown=0.1)
    return "done"


@app.task
def linger(flag):
    """Append until the flag is removed or the process ends."""
    lines.append(str(os.getpid()))
    while Path(flag).exists():
        lines.append("still here")
        time.sleep(0.02)


@app.task(acks_late=True, reject_on_worker_lost=True)
def die_once(flag):
    """Kill this process during the first execution."""
    lines.append("began").wait(20)
    if Path(flag).exists():
        Path(flag).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@app.task(soft_time_limit=0.2)
def dawdle(flag):
    while Path(flag).exists():
        time.sleep(0.01)


# ---- tasks of this library ----


@task(runner="celery")
def add(a: int, b: int) -> int:
    numbers.append(a)
    numbers.append(b)
    return a + b


@task(runner="celery")
async def add_all(pairs: list[list[int]]) -> int:
    """Wait for children that other processes execute."""
    results = await add.batch_trigger_and_wait([{"a": a, "b": b} for a, b in pairs])
    for result in results:
        numbers.append(result.output)
    return sum(result.output for result in results)


@task(runner="celery", retry=Retry(max_attempts=3, min_s=0.05, max_s=0.1, jitter=False))
def sometimes(fails: int, abort: bool = False) -> int:
    attempt = current_run().attempt
    metadata.set(f"attempt {attempt}", os.getpid())
    if abort:
        raise AbortTask("no use")
    if attempt <= fails:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


@task(runner="celery")
def count(flag: str) -> int:
    """Append until the run is canceled or the process is killed."""
    numbers.append(os.getpid())
    number = 0
    while Path(flag).exists():
        number += 1
        numbers.append(number)
        time.sleep(0.01)
    return number


@task(runner="celery")
async def nap(flag: str) -> None:
    import asyncio

    numbers.append(os.getpid())
    while Path(flag).exists():  # noqa: ASYNC110, ASYNC240 - for a signal from another process
        await asyncio.sleep(0.02)


@task(runner="celery")
async def limited() -> None:
    import asyncio

    await asyncio.Event().wait()


@task(runner="celery")
def limited_plain() -> None:
    while True:
        numbers.append(1).wait()


@task(runner="celery")
def die(flag: str) -> str:
    """Kill this process during the first execution; Celery's settings redeliver the task."""
    numbers.append(os.getpid()).wait()
    if Path(flag).exists():
        Path(flag).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@task(runner="celery", retry=Retry(max_attempts=2))
def die_and_retry(flag: str) -> int:
    """Like `die`, for a task with several attempts."""
    die(flag)
    return current_run().attempt
