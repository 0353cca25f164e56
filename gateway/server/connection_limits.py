"""Who may open one more connection: at what rate, from which address, for which subject. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from gateway.errors import TooManyConnections
from gateway.model.limits import Limits
from gateway.model.network import counted_as

BURST_S = 2.0  # a bucket holds so many seconds' worth of connections
FULL_RETRY_S = 10.0  # others have to leave first
MAX_RETRY_S = 30.0


class TokenBucket:
    """A token bucket that tells those who come too early when to come.

    Args:
        per_s: How many are let in, in the long run.
        now_s: Of any clock that goes on.
    """

    def __init__(self, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._size = max(1.0, per_s * BURST_S)
        self._left = self._size
        self._at_s = now_s
        self._told_s = now_s

    def take(self, now_s: float) -> float:
        """Take one.

        Returns:
            0, or after how many seconds to come again: the next refused is told a later time, so
            that they do not all come together.
        """
        self._left = min(self._size, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left >= 1:
            self._left -= 1
            return 0.0
        self._told_s = max(self._told_s, now_s) + 1 / self._per_s
        return min(MAX_RETRY_S, self._told_s - now_s)


class ConnectionLimits:
    """The open connections of one gateway, counted.

    Args:
        limits: How many there may be.
        now_s: Of any clock that goes on.
    """

    def __init__(self, limits: Limits, now_s: float) -> None:
        self._limits = limits
        self._bucket = TokenBucket(limits.accepts_per_s, now_s)
        self._addresses: Counter[str] = Counter()
        self._subjects: Counter[str] = Counter()

    def accept(self, address: str, now_s: float) -> None:
        """Let a connection from an address in; `leave` has to follow.

        Args:
            address: "" is not counted: a local socket has none.
            now_s: The time.

        Raises:
            TooManyConnections: too many at once, or of this address.
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
        """Count a connection as one of a token's subject.

        Raises:
            TooManyConnections: it has as many as it may.
        """
        limit = self._limits.subject_connections
        _count(self._subjects, subject, limit, f"subject {subject[:80]!r}")

    def leave(self, address: str, subjects: Iterable[str]) -> None:
        """Take note that a connection has ended."""
        if address:
            _discount(self._addresses, counted_as(address))
        for subject in subjects:
            _discount(self._subjects, subject)

    @property
    def is_empty(self) -> bool:
        """Whether nobody is counted any more."""
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
