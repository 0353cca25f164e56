"""Limits of new connections: the rate, and the number for an address and a subject. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gateway.errors import TooManyConnections
from gateway.model.limits import Limits
from gateway.model.network import counted_as

BURST_S = 2.0  # capacity of the bucket, in seconds at its rate
FULL_RETRY_S = 10.0  # retry-after when an address or a subject is at its limit
MAX_RETRY_S = 30.0


class TokenBucket:
    """Token bucket that returns a staggered retry-after to callers over the rate.

    Args:
        per_s: Rate in the long run, per second.
        now_s: Current time of a monotonic clock.
    """

    def __init__(self, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._size = max(1.0, per_s * BURST_S)
        self._left = self._size
        self._at_s = now_s
        self._told_s = now_s

    def take(self, now_s: float) -> float:
        """Take one token.

        Returns:
            0, or the seconds to wait before the next try. Each rejected caller gets a later time,
            so that they do not all return together.
        """
        self._left = min(self._size, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left >= 1:
            self._left -= 1
            return 0.0
        self._told_s = max(self._told_s, now_s) + 1 / self._per_s
        return min(MAX_RETRY_S, self._told_s - now_s)


class ConnectionLimits:
    """Counts the open connections of one gateway.

    Args:
        limits: The limits.
        now_s: Current time of a monotonic clock.
    """

    def __init__(self, limits: Limits, now_s: float) -> None:
        self._limits = limits
        self._bucket = TokenBucket(limits.accepts_per_s, now_s)
        self._addresses: Counter[str] = Counter()
        self._subjects: Counter[str] = Counter()

    def accept(self, address: str, now_s: float) -> None:
        """Count a connection from an address; `leave` uncounts it.

        Args:
            address: The client's address; "" (a local socket) is not counted.
            now_s: Current time.

        Raises:
            TooManyConnections: the rate or the address is at its limit.
        """
        wait_s = self._bucket.take(now_s)
        if wait_s:
            limit = self._limits.accepts_per_s
            raise TooManyConnections(f"over {limit:g} new connections per second", wait_s)
        if address:
            _count(
                self._addresses,
                counted_as(address),
                self._limits.address_connections,
                f"address {counted_as(address)}",
            )

    def admit(self, subject: str) -> None:
        """Count a connection for a token's subject.

        Raises:
            TooManyConnections: the subject is at its limit.
        """
        limit = self._limits.subject_connections
        _count(self._subjects, subject, limit, f"subject {subject[:80]!r}")

    def leave(self, address: str, subjects: Iterable[str]) -> None:
        """Uncount a connection that has ended."""
        if address:
            _discount(self._addresses, counted_as(address))
        for subject in subjects:
            _discount(self._subjects, subject)

    @property
    def is_empty(self) -> bool:
        """Whether no connection is counted."""
        return not self._addresses and not self._subjects


def _count(counts: Counter[str], name: str, limit: int, who: str) -> None:
    if counts[name] >= limit:
        raise TooManyConnections(
            f"{who} has {counts[name]} connections; the limit is {limit}", FULL_RETRY_S
        )
    counts[name] += 1


def _discount(counts: Counter[str], name: str) -> None:
    counts[name] -= 1
    if counts[name] <= 0:
        del counts[name]
