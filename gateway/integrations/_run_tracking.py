"""Functions of a task queue's own as runs: what a message carries, and what becomes of the run.

For functions that the queue calls by itself and this library only watches. Any side may be first:
whoever comes across a run that is not kept yet makes it.
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
from gateway.sdk.execution.outcome import is_away, keep_end
from gateway.sdk.execution.task_queues import owner_of
from gateway.sdk.runtime import RunContext, Runtime, current_run
from gateway.sdk.values.equality import exact

HEADER = "realtime"  # of a message: the run that it asks for
TAGS_HEADER = "realtime_tags"  # of a message, given by whoever sends it
NOT_AGAIN = ("canceled", "expired")  # a run that ended so is not executed, should it still come
WATCH_AGAIN_S = 5.0  # after a run's own log could not be followed

_log = logging.getLogger("realtime.queues")
_ids = RunIds()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunTicket:
    """What a queue's message says of its run.

    Attributes:
        message_id: The queue's own id of the message; a ticket counts with this one only.
        run_id: Its run.
        created_ms: When it was sent, milliseconds since 1970 UTC.
        parent_id: The run in which it was sent, or None.
        root_id: The run at the top.
        batch_id: The batch it belongs to, or None.
        tags: The run's tags.
        is_guess: The message said nothing; whoever received it made this up.
    """

    message_id: str
    run_id: str
    created_ms: int
    parent_id: str | None
    root_id: str
    batch_id: str | None = None
    tags: tuple[str, ...] = ()
    is_guess: bool = field(default=False, compare=False)

    @classmethod
    def new(
        cls,
        message_id: str,
        *,
        tags: Any = (),
        batch_id: str | None = None,
        is_guess: bool = False,
        now_ms: int | None = None,
    ) -> RunTicket:
        """Make the ticket of a message that the calling run, if there is one, sends."""
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        parent, id = current_run(), _ids.new(now_ms)
        return cls(
            message_id,
            id,
            now_ms,
            parent.id if parent else None,
            parent.root_id if parent else id,
            batch_id,
            _good_tags(tags),
            is_guess,
        )

    def again(self) -> RunTicket:
        """Make a ticket for another run of the same message."""
        now_ms = time.time_ns() // 1_000_000
        id = _ids.new(now_ms)
        root_id = self.root_id if self.parent_id else id
        return replace(self, run_id=id, root_id=root_id, created_ms=now_ms, is_guess=False)

    def of(self, kept: Run) -> RunTicket:
        """Return it with the run that is kept: of a message without a ticket it may be another."""
        if kept.id == self.run_id:
            return self
        return replace(
            self,
            run_id=kept.id,
            parent_id=kept.parent_id,
            root_id=kept.root_id,
            batch_id=kept.batch_id,
            tags=tuple(kept.tags),
        )

    def to_header(self) -> dict[str, Any]:
        """Return it as JSON-able fields."""
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
        """Read a message's ticket; None if there is none, or it is another message's."""
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
            _log.warning("message %s: its header %r is no ticket: %s", message_id, HEADER, error)
            return None

    def run(self, queue: str, task: str, *, due_ms: int | None = None, **fields: Any) -> Run:
        """Make the run, as it is while its message is under way.

        Args:
            queue: Its name.
            task: The function's name there.
            due_ms: Before which it is not begun, milliseconds since 1970 UTC.
            fields: Further fields.
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
            owner=owner_of(queue),
            # So that a message without a ticket that is delivered twice is one run.
            idempotency_key=f"{queue}:{self.message_id}" if self.is_guess else None,
            **fields,
        )

    def context(self, task: str, attempt: int) -> RunContext:
        """Make what `current_run()` gives while the function is executed."""
        return RunContext(
            self.run_id,
            task,
            self.parent_id,
            self.root_id,
            self.tags,
            self.batch_id,
            attempt=attempt,
        )


def _good_tags(tags: Any) -> tuple[str, ...]:
    try:
        return check_tags(tuple(tags) if isinstance(tags, Sequence) else ())
    except (InvalidId, InvalidValue) as error:
        _log.warning("%s; the run has none", error)  # a label must not keep a task from running
        return ()


async def until_kept(
    active: Runtime, work: Callable[[Runtime], Awaitable[T]], run_id: str | None
) -> T:
    """Change a run, for as long as it takes while the store is away.

    Args:
        active: Given to the work.
        work: Harmless when it is done twice.
        run_id: For the log.
    """
    if active.runner is None:
        return await work(active)
    return await active.runner.until_kept(lambda: work(active), run_id or "")


async def keep(active: Runtime, run: Run) -> Run:
    """Keep a run unless it is kept already; returns it as it is kept.

    A payload that the store refuses is left out.
    """
    try:
        return await active.store.create_run(run)
    except RunExists:
        return (await active.store.get_run(run.id)).run
    except Exception as error:
        if run.payload is None or is_away(error):
            raise
        _log.warning("run %s is kept without its payload: %s", run.id, error)
    return await keep(active, replace(run, payload=None))


async def claim(active: Runtime, run: Run, attempt: int) -> Run:
    """Say that this process executes a run now.

    Returns:
        The run as it is then; one that has ended stays so.
    """
    kept = await keep(active, run)
    if kept.is_finished:
        return kept
    now = iso_time(active.clock_ms())
    patch = {
        "status": "executing",
        "attempt": attempt,
        "max_attempts": run.max_attempts,  # who sent it may not know
        "owner": active.runner.owner if active.runner is not None else "",
        "started_at": kept.started_at or now,
    }
    if kept.is_executing:  # brought again: its function is the queue's, which executes it anyhow
        del patch["status"]
    try:
        if kept.status == "delayed":
            await active.store.patch_run(kept.id, {"status": "queued", "queued_at": now})
        return await active.store.patch_run(kept.id, patch)
    except IllegalTransition:  # it has ended just now
        return (await active.store.get_run(kept.id)).run


async def rest(
    active: Runtime,
    run_id: str,
    queue: str,
    *,
    attempt: int,
    due_ms: int | None = None,
    error: dict[str, str] | None = None,
) -> None:
    """Say that a run goes back to its queue until its next attempt."""
    now_ms = active.clock_ms()
    patch: dict[str, Any] = {"attempt": attempt, "owner": owner_of(queue)}
    if due_ms is not None and due_ms > now_ms:
        patch |= {"status": "delayed", "delay_until": iso_time(due_ms)}
    else:
        patch |= {"status": "queued", "queued_at": iso_time(now_ms)}
    if error is not None:
        patch["last_error"] = error
    await _patch(active, run_id, patch)


async def note_error(active: Runtime, run_id: str, error: dict[str, str]) -> None:
    """Say why a run is tried again."""
    await _patch(active, run_id, {"last_error": error})


async def end(active: Runtime, run: str | Run, status: str, **fields: Any) -> None:
    """Say how a run ended, unless it has ended before; an output that is refused is left out.

    Args:
        active: The runtime.
        run: Its id, or the run itself where it may not be kept yet.
        status: A final one.
        fields: Further fields: the output or the error.
    """
    if isinstance(run, Run):
        run = await keep(active, run)
    else:
        run = (await active.store.get_run(run)).run
    if run.is_queued and status not in TRANSITIONS[run.status]:
        run = await claim(active, run, run.attempt)  # that it had begun was lost
    run_id, now_ms = run.id, active.clock_ms()

    async def write(patch: dict[str, Any]) -> None:
        await _patch(active, run_id, patch)

    await keep_end(write, run, status, now_ms, is_output_optional=True, **fields)


async def _patch(active: Runtime, run_id: str, patch: Mapping[str, Any]) -> None:
    try:
        await active.store.patch_run(run_id, patch)
    except IllegalTransition as error:
        _log.info("%s; it stays so", error)


async def watch(active: Runtime, context: RunContext) -> None:
    """Tell a function that executes when someone asks for its run to be canceled."""
    while True:
        try:
            async with aclosing(active.store.follow(run_log(context.id))) as pages:
                async for page in pages:
                    patches = (orjson.loads(record.data) for record in page.records)
                    if any(patch.get("cancel_requested_at") for patch in patches):
                        context.cancel()
                        return
            return
        except RealtimeError as error:
            _log.warning("run %s: its log cannot be followed: %s", context.id, error)
        await asyncio.sleep(WATCH_AGAIN_S)


def as_json(value: Any) -> Any:
    """Return a value as JSON-able data, None if it cannot be."""
    try:
        return exact(msgspec.json.decode(to_json(value, inf_nan_mode="strings")))
    except Exception:  # also of a method of the value's own
        return None
