"""`@task`, and the tasks that are defined in this process."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, overload

from gateway._internal.name_lists import listed
from gateway.errors import InvalidValue, TaskNotFound
from gateway.model.runs import Run
from gateway.sdk.execution.redelivery import take_over
from gateway.sdk.options import ONCE, Options, Retry
from gateway.sdk.runtime import current_runtime
from gateway.sdk.tasks import Task, require_runner

P = ParamSpec("P")
R = TypeVar("R")

_tasks: dict[str, Task[..., Any]] = {}


@overload
def task(function: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    id: str | None = None,
    retry: Retry = ONCE,
    max_duration_s: float | None = None,
    runner: str | None = None,
) -> _Decorator: ...


def task(
    function: Any = None,
    /,
    *,
    id: str | None = None,
    retry: Retry = ONCE,
    max_duration_s: float | None = None,
    runner: str | None = None,
) -> Any:
    """Make a function a task.

    Args:
        function: Async or plain. A plain function is executed in a thread, and an awaitable that it
            returns is awaited. Parameters and result are checked against their annotations and
            stored as JSON. Generators are refused: `stream.pipe` takes those.
        id: Name of the task; default: the function's name, with `-` for `_`.
        retry: How often and when a failed run is retried; default: never. `AbortTask` (also in a
            group of exceptions), `RunCanceled` and a timeout are never retried.
        max_duration_s: How long a run may execute; see `Task.options`.
        runner: Who executes the runs: `process` (the process that triggers them), `celery`,
            `taskiq`; default: REALTIME_RUNNER.

    Returns:
        The task; without a function, a decorator.

    Raises:
        InvalidId: the id is not allowed.
        InvalidValue: another task has this id, or the argument is no function, or is a generator.
    """
    decorate = _Decorator(id, Options(retry=retry, max_duration_s=max_duration_s, runner=runner))
    return decorate if function is None else decorate(function)


class _Decorator:
    def __init__(self, id: str | None, options: Options) -> None:
        self._id = id
        self._options = options

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...

    def __call__(self, function: Any, /) -> Any:
        return _register(function, self._id or _default_id(function), self._options)


def _default_id(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")


def _register(function: Callable[..., Any], id: str, options: Options) -> Task[..., Any]:
    new = Task[..., Any](function, id, options)
    old = _tasks.get(id)
    # The same name again means that its module was reloaded.
    if old is not None and old.name != new.name:
        raise InvalidValue(f"task id {id!r} is taken by {old.name}")
    _tasks[id] = new
    return new


def defined() -> list[Task[..., Any]]:
    """Return the tasks that are defined in this process."""
    return list(_tasks.values())


def is_known(task_id: str) -> bool:
    """Whether a task with this id is defined in this process."""
    return task_id in _tasks


def find_task(task_id: str, is_listed: Callable[[str], bool] = lambda _: True) -> Task[..., Any]:
    """Return the task with an id.

    Args:
        task_id: The id.
        is_listed: Whether the error may list a defined task.

    Raises:
        TaskNotFound: this process defines no such task; the message lists the defined ones.
    """
    found = _tasks.get(task_id)
    if found is None:
        known = listed(task_id, sorted(filter(is_listed, _tasks)))
        hint = f"the tasks here are {known}" if known else "import the module that defines it"
        raise TaskNotFound(f"no task {task_id!r} is defined in this process; {hint}")
    return found


def resume(run: Run) -> bool:
    """Start a run that an earlier process left queued; false if this process lacks its task."""
    if run.task not in _tasks:
        return False
    find_task(run.task).start(run)
    return True


async def execute_queued(run_id: str, requeue_owner: str | None = None) -> Run:
    """Execute a run that a task queue delivered, unless it has ended or executes elsewhere.

    Args:
        run_id: The run.
        requeue_owner: As in `Runner.execute_queued`.

    Returns:
        The run after that.

    Raises:
        RunNotFound: there is no such run.
        TaskNotFound: this process does not define the run's task.
    """
    runtime = current_runtime()
    run = (await runtime.store.get_run(run_id)).run
    if run.is_finished:
        return run
    task, runner = find_task(run.task), require_runner(runtime)
    # A run that executes here may carry the name of another worker that asks for it at this moment.
    if run.is_executing and run.owner != runner.owner and not runner.has(run.id):
        run = await take_over(runtime, run, runner.owner)
    return await task.execute_queued(run, requeue_owner) if run.is_queued else run
