"""Run handles of sent messages, for programs that show these runs on a page."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from gateway import tokens
from gateway.errors import RunNotFound
from gateway.integrations._run_tracking import RunTicket
from gateway.sdk.tasks import HANDLE_TTL_S

MAX_MESSAGES = 10_000  # newest messages; about 200 bytes each


@dataclass(frozen=True, slots=True)
class Handle:
    """The run of a message that this process sent.

    Attributes:
        id: The run's id.
        access_token: Permits reading this run and its streams only; for a page.
    """

    id: str
    access_token: str


class SentRuns:
    """The runs of the messages that this process has sent to one queue."""

    def __init__(self) -> None:
        self._runs: OrderedDict[str, str] = OrderedDict()  # by message id, newest last

    def add(self, ticket: RunTicket) -> None:
        """Record the run of a message."""
        self._runs[ticket.message_id] = ticket.run_id
        while len(self._runs) > MAX_MESSAGES:
            self._runs.popitem(last=False)

    def handle(self, message_id: str) -> Handle:
        """Return the handle of a message's run. A message id `run_…` is the run's id.

        Raises:
            RunNotFound: the message was sent by another process, too long ago, or has no run.
        """
        is_own = message_id.startswith("run_")
        run_id = message_id if is_own else self._runs.get(message_id)
        if run_id is None:
            raise RunNotFound(f"this process has no run for the message {message_id}")
        return Handle(run_id, tokens.mint([f"read:runs:{run_id}"], ttl_s=HANDLE_TTL_S))
