"""How long a connection may stay: time to greet, silence, idleness and age. No I/O, no clock.

All times are those of a steady clock: one that is set, forward or back, says nothing of a client.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.errors import ConnectionAged, HelloTimeout, Idle, RealtimeError, Silent
from gateway.model.limits import Limits

SILENT_AFTER_PINGS = 3


class Activity(NamedTuple):
    """What a connection has come to.

    Attributes:
        is_new: It has not said hello.
        is_known: Some token of its client was good.
        is_in_use: It holds something, or is a worker's.
    """

    is_new: bool
    is_known: bool
    is_in_use: bool


@dataclass(slots=True)
class Timeouts:
    """The times of one connection, in seconds of a steady clock.

    Attributes:
        limits: How long it has for what.
        opened_at_s: When it was opened.
        ping_s: How often the client has to give a sign of life.
        ages_at_s: When it is asked to come back anew.
        heard_at_s: When the client was heard last.
        used_at_s: When it last had a subscription or a request.
    """

    limits: Limits
    opened_at_s: float
    ping_s: float
    ages_at_s: float
    heard_at_s: float = field(init=False)
    used_at_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.heard_at_s = self.used_at_s = self.opened_at_s

    def _silent_at_s(self) -> float:
        return self.heard_at_s + self.ping_s * SILENT_AFTER_PINGS

    def _idle_at_s(self, is_in_use: bool) -> float:
        return math.inf if is_in_use else self.used_at_s + self.limits.idle_s

    def deadline_s(self, standing: Activity) -> float:
        """Return the time at which it may have to end, as far as is known now."""
        at_s = self.ages_at_s
        if not standing.is_known:
            at_s = min(at_s, self.opened_at_s + self.limits.hello_s)
        if not standing.is_new:
            at_s = min(at_s, self._silent_at_s(), self._idle_at_s(standing.is_in_use))
        return at_s

    def overdue(self, standing: Activity, steady_s: float) -> RealtimeError | None:
        """Return why it has to end now, if it has to."""
        limits = self.limits
        if not standing.is_known and steady_s >= self.opened_at_s + limits.hello_s:
            what = "hello" if standing.is_new else "token that is good"
            return HelloTimeout(f"no {what} within {limits.hello_s:g} s")
        if steady_s >= self.ages_at_s:
            age_s = steady_s - self.opened_at_s
            return ConnectionAged(f"the connection is {age_s:.0f} s old; come back", 0.0)
        if standing.is_new:
            return None
        if steady_s >= self._silent_at_s():
            silence_s = self.ping_s * SILENT_AFTER_PINGS
            return Silent(f"nothing was heard for {silence_s:g} s; send ping")
        if steady_s >= self._idle_at_s(standing.is_in_use):
            return Idle(f"nothing was subscribed or asked for in {limits.idle_s:g} s")
        return None
