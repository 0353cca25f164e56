"""Tasks: functions whose executions are runs.

@task
async def process_items(items: list[str]) -> int: ...

handle = await process_items.trigger(items=["a"])      # handle.id, handle.access_token
result = await process_items.trigger_and_wait(items=["a"])
results = await worker.batch_trigger_and_wait([{"item": 1}, {"item": 2}])
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from datetime import datetime
from functools import partial, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from gateway import tokens
from gateway._internal import tracing
from gateway._internal.name_lists import listed
from gateway.errors import InvalidValue, TaskNotFound
from gateway.model.limits import MAX_BATCH_RUNS
from gateway.model.log import run_log
from gateway.model.records import check_stream_id
from gateway.model.run_limits import check_tags
from gateway.model.runs import Run, check_new_run
from gateway.sdk.execution import creation, task_queues
from gateway.sdk.execution.redelivery import take_over
from gateway.sdk.execution.runner import Runner, waiting
from gateway.sdk.loops.bridge import on_its_loop
from gateway.sdk.loops.sync_calls import in_plain_code
from gateway.sdk.options import ONCE, Options, Retry
from gateway.sdk.results import RunHandle, RunResult
from gateway.sdk.runtime import Runtime, current_run, runtime
from gateway.sdk.values.signatures import Signature

P = ParamSpec("P")
R = TypeVar("R")

HANDLE_TTL_S = 3600.0  # life of a handle's token

_tasks: dict[str, Task[..., Any]] = {}


class Task(Generic[P, R]):
    """A function whose executions are runs. Made by `@task`; calling it calls the function itself.

    Args:
        function: Async, or plain: then it is executed in a thread.
        id: Name of the task.
    """

    def __init__(
        self, function: Callable[P, Awaitable[R]] | Callable[P, R], id: str, options: Options
    ) -> None:
        self.id = check_stream_id(id)
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise _is_generator(self.id)
        if not hasattr(function, "__qualname__"):
            raise InvalidValue(f"task {self.id!r} is {function!r:.80}; it has to be a function")
        self._function: Callable[..., Any] = function
        self._signature = Signature[R](self.id, function)
        self._options = options
        self.name = f"{function.__module__}.{function.__qualname__}"
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function directly: no run, no store."""
        return self._function(*args, **kwargs)

    def options(
        self,
        *,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        idempotency_key_ttl_s: float | None = None,
        delay_s: float | None = None,
        delay_until: datetime | None = None,
        ttl_s: float | None = None,
        max_duration_s: float | None = None,
        runner: str | None = None,
    ) -> Task[P, R]:
        """Return the task with options for what it triggers; those not given stay as they are.

        Args:
            tags: Up to 10, of up to 128 characters; runs can be found and read by them.
            metadata: JSON object shown with the run; up to 256 KiB.
            idempotency_key: Of triggers of this task with the same key only the first makes a
                run; the others get a handle of that one.
            idempotency_key_ttl_s: After how many seconds the key makes a new run; default 30 days.
            delay_s: Start no sooner than this many seconds from the trigger.
            delay_until: Start no sooner than this moment (with a time zone).
            ttl_s: If it has not started this many seconds after it was due, it never does, and
                ends as `expired`.
            max_duration_s: How long it may execute, all attempts together; waits do not count.
                After that it ends as `timed_out`.
            runner: Who executes; see `task`.

        Raises:
            InvalidValue: a value is outside its rule.
            InvalidId: a tag is.
        """
        given: dict[str, Any] = {
            "tags": check_tags(tags) if tags is not None else None,
            "metadata": metadata,
            "idempotency_key": idempotency_key,
            "idempotency_key_ttl_s": idempotency_key_ttl_s,
            "delay_s": delay_s,
            "delay_until": delay_until,
            "ttl_s": ttl_s,
            "max_duration_s": max_duration_s,
            "runner": runner,
        }
        given = {name: value for name, value in given.items() if value is not None}
        return self.with_options(replace(self._options, **given))

    @property
    def defaults(self) -> Options:
        """What its runs are started with, as far as nothing else is said."""
        return self._options

    @property
    def parameter_types(self) -> dict[str, Any]:
        """The type of each parameter, by its name."""
        return self._signature.parameter_types

    @property
    def output_type(self) -> type[R]:
        """The type of what a run of it gives."""
        return cast("type[R]", self._signature.output_type)

    def with_options(self, options: Options) -> Task[P, R]:
        """Return the task with exactly these options."""
        changed = copy(self)
        changed._options = options
        return changed

    @on_its_loop
    async def trigger(self, *args: P.args, **kwargs: P.kwargs) -> RunHandle[R]:
        """Start a run and return at once.

        Inside a run, the new run becomes its child. If the caller is canceled meanwhile, the run is
        begun all the same, or was never made.

        Returns:
            A handle with the run's id and a token for that run alone.

        Raises:
            InvalidValue: the arguments do not fit the function, or are no JSON.
        """
        run = await self._create(self._signature.bind(args, kwargs))
        return self._handle(run)

    @on_its_loop
    async def trigger_payload(self, payload: Mapping[str, Any]) -> RunHandle[R]:
        """Start a run from its keyword arguments as JSON, as a page sends them."""
        return self._handle(await self._create(self._signature.bind_keywords(payload)))

    def check_payload(self, payload: Mapping[str, Any]) -> None:
        """Check keyword arguments without starting anything.

        Raises:
            InvalidValue: they do not fit the function.
        """
        self._signature.bind_keywords(payload)

    def check_arguments(self, arguments: Mapping[str, bytes | None]) -> None:
        """Check keyword arguments of which some are known later only, as on a page.

        Args:
            arguments: Each as JSON; None: its value is not known yet.

        Raises:
            InvalidValue: they do not fit the function.
        """
        self._signature.check_arguments(arguments)

    @on_its_loop
    async def trigger_and_wait(self, *args: P.args, **kwargs: P.kwargs) -> RunResult[R]:
        """Start a run and wait until it has ended; a failure is in the result, not raised."""
        run = await self._create(self._signature.bind(args, kwargs))
        async with waiting():
            return await self.wait(run.id)

    @on_its_loop
    async def batch_trigger(self, payloads: Iterable[Mapping[str, Any]]) -> list[RunHandle[R]]:
        """Start a run for each payload.

        Args:
            payloads: The keyword arguments of each run, up to 1,000; all are checked before the
                first is started.

        Returns:
            Handles in the order of the payloads.
        """
        return [self._handle(run) for run in await self._create_batch(payloads)]

    @on_its_loop
    async def batch_trigger_and_wait(
        self, payloads: Iterable[Mapping[str, Any]]
    ) -> list[RunResult[R]]:
        """Start a run for each payload and wait for all; failures are in the results.

        Returns:
            Results in the order of the payloads.
        """
        runs = await self._create_batch(payloads)
        async with waiting():
            return list(await asyncio.gather(*(self.wait(run.id) for run in runs)))

    trigger_sync = in_plain_code(trigger)
    trigger_and_wait_sync = in_plain_code(trigger_and_wait)
    batch_trigger_sync = in_plain_code(batch_trigger)
    batch_trigger_and_wait_sync = in_plain_code(batch_trigger_and_wait)

    @on_its_loop
    async def wait(self, run_id: str) -> RunResult[R]:
        """Wait until a run of this task has ended.

        Raises:
            RunNotFound: there is no such run.
        """
        store = runtime().store
        state = await store.get_run(run_id)
        if state.run.is_finished:
            return self._result(state.run)
        pages = store.follow(run_log(run_id), state.position)
        del state  # its payload: there may be a thousand waits at once
        async with aclosing(pages) as open_pages:
            async for page in open_pages:
                if page.end is not None:
                    break
        return self._result((await store.get_run(run_id)).run)

    wait_sync = in_plain_code(wait)

    def _result(self, run: Run) -> RunResult[R]:
        ok = run.status == "completed"
        output = self._signature.output_of(run.output) if ok else None
        return RunResult(ok, run.id, run.status, run.error, output)

    # ---- making runs ----

    async def _create_batch(self, payloads: Iterable[Mapping[str, Any]]) -> list[Run]:
        bound = [self._signature.bind_keywords(payload) for payload in payloads]
        if len(bound) > MAX_BATCH_RUNS:
            raise InvalidValue(
                f"the batch has {len(bound)} payloads; the limit is {MAX_BATCH_RUNS}"
            )
        if len(bound) > 1 and self._options.idempotency_key is not None:
            raise InvalidValue(f"the batch has {len(bound)} payloads; an idempotency key is of one")
        active = runtime()
        batch_id = active.run_ids.new(active.clock_ms()).replace("run_", "batch_")
        return list(await asyncio.gather(*(self._create(one, batch_id) for one in bound)))

    async def _create(self, payload: Any, batch_id: str | None = None) -> Run:
        with tracing.span(f"trigger {self.id}", kind="producer", task=self.id):
            return await self._create_traced(payload, batch_id)

    async def _create_traced(self, payload: Any, batch_id: str | None) -> Run:
        active = runtime()
        queue = task_queues.find(self._options.runner or active.default_runner)
        now_ms = active.clock_ms()
        id = active.run_ids.new(now_ms)
        parent = current_run()
        run = Run(
            id=id,
            task=self.id,
            root_id=parent.root_id if parent else id,
            parent_id=parent.id if parent else None,
            batch_id=batch_id,
            payload=payload,
            owner=_runner(active).owner if queue is None else task_queues.owner_of(queue.name),
            **self._options.fields(now_ms),
        )
        run.metadata.update(tracing.carried())
        check_new_run(run)
        return await creation.make(active, run, partial(self._begin, queue, run.id))

    async def _begin(self, queue: task_queues.TaskQueue | None, id: str, run: Run) -> None:
        """Have a run executed that was made, or found under its idempotency key."""
        if queue is not None:
            if run.id == id:
                await queue.put(run)
        elif run.is_queued and run.owner == _runner(runtime()).owner:
            self.start(run)  # one that is found may be left by a trigger that failed

    async def carry_out(self, run: Run, rests_with: str | None = None) -> Run:
        """Execute a run of this task that a queue brought; see `Runner.carry_out`."""
        runner = _runner(runtime())
        body = partial(self._execute, runner)
        return await runner.carry_out(run, body, self._options.retry, rests_with)

    def start(self, run: Run) -> None:
        """Execute a run of this task that the store keeps, unless it is being executed here."""
        runner = _runner(runtime())
        # Outside the parent's context: the child has a context of its own.
        runner.start(run, partial(self._execute, runner), self._options.retry)

    def _handle(self, run: Run) -> RunHandle[R]:
        return RunHandle(run.id, tokens.mint([f"read:runs:{run.id}"], ttl_s=HANDLE_TTL_S), self)

    # ---- executing ----

    async def _execute(self, runner: Runner, run: Run) -> Any:
        arguments = self._signature.arguments_of(run.payload)
        if inspect.iscoroutinefunction(self._function):
            output = await self._function(**arguments)
        else:
            output = await runner.call_in_thread(partial(self._function, **arguments))
            if inspect.isawaitable(output):  # of an async function behind a plain decorator
                output = await output
        if inspect.isgenerator(output) or inspect.isasyncgen(output):
            raise _is_generator(self.id)
        return self._signature.output_to_json(output)


def _is_generator(task_id: str) -> InvalidValue:
    return InvalidValue(
        f"task {task_id!r} is a generator, whose values nothing would take: append them to a "
        "stream (stream.append, stream.pipe), or return a list"
    )


def _runner(active: Runtime) -> Runner:
    if active.runner is None:
        raise TaskNotFound("this process has no runner: it was connected with run_tasks=False")
    return active.runner


def find_task(task_id: str, is_listed: Callable[[str], bool] = lambda _: True) -> Task[..., Any]:
    """Return the task with an id.

    Args:
        task_id: The id.
        is_listed: Whether the error may name a task that is defined.

    Raises:
        TaskNotFound: none is defined in this process; lists those that are.
    """
    found = _tasks.get(task_id)
    if found is None:
        known = listed(task_id, sorted(filter(is_listed, _tasks)))
        hint = f"the tasks here are {known}" if known else "import the module that defines it"
        raise TaskNotFound(f"no task {task_id!r} is defined in this process; {hint}")
    return found


def _id_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")


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
        function: Async, or plain: then it is executed in a thread; what it returns is awaited if
            it can be. Its parameters and result are checked against their annotations and kept as
            JSON. No generator: `stream.pipe` takes those.
        id: Name of the task; default: the function's, with `-` for `_`.
        retry: How often and when a run that fails is tried again; default: not at all. `AbortTask`
            (also in a group of exceptions) and `RunCanceled` are not tried again, nor is what timed
            out.
        max_duration_s: How long a run may execute; see `Task.options`.
        runner: Who executes its runs: `process` (the one that triggers them), `celery`, `taskiq`;
            default: REALTIME_RUNNER.

    Returns:
        The task; without a function, a decorator.

    Raises:
        InvalidId: the id is outside its rule.
        InvalidValue: another task has this id, or it is no function, or a generator.
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
        return _register(function, self._id or _id_of(function), self._options)


def defined() -> list[Task[..., Any]]:
    """Return the tasks that are defined in this process."""
    return list(_tasks.values())


async def carry_out(run_id: str, rests_with: str | None = None) -> Run:
    """Execute a run that a queue brought here, unless it has ended, or executes elsewhere.

    Args:
        run_id: Which run.
        rests_with: As in `Runner.carry_out`.

    Returns:
        The run as it is then.

    Raises:
        RunNotFound: there is no such run.
        TaskNotFound: its task is not defined here.
    """
    active = runtime()
    run = (await active.store.get_run(run_id)).run
    if run.is_finished:
        return run
    task, runner = find_task(run.task), _runner(active)
    # One that executes here may bear the name of another worker, which asks for it just now.
    if run.is_executing and run.owner != runner.owner and not runner.has(run.id):
        run = await take_over(active, run, runner.owner)
    return await task.carry_out(run, rests_with) if run.is_queued else run


def is_known(task_id: str) -> bool:
    """Whether a task with this id is defined in this process."""
    return task_id in _tasks


def resume(run: Run) -> bool:
    """Start a run that an earlier process left queued; false if its task is not known here."""
    if run.task not in _tasks:
        return False
    find_task(run.task).start(run)
    return True


def _register(function: Callable[..., Any], id: str, options: Options) -> Task[..., Any]:
    new = Task[..., Any](function, id, options)
    old = _tasks.get(id)
    # The same function again is a module that was loaded anew.
    if old is not None and old.name != new.name:
        raise InvalidValue(f"task id {id!r} is taken by {old.name}")
    _tasks[id] = new
    return new
