"""Tracking of functions that a task queue calls by itself: the ticket of a message and its run.

The queue calls these functions; this library only updates their runs. Sender and worker may update
a run in any order, so each of them creates the run if the store does not have it yet.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import orjson
from pydantic_core import to_json

from gateway.errors import IllegalTransition, InvalidId, InvalidValue, RealtimeError, RunExists
from gateway.model.log import run_log
from gateway.model.records import check_run_id
from gateway.model.run_limits import check_tags
from gateway.model.runs import TRANSITIONS, Run, RunIds, iso_time
from gateway.sdk.context import RunContext, current_run
from gateway.sdk.execution.outcome import is_unavailable, persist_end
from gateway.sdk.execution.task_queues import queue_owner
from gateway.sdk.runtime import Runtime
from gateway.sdk.values.equality import exact

HEADER = "realtime"  # header of a message: the ticket of its run
TAGS_HEADER = "realtime_tags"  # header of a message: tags set by its sender
SKIP_STATUSES = ("canceled", "expired")  # a redelivered message of such a run is not executed
RETRY_S = 5.0  # pause before a run's log is followed again after an error

_log = logging.getLogger("realtime.queues")
_ids = RunIds()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunTicket:
    """The run of a message, as the message's header carries it.

    Attributes:
        message_id: The queue's id of the message. A ticket is valid for this message only.
        run_id: Id of the run.
        created_ms: Time of sending, milliseconds since 1970 UTC.
        parent_id: The run that sent the message, or None.
        root_id: The run at the top of the tree.
        batch_id: The batch, or None.
        tags: Tags of the run.
        is_synthetic: The message had no ticket, and its receiver created this one.
    """

    message_id: str
    run_id: str
    created_ms: int
    parent_id: str | None
    root_id: str
    batch_id: str | None = None
    tags: tuple[str, ...] = ()
    is_synthetic: bool = field(default=False, compare=False)

    @classmethod
    def new(
        cls,
        message_id: str,
        *,
        tags: Any = (),
        batch_id: str | None = None,
        is_synthetic: bool = False,
        now_ms: int | None = None,
    ) -> RunTicket:
        """Create the ticket of a message; its parent is the calling run, if there is one."""
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        parent, id = current_run(), _ids.new(now_ms)
        return cls(
            message_id,
            id,
            now_ms,
            parent.id if parent else None,
            parent.root_id if parent else id,
            batch_id,
            _valid_tags(tags),
            is_synthetic,
        )

    def for_new_run(self) -> RunTicket:
        """Return a ticket for another run of the same message."""
        now_ms = time.time_ns() // 1_000_000
        id = _ids.new(now_ms)
        root_id = self.root_id if self.parent_id else id
        return replace(self, run_id=id, root_id=root_id, created_ms=now_ms, is_synthetic=False)

    def with_run(self, run: Run) -> RunTicket:
        """Return the ticket of the stored run, which differs from its own if it is synthetic."""
        if run.id == self.run_id:
            return self
        return replace(
            self,
            run_id=run.id,
            parent_id=run.parent_id,
            root_id=run.root_id,
            batch_id=run.batch_id,
            tags=tuple(run.tags),
        )

    def to_header(self) -> dict[str, Any]:
        """Return the ticket as JSON-compatible fields."""
        return {
            "message": self.message_id,
            "run": self.run_id,
            "created_ms": self.created_ms,
            "parent": self.parent_id,
            "root": self.root_id,
            "batch": self.batch_id,
            "tags": list(self.tags),
        }

    @classmethod
    def from_header(cls, header: object, message_id: str) -> RunTicket | None:
        """Decode a message's ticket; None if it is missing or belongs to another message."""
        if not isinstance(header, Mapping) or header.get("message") != message_id:
            return None
        try:
            parent_id = header["parent"]
            return cls(
                message_id,
                check_run_id(header["run"]),
                int(header["created_ms"]),
                check_run_id(parent_id) if parent_id is not None else None,
                check_run_id(header["root"]),
                header["batch"],
                check_tags(header["tags"]),
            )
        except (KeyError, TypeError, ValueError, RealtimeError) as error:
            _log.warning(
                "message %s: its header %r is not a valid ticket: %s", message_id, HEADER, error
            )
            return None

    def run(self, queue: str, task: str, *, due_ms: int | None = None, **fields: Any) -> Run:
        """Return the run in its state while the message is in the queue.

        Args:
            queue: Name of the queue.
            task: The function's name in the queue.
            due_ms: Earliest start, milliseconds since 1970 UTC, or None.
            fields: Further fields of the run.
        """
        created_at = iso_time(self.created_ms)
        is_delayed = due_ms is not None and due_ms > self.created_ms
        return Run(
            id=self.run_id,
            task=task,
            status="delayed" if is_delayed else "queued",
            root_id=self.root_id,
            created_at=created_at,
            tags=list(self.tags),
            parent_id=self.parent_id,
            batch_id=self.batch_id,
            delay_until=iso_time(due_ms) if is_delayed and due_ms is not None else None,
            queued_at=None if is_delayed else created_at,
            owner=queue_owner(queue),
            # Two deliveries of a message without a ticket then create one run.
            idempotency_key=f"{queue}:{self.message_id}" if self.is_synthetic else None,
            **fields,
        )

    def context(self, task: str, attempt: int) -> RunContext:
        """Return the context for `current_run()` while the function executes."""
        return RunContext(
            self.run_id,
            task,
            self.parent_id,
            self.root_id,
            self.tags,
            self.batch_id,
            attempt=attempt,
        )


def _valid_tags(tags: Any) -> tuple[str, ...]:
    try:
        return check_tags(tuple(tags) if isinstance(tags, Sequence) else ())
    except (InvalidId, InvalidValue) as error:
        _log.warning("%s; the run has none", error)  # an invalid label must not prevent the task
        return ()


async def persist_with_retry(
    runtime: Runtime, work: Callable[[Runtime], Awaitable[T]], run_id: str | None
) -> T:
    """Update a run, and retry for as long as the store is unavailable.

    Args:
        runtime: Passed to `work`.
        work: An idempotent update.
        run_id: For log messages.
    """
    if runtime.runner is None:
        return await work(runtime)
    return await runtime.runner.persist_with_retry(lambda: work(runtime), run_id or "")


async def ensure_run(runtime: Runtime, run: Run) -> Run:
    """Create a run unless it exists; return it as stored.

    A payload that the store rejects is omitted.
    """
    try:
        return await runtime.store.create_run(run)
    except RunExists:
        return (await runtime.store.get_run(run.id)).run
    except Exception as error:
        if run.payload is None or is_unavailable(error):
            raise
        _log.warning("run %s is stored without its payload: %s", run.id, error)
    return await ensure_run(runtime, replace(run, payload=None))


async def claim(runtime: Runtime, run: Run, attempt: int) -> Run:
    """Mark a run as executing in this process.

    Returns:
        The run as stored; a finished run is unchanged.
    """
    stored = await ensure_run(runtime, run)
    if stored.is_finished:
        return stored
    now = iso_time(runtime.clock_ms())
    patch = {
        "status": "executing",
        "attempt": attempt,
        "max_attempts": run.max_attempts,  # unknown to a sender without the task's definition
        "owner": runtime.runner.owner if runtime.runner is not None else "",
        "started_at": stored.started_at or now,
    }
    if stored.is_executing:  # redelivered: the queue executes its function in any case
        del patch["status"]
    try:
        if stored.status == "delayed":
            await runtime.store.patch_run(stored.id, {"status": "queued", "queued_at": now})
        return await runtime.store.patch_run(stored.id, patch)
    except IllegalTransition:  # the run has just finished
        return (await runtime.store.get_run(stored.id)).run


async def requeue(
    runtime: Runtime,
    run_id: str,
    queue: str,
    *,
    attempt: int,
    due_ms: int | None = None,
    error: dict[str, str] | None = None,
) -> None:
    """Mark a run as queued or delayed until its next attempt."""
    now_ms = runtime.clock_ms()
    patch: dict[str, Any] = {"attempt": attempt, "owner": queue_owner(queue)}
    if due_ms is not None and due_ms > now_ms:
        patch |= {"status": "delayed", "delay_until": iso_time(due_ms)}
    else:
        patch |= {"status": "queued", "queued_at": iso_time(now_ms)}
    if error is not None:
        patch["last_error"] = error
    await _patch(runtime, run_id, patch)


async def record_error(runtime: Runtime, run_id: str, error: dict[str, str]) -> None:
    """Record the error after which a run is retried."""
    await _patch(runtime, run_id, {"last_error": error})


async def finish_run(runtime: Runtime, run: str | Run, status: str, **fields: Any) -> None:
    """Finish a run unless it has finished already; an output that the store rejects is omitted.

    Args:
        runtime: The runtime.
        run: The run's id, or the run itself if the store may not have it yet.
        status: A final status.
        fields: Further fields: the output or the error.
    """
    if isinstance(run, Run):
        run = await ensure_run(runtime, run)
    else:
        run = (await runtime.store.get_run(run)).run
    if run.is_queued and status not in TRANSITIONS[run.status]:
        run = await claim(runtime, run, run.attempt)  # the update that it started was lost
    run_id, now_ms = run.id, runtime.clock_ms()

    async def write(patch: dict[str, Any]) -> None:
        await _patch(runtime, run_id, patch)

    await persist_end(write, run, status, now_ms, is_output_optional=True, **fields)


async def _patch(runtime: Runtime, run_id: str, patch: Mapping[str, Any]) -> None:
    try:
        await runtime.store.patch_run(run_id, patch)
    except IllegalTransition as error:
        _log.info("%s; the run stays unchanged", error)


async def watch_cancellation(runtime: Runtime, context: RunContext) -> None:
    """Wait until a run's cancellation is requested, and cancel its context."""
    while True:
        try:
            async with aclosing(runtime.store.follow(run_log(context.id))) as pages:
                async for page in pages:
                    patches = (orjson.loads(record.data) for record in page.records)
                    if any(patch.get("cancel_requested_at") for patch in patches):
                        context.cancel()
                        return
            return
        except RealtimeError as error:
            _log.warning("run %s: following its log failed: %s", context.id, error)
        await asyncio.sleep(RETRY_S)


def to_json_value(value: Any) -> Any:
    """Return a value as JSON-compatible data; None if that is impossible."""
    try:
        return exact(msgspec.json.decode(to_json(value, inf_nan_mode="strings")))
    except Exception:  # including exceptions of the value's own methods
        return None
