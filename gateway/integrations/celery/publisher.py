"""Signals of processes that send Celery tasks: each message gets a ticket and a stored run."""

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
    ensure_run,
    persist_with_retry,
    requeue,
    to_json_value,
)
from gateway.model.runs import iso_time
from gateway.sdk import background
from gateway.sdk.loops.bridge import is_on_loop

QUEUE = "celery"
UPDATE_TIMEOUT_S = 5.0  # wait for one update of a run; the queue continues without it

_log = logging.getLogger("realtime.queues")


class Publisher:
    """Receives the signals of processes that send tasks.

    Args:
        is_tracked: Whether to track tasks of a name.
        with_payloads: Store arguments in the runs.
    """

    def __init__(self, is_tracked: Callable[[str], bool], with_payloads: bool) -> None:
        self._is_tracked = is_tracked
        self._with_payloads = with_payloads
        self.sent = SentRuns()

    @property
    def receivers(self) -> dict[str, Callable[..., None]]:
        """Receivers by the names of Celery's signals."""
        return {
            "before_task_publish": self.before_publish,
            "after_task_publish": self.after_publish,
        }

    def before_publish(self, sender: str, headers: dict[str, Any], **_: Any) -> None:
        """Add a ticket to a new message. A message that is sent again keeps its ticket."""
        if "id" not in headers or not self._is_tracked(sender):
            return  # Celery's message protocol 1 has no headers
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
            # Before sending: the next attempt may start before `retry` returns.
            run_id, attempt, due_ms = ticket.run_id, headers["retries"] + 1, _due_ms(headers)
            submit_update(
                lambda runtime: requeue(runtime, run_id, QUEUE, attempt=attempt, due_ms=due_ms),
                order=run_id,
            )

    def after_publish(self, sender: str, headers: dict[str, Any], body: Any, **_: Any) -> None:
        """Store the run of a message that the broker has accepted."""
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
        submit_update(lambda runtime: ensure_run(runtime, run), order=run.id)


_gateway_is_slow = False  # an update timed out: later ones do not wait until one succeeds


def submit_update(update: background.Work[Any], order: str) -> Any:
    """Submit an update of a run and wait up to 5 s for it; Celery continues without its result.

    Args:
        update: Called with the runtime.
        order: The run's id: updates with the same id are applied in order.

    Returns:
        The result of the update; None if it failed or is still pending.
    """
    global _gateway_is_slow
    try:
        future = background.submit(
            lambda runtime: persist_with_retry(runtime, update, order), order
        )
    except RealtimeError as error:
        _log.warning("run %s: %s", order, error)
        return None
    if is_on_loop() or _gateway_is_slow:
        future.add_done_callback(_update_done)
        return None
    try:
        return future.result(UPDATE_TIMEOUT_S)
    except TimeoutError:
        _gateway_is_slow = True
        future.add_done_callback(_update_done)
        _log.warning("run %s: the gateway has not answered yet; the task continues", order)
    except RealtimeError as error:
        _log.warning("run %s: %s", order, error)
    return None


def _update_done(future: Future[Any]) -> None:
    global _gateway_is_slow
    if future.cancelled():
        return
    if (error := future.exception()) is None:
        _gateway_is_slow = False
    else:
        _log.warning("an update of a run is lost: %s", error)


def _due_ms(headers: Mapping[str, Any]) -> int | None:
    return _moment_ms(headers.get("eta"))


def _expires_at(headers: Mapping[str, Any]) -> str | None:
    moment_ms = _moment_ms(headers.get("expires"))
    return None if moment_ms is None else iso_time(moment_ms)


def _moment_ms(moment: object) -> int | None:
    """Decode a time of Celery's headers: ISO 8601 text or a datetime."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if not isinstance(moment, datetime):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def payload_of(body: Any) -> Any:
    """Return a message's arguments as the payload of a run."""
    args, kwargs = body[0], body[1]
    return to_json_value({"args": args, "kwargs": kwargs})
