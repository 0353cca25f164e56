"""Runs as a page shows them: their fields, typed, and what the browser makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from typing import Any, Protocol, TypeVar

from gateway.runs import RunError

from .text_numbers import page_type

R_co = TypeVar("R_co", covariant=True)


class TaskTypes(Protocol[R_co]):
    """What a hook needs to know of a task: a `Task` has it."""

    @property
    def parameter_types(self) -> Mapping[str, Any]:
        """The type of each parameter, by its name."""

    @property
    def output_type(self) -> type[R_co]:
        """The type of what a run gives."""


@dataclass(frozen=True)
class PageRun:
    """A run on a page. Its booleans work on a loop variable of `rx.foreach` too.

    Attributes:
        id: Its id.
        task: Id of the task.
        status: The run's own word for where it is.
        is_queued: It waits for its time or its turn, also between two attempts.
        is_executing: It is under way, or waits for something in the middle of it.
        is_waiting: It waits, in the middle of it, for time, a token or other runs.
        is_completed: It is over, however it went.
        is_success: It is over and gave its output.
        is_failed: It is over and gave no output, though nobody canceled it.
        is_canceled: It was canceled.
        tags: As given when it was triggered, or changed since.
        metadata: JSON object.
        payload: What it was triggered with; None when it is left out.
        output: What the task returned.
        error: Why it failed.
        attempt: From 1.
        max_attempts: How many there may be.
        last_error: Why the attempt before this one failed.
        delay_until: When it, or its next attempt, begins.
        parent_id: The run that triggered it.
        root_id: The run at the top; its own id if it has no parent.
        batch_id: The batch it belongs to.
        created_at: ISO 8601, UTC, as are all times.
        queued_at: When it began to wait for its turn.
        started_at: When it began.
        finished_at: When it was over.
        cancel_requested_at: When someone asked for it to be canceled.
        duration_ms: From its start to its end; None before.
        omitted: In a set: fields that are left out since they are large, and their sizes in bytes;
            None: nothing is.
    """

    id: str
    task: str
    status: str
    is_queued: bool
    is_executing: bool
    is_waiting: bool
    is_completed: bool
    is_success: bool
    is_failed: bool
    is_canceled: bool
    tags: list[str]
    metadata: dict[str, Any]
    payload: Any
    output: Any
    error: RunError | None
    attempt: int
    max_attempts: int
    last_error: RunError | None
    delay_until: str | None
    parent_id: str | None
    root_id: str
    batch_id: str | None
    created_at: str
    queued_at: str | None
    started_at: str | None
    finished_at: str | None
    cancel_requested_at: str | None
    duration_ms: int | None
    omitted: dict[str, int] | None


@dataclass(frozen=True)
class PageStream:
    """One of a run's streams on a page.

    Attributes:
        id: Its id.
        data: The values, oldest first; at most `max_records` of them.
        latest: The last value.
        text: All strings so far, joined.
        count: How many records came so far.
        status: State of the subscription.
        end_reason: Why it has ended; "" before the end.
        error: What the gateway said when it refused; "" when it did not.
    """

    id: str
    data: list[Any]
    latest: Any
    text: str
    count: int
    status: str
    end_reason: str
    error: str


def payload_type(task: TaskTypes[Any] | None) -> Any:
    """Return the type of what a task is triggered with, on a page; Any if it is not known."""
    if task is None:
        return Any
    fields = [(name, page_type(type_)) for name, type_ in task.parameter_types.items()]
    return make_dataclass("Payload", fields, frozen=True)


def run_type(payload: Any, output: Any) -> Any:
    """Return the type of a run with such a payload and output."""
    if payload is Any and output is Any:
        return PageRun
    fields = [("payload", payload), ("output", output)]
    return make_dataclass("PageRun", fields, bases=(PageRun,), frozen=True)
