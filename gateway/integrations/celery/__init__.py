"""Celery's tasks as runs, and this library's tasks on Celery's workers.

    app = Celery("shop", broker="redis://…")
    install(app)                        # that is all: workers and senders have runs from now on

A function that Celery calls by itself (`@app.task`) gets a run with each message: its status
follows Celery's signals, its parent is the run that sent it, and `append`, `metadata` and
`current_run` work inside, also in the plain functions of a prefork worker. What was appended is
durable before Celery is told that the task has succeeded. A run has no payload and no output unless
`with_payloads` is set, because a page that may read the run would see them.

`@task(runner="celery")` puts a task of this library on Celery's workers: `trigger`, waits, retries
and cancellation are those of every other task (`gateway.integrations.celery.runner`).

Workers reach the gateway at `REALTIME_URL`. While it is away Celery goes on working: what became of
the runs is told when it is back.

    publisher  where messages are sent: each carries a ticket and has a run
    runner     tasks of this library on Celery's workers
    worker     where messages are executed: runs are claimed, executed and ended
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
    """Give an application's tasks runs, and make `runner="celery"` mean this application.

    Call it where the application is made, so that every process that sends or works has it.
    Celery's signals are one for all applications of a process: install one application.

    Args:
        app: The application.
        with_payloads: Show arguments and results in the runs, to all who may read them.
        tracks: Whether the tasks of a name get runs; Celery's own (`celery.…`) never do.
    """
    task_queues.use(CeleryQueue(app))
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
    """Return the run of a task that this process has sent, and a token for a page.

    Args:
        result: What `delay` or `apply_async` returned.

    Raises:
        RunNotFound: it was sent by another process, too long ago, or is not tracked.
    """
    sender = _installed.get(result.app)
    if sender is None:
        raise RunNotFound("this application's tasks have no runs: call install(app) first")
    return sender.sent.handle(str(result.id))
