"""What happens where Celery's messages are sent: each gets a ticket, and its run is kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

from gateway.errors import RealtimeError
from gateway.integrations._handles import SentRuns
from gateway.integrations._run_tracking import (
    HEADER,
    TAGS_HEADER,
    RunTicket,
    as_json,
    keep,
    rest,
    until_kept,
)
from gateway.model.runs import iso_time
from gateway.sdk.loops import background
from gateway.sdk.loops.bridge import is_on_loop

QUEUE = "celery"
PATIENCE_S = 5.0  # for a gateway to hear of a change; the queue goes on without it

_log = logging.getLogger("realtime.queues")


class Publisher:
    """Receives the signals of the processes that send.

    Args:
        is_tracked: Whether tasks of a name get runs.
        with_payloads: Show arguments in the runs.
    """

    def __init__(self, is_tracked: Callable[[str], bool], with_payloads: bool) -> None:
        self._is_tracked = is_tracked
        self._with_payloads = with_payloads
        self.sent = SentRuns()

    @property
    def receivers(self) -> dict[str, Callable[..., None]]:
        """By the names of Celery's signals."""
        return {
            "before_task_publish": self.before_publish,
            "after_task_publish": self.after_publish,
        }

    def before_publish(self, sender: str, headers: dict[str, Any], **_: Any) -> None:
        """Give a new message a ticket; a message that is sent again keeps its own."""
        if "id" not in headers or not self._is_tracked(sender):
            return  # Celery's old message protocol has no headers
        ticket = RunTicket.from_header(headers.get(HEADER), headers["id"])
        if ticket is None:
            group = headers.get("group")
            ticket = RunTicket.new(
                headers["id"],
                tags=headers.get(TAGS_HEADER) or (),
                batch_id=f"batch_{group.replace('-', '')}" if group else None,
            )
            headers[HEADER] = ticket.to_header()
        elif headers.get("retries"):
            # Before it is sent: the next attempt may begin before `retry` has returned.
            run_id, attempt, due_ms = ticket.run_id, headers["retries"] + 1, _due_ms(headers)
            tell(
                lambda active: rest(active, run_id, QUEUE, attempt=attempt, due_ms=due_ms),
                order=run_id,
            )

    def after_publish(self, sender: str, headers: dict[str, Any], body: Any, **_: Any) -> None:
        """Keep the run of a message that the broker has taken."""
        ticket = RunTicket.from_header(headers.get(HEADER), headers.get("id", ""))
        if ticket is None or headers.get("retries"):
            return
        run = ticket.run(
            QUEUE,
            sender,
            due_ms=_due_ms(headers),
            expires_at=_expires_at(headers),
            payload=payload_of(body) if self._with_payloads else None,
        )
        self.sent.add(ticket)
        tell(lambda active: keep(active, run), order=run.id)


_is_late = False  # the gateway did not answer in time: nobody waits until it does again


def tell(work: background.Work[Any], order: str) -> Any:
    """Change a run, and wait a little until it is done; Celery goes on if it is not.

    Args:
        work: Is given the runtime.
        order: The run's id.

    Returns:
        What the work returns; None if that is not known (yet).
    """
    global _is_late
    try:
        future = background.submit(lambda active: until_kept(active, work, order), order)
    except RealtimeError as error:
        _log.warning("run %s: %s", order, error)
        return None
    if is_on_loop() or _is_late:
        future.add_done_callback(_has_come)
        return None
    try:
        return future.result(PATIENCE_S)
    except TimeoutError:
        _is_late = True
        future.add_done_callback(_has_come)
        _log.warning("run %s: no gateway has answered yet; the task goes on", order)
    except RealtimeError as error:
        _log.warning("run %s: %s", order, error)
    return None


def _has_come(future: Future[Any]) -> None:
    global _is_late
    if future.cancelled():
        return
    if (error := future.exception()) is None:
        _is_late = False
    else:
        _log.warning("a run's change is lost: %s", error)


def _due_ms(headers: Mapping[str, Any]) -> int | None:
    return _moment_ms(headers.get("eta"))


def _expires_at(headers: Mapping[str, Any]) -> str | None:
    moment_ms = _moment_ms(headers.get("expires"))
    return None if moment_ms is None else iso_time(moment_ms)


def _moment_ms(moment: object) -> int | None:
    """Read a time as Celery's headers have it: ISO 8601, or a datetime."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if not isinstance(moment, datetime):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def payload_of(body: Any) -> Any:
    """Return a message's arguments as a run's payload."""
    args, kwargs = body[0], body[1]
    return as_json({"args": args, "kwargs": kwargs})
