"""Models of a run and a stream on a page: typed fields, some computed by the client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from typing import Any, Protocol, TypeVar

from gateway.model.runs import RunError

from .text_numbers import page_type

R_co = TypeVar("R_co", covariant=True)


class TaskTypes(Protocol[R_co]):
    """The types of a task, as `Task` has them."""

    @property
    def parameter_types(self) -> Mapping[str, Any]:
        """The type of each parameter, by name."""

    @property
    def output_type(self) -> type[R_co]:
        """The type of a run's output."""


@dataclass(frozen=True)
class PageRun:
    """A run on a page. Its booleans work on a loop variable of `rx.foreach` too.

    All times are ISO 8601 in UTC.

    Attributes:
        id: Id of the run.
        task: Id of the task.
        status: The status, as in `gateway.Run`.
        is_queued: The run waits for its start time, for a free slot, or for its next attempt.
        is_executing: The run executes; true also while it `is_waiting`.
        is_waiting: The run has started and waits for a time, a token or other runs.
        is_finished: The run has ended, with any result.
        is_completed: The same as `is_finished`, under the name that Trigger.dev's hooks use; true
            for a failed run too.
        is_success: The run has ended and returned its output.
        is_failed: The run has ended without output and was not canceled.
        is_canceled: The run was canceled.
        tags: The current tags.
        metadata: A JSON object.
        payload: The arguments of the run; None if the hook excludes them.
        output: The task's return value.
        error: The error of a failed run.
        attempt: Number of the current attempt, from 1.
        max_attempts: Maximum number of attempts.
        last_error: The error of the previous attempt.
        delay_until: Start time of the run, or of its next attempt.
        parent_id: The run that triggered this one.
        root_id: The topmost ancestor; the run's own id if it has no parent.
        batch_id: The batch of the run.
        created_at: When the run was triggered.
        queued_at: When the run became ready to execute.
        started_at: When the first attempt started.
        finished_at: When the run ended.
        cancel_requested_at: When a client requested the cancellation.
        duration_ms: Time from start to end; None before the end.
        omitted: In a set: fields that the gateway left out because of their size, with their bytes;
            None if the run is complete.
    """

    id: str
    task: str
    status: str
    is_queued: bool
    is_executing: bool
    is_waiting: bool
    is_finished: bool
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
    """A stream of a run on a page.

    Attributes:
        id: Id of the stream.
        data: The newest values, at most `max_records`, oldest first.
        latest: The last value.
        text: All string values joined.
        count: Number of records received.
        status: State of the subscription.
        end_reason: Why the stream has ended; "" before the end.
        error: The message of the gateway's rejection; "" without one.
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
    """Return the type of a task's payload on a page; Any without a task."""
    if task is None:
        return Any
    fields = [(name, page_type(type_)) for name, type_ in task.parameter_types.items()]
    return make_dataclass("Payload", fields, frozen=True)


def run_type(payload: Any, output: Any) -> Any:
    """Return the type of a run whose payload and output have these types."""
    if payload is Any and output is Any:
        return PageRun
    fields = [("payload", payload), ("output", output)]
    return make_dataclass("PageRun", fields, bases=(PageRun,), frozen=True)
