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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from copy import copy
from dataclasses import replace
from datetime import datetime
from functools import partial, update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, cast

from gateway import tokens
from gateway._internal import tracing
from gateway.errors import InvalidValue, TaskNotFound
from gateway.model.limits import MAX_BATCH_RUNS
from gateway.model.log import run_log
from gateway.model.records import check_stream_id
from gateway.model.run_limits import check_tags
from gateway.model.runs import Run, check_new_run
from gateway.sdk.context import current_run
from gateway.sdk.execution import creation, task_queues
from gateway.sdk.execution.slot import waiting
from gateway.sdk.loops.bridge import run_on_sdk_loop
from gateway.sdk.loops.sync_calls import make_sync
from gateway.sdk.options import Options
from gateway.sdk.results import RunHandle, RunResult
from gateway.sdk.runtime import RunExecutor, Runtime, current_runtime
from gateway.sdk.values.signatures import Signature

P = ParamSpec("P")
R = TypeVar("R")

HANDLE_TTL_S = 3600.0  # lifetime of a handle's token


class Task(Generic[P, R]):
    """A function whose executions are runs. Made by `@task`; calling it calls the function itself.

    Args:
        function: Async or plain. A plain function is executed in a thread.
        id: Name of the task.
        options: Applied to every run.
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
        """Call the function directly, without a run or a store."""
        return self._function(*args, **kwargs)

    # ---- options ----

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
        """Return the task with options for the runs that it triggers; None leaves one unchanged.

        Args:
            tags: Up to 10, of up to 128 characters. Runs can be listed and read by tag.
            metadata: JSON object shown with the run; up to 256 KiB.
            idempotency_key: The first trigger of this task with a key makes a run. Later triggers
                with the same key return a handle of that run.
            idempotency_key_ttl_s: Lifetime of the key in seconds; default 30 days. After that a
                trigger makes a new run.
            delay_s: Start no sooner than this many seconds after the trigger.
            delay_until: Start no sooner than this moment (with a time zone).
            ttl_s: A run that has not started this many seconds after it was due never starts, and
                ends as `expired`.
            max_duration_s: How long a run may execute, all attempts together, without its waits.
                After that it ends as `timed_out`.
            runner: Who executes the runs; see `task`.

        Raises:
            InvalidValue: a value is out of range.
            InvalidId: a tag is not allowed.
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

    def with_options(self, options: Options) -> Task[P, R]:
        """Return the task with exactly these options."""
        changed = copy(self)
        changed._options = options
        return changed

    @property
    def defaults(self) -> Options:
        """The options of its runs."""
        return self._options

    @property
    def parameter_types(self) -> dict[str, Any]:
        """The type of each parameter, by name."""
        return self._signature.parameter_types

    @property
    def output_type(self) -> type[R]:
        """The type of a run's output."""
        return cast("type[R]", self._signature.output_type)

    def check_payload(self, payload: Mapping[str, Any]) -> None:
        """Check keyword arguments without starting a run.

        Raises:
            InvalidValue: they do not fit the function.
        """
        self._signature.bind_keywords(payload)

    def check_arguments(self, arguments: Mapping[str, bytes | None]) -> None:
        """Check keyword arguments of which some are not known yet, as on a page.

        Args:
            arguments: Each as JSON; None: the value is not known yet.

        Raises:
            InvalidValue: they do not fit the function.
        """
        self._signature.check_arguments(arguments)

    # ---- triggers ----

    @run_on_sdk_loop
    async def trigger(self, *args: P.args, **kwargs: P.kwargs) -> RunHandle[R]:
        """Start a run and return without waiting for it.

        Inside a run, the new run becomes its child. If the caller is canceled meanwhile, the run is
        either started or not created.

        Returns:
            A handle with the run's id and a token for that run alone.

        Raises:
            InvalidValue: the arguments do not fit the function, or are no JSON.
        """
        run = await self._create(self._signature.bind(args, kwargs))
        return self._handle(run)

    @run_on_sdk_loop
    async def trigger_payload(self, payload: Mapping[str, Any]) -> RunHandle[R]:
        """Start a run from keyword arguments as JSON, as a page sends them."""
        return self._handle(await self._create(self._signature.bind_keywords(payload)))

    @run_on_sdk_loop
    async def trigger_and_wait(self, *args: P.args, **kwargs: P.kwargs) -> RunResult[R]:
        """Start a run and wait until it has ended; a failure is in the result, not raised."""
        run = await self._create(self._signature.bind(args, kwargs))
        async with waiting():
            return await self.wait(run.id)

    @run_on_sdk_loop
    async def batch_trigger(self, payloads: Iterable[Mapping[str, Any]]) -> list[RunHandle[R]]:
        """Start a run for each payload.

        Args:
            payloads: The keyword arguments of each run; up to 1,000. All are checked before the
                first run is started.

        Returns:
            Handles in the order of the payloads.
        """
        return [self._handle(run) for run in await self._create_batch(payloads)]

    @run_on_sdk_loop
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

    trigger_sync = make_sync(trigger)
    trigger_and_wait_sync = make_sync(trigger_and_wait)
    batch_trigger_sync = make_sync(batch_trigger)
    batch_trigger_and_wait_sync = make_sync(batch_trigger_and_wait)

    @run_on_sdk_loop
    async def wait(self, run_id: str) -> RunResult[R]:
        """Wait until a run of this task has ended.

        Raises:
            RunNotFound: there is no such run.
        """
        store = current_runtime().store
        state = await store.get_run(run_id)
        if state.run.is_finished:
            return self._result(state.run)
        pages = store.follow(run_log(run_id), state.position)
        del state  # frees the payload: a thousand waits may be pending
        async with aclosing(pages) as open_pages:
            async for page in open_pages:
                if page.end is not None:
                    break
        return self._result((await store.get_run(run_id)).run)

    wait_sync = make_sync(wait)

    def _result(self, run: Run) -> RunResult[R]:
        ok = run.status == "completed"
        output = self._signature.output_of(run.output) if ok else None
        return RunResult(ok, run.id, run.status, run.error, output)

    def _handle(self, run: Run) -> RunHandle[R]:
        access_token = tokens.mint([f"read:runs:{run.id}"], ttl_s=HANDLE_TTL_S)
        return RunHandle(run.id, access_token, self.wait)

    # ---- creating runs ----

    async def _create_batch(self, payloads: Iterable[Mapping[str, Any]]) -> list[Run]:
        bound = [self._signature.bind_keywords(payload) for payload in payloads]
        if len(bound) > MAX_BATCH_RUNS:
            raise InvalidValue(
                f"the batch has {len(bound)} payloads; the limit is {MAX_BATCH_RUNS}"
            )
        if len(bound) > 1 and self._options.idempotency_key is not None:
            raise InvalidValue(f"the batch has {len(bound)} payloads; an idempotency key is of one")
        runtime = current_runtime()
        batch_id = runtime.run_ids.new(runtime.clock_ms()).replace("run_", "batch_")
        return list(await asyncio.gather(*(self._create(one, batch_id) for one in bound)))

    async def _create(self, payload: Any, batch_id: str | None = None) -> Run:
        with tracing.span(f"trigger {self.id}", kind="producer", task=self.id):
            return await self._create_traced(payload, batch_id)

    async def _create_traced(self, payload: Any, batch_id: str | None) -> Run:
        runtime = current_runtime()
        queue = task_queues.get(self._options.runner or runtime.default_runner)
        now_ms = runtime.clock_ms()
        id = runtime.run_ids.new(now_ms)
        parent = current_run()
        owner = task_queues.queue_owner(queue.name) if queue else require_runner(runtime).owner
        run = Run(
            id=id,
            task=self.id,
            root_id=parent.root_id if parent else id,
            parent_id=parent.id if parent else None,
            batch_id=batch_id,
            payload=payload,
            owner=owner,
            **self._options.fields(now_ms),
        )
        run.metadata.update(tracing.inject())
        check_new_run(run)
        return await creation.make(runtime, run, partial(self._begin, queue, run.id))

    async def _begin(self, queue: task_queues.TaskQueue | None, id: str, run: Run) -> None:
        """Start or enqueue a run that was created, or found under its idempotency key."""
        if queue is not None:
            if run.id == id:
                await queue.enqueue(run)
        elif run.is_queued and run.owner == require_runner(current_runtime()).owner:
            self.start(run)  # a run that was found may not have been started: its trigger failed

    # ---- executing runs ----

    def start(self, run: Run) -> None:
        """Execute a stored run of this task, unless it executes here already."""
        runner = require_runner(current_runtime())
        # Outside the parent's context: the child has a context of its own.
        runner.start(run, partial(self._execute, runner), self._options.retry)

    async def execute_queued(self, run: Run, requeue_owner: str | None = None) -> Run:
        """Execute a run of this task that a queue delivered; see `Runner.execute_queued`."""
        runner = require_runner(current_runtime())
        body = partial(self._execute, runner)
        return await runner.execute_queued(run, body, self._options.retry, requeue_owner)

    async def _execute(self, runner: RunExecutor, run: Run) -> Any:
        arguments = self._signature.arguments_of(run.payload)
        if inspect.iscoroutinefunction(self._function):
            output = await self._function(**arguments)
        else:
            output = await runner.call_in_thread(partial(self._function, **arguments))
            if inspect.isawaitable(output):  # from an async function behind a plain decorator
                output = await output
        if inspect.isgenerator(output) or inspect.isasyncgen(output):
            raise _is_generator(self.id)
        return self._signature.output_to_json(output)


def require_runner(runtime: Runtime) -> RunExecutor:
    """Return the runner of a process.

    Raises:
        TaskNotFound: the process executes no runs.
    """
    if runtime.runner is None:
        raise TaskNotFound("this process has no runner: it was connected with run_tasks=False")
    return runtime.runner


def _is_generator(task_id: str) -> InvalidValue:
    return InvalidValue(
        f"task {task_id!r} is a generator, whose values nothing would take: append them to a "
        "stream (stream.append, stream.pipe), or return a list"
    )
