"""Celery tasks as runs, and `@task` on Celery workers.

    app = Celery("shop", broker="redis://…")
    install(app)                        # workers and senders now create runs

A function that Celery calls by itself (`@app.task`) gets a run for each message. The run's status
follows Celery's signals, its parent is the run that sent the message, and `append`, `metadata` and
`current_run` work inside, including plain functions of a prefork worker. Appended records are
durable before Celery marks the task as succeeded. A run has no payload and no output unless
`with_payloads` is set, because every page that may read the run would see them.

`@task(runner="celery")` executes a task of this library on Celery workers. `trigger`, waits,
retries and cancellation work as for any other task (`gateway.integrations.celery.runner`).

Workers connect to the gateway at `REALTIME_URL`. While it is unreachable, Celery continues to work,
and the updates of runs are sent later.

    publisher  signals of sending processes: each message gets a ticket and a run
    runner     `@task(runner="celery")`: tasks of this library on Celery workers
    worker     signals of workers: runs are claimed, executed and finished
"""

from __future__ import annotations

from collections.abc import Callable

from gateway._internal.extras import needs
from gateway.errors import RunNotFound
from gateway.integrations._handles import Handle
from gateway.integrations.celery.publisher import Publisher
from gateway.integrations.celery.runner import PREFIX, CeleryQueue
from gateway.integrations.celery.worker import Worker
from gateway.sdk.execution import task_queues

with needs("celery"):
    from celery import Celery, signals
    from celery.result import AsyncResult

_installed: dict[Celery, Publisher] = {}


def install(
    app: Celery,
    *,
    with_payloads: bool = False,
    tracks: Callable[[str], bool] = lambda name: True,
) -> None:
    """Track an application's tasks as runs, and use it for `runner="celery"`.

    Call it in the module that creates the application, so that it is called in every sender and
    worker. Celery's signals belong to the process, not to an application: install one application
    per process.

    Args:
        app: The application.
        with_payloads: Store arguments and results in the runs, visible to every reader of a run.
        tracks: Whether to track tasks of a name. Celery's own (`celery.…`) are never tracked.
    """
    task_queues.register(CeleryQueue(app))
    if app in _installed:
        return

    def is_tracked(name: str) -> bool:
        return not name.startswith(("celery.", PREFIX)) and tracks(name)

    sender = _installed[app] = Publisher(is_tracked, with_payloads)
    worker = Worker(app, is_tracked, with_payloads)
    for signal, receiver in {**sender.receivers, **worker.receivers}.items():
        getattr(signals, signal).connect(receiver, weak=False)
    app.on_after_finalize.connect(lambda **_: worker.wrap_all(), weak=False)


def handle_of(result: AsyncResult) -> Handle:
    """Return the run of a task that this process has sent, with a token for a page.

    Args:
        result: The return value of `delay` or `apply_async`.

    Raises:
        RunNotFound: the task was sent by another process, too long ago, or is not tracked.
    """
    sender = _installed.get(result.app)
    if sender is None:
        raise RunNotFound("this application's tasks have no runs: call install(app) first")
    return sender.sent.handle(str(result.id))
