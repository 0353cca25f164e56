"""One amount of memory for many holders: who was used the longest ago gives first. No I/O."""

from __future__ import annotations

from typing import Protocol


class Evictable(Protocol):
    """What holds memory that it can do without."""

    def shed(self) -> None:
        """Let all of it go; the budget has it at 0 from now on."""


class MemoryBudget:
    """Keeps the sum of what is held below a limit.

    Args:
        limit: In bytes. One holder alone may be over it: it bounds itself.

    Attributes:
        limit: The same.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: dict[Evictable, int] = {}  # in the order in which they were used
        self.used = 0

    def note(self, holder: Evictable, size: int) -> None:
        """Take note of what a holder has now, just after it was used; others may have to give."""
        self.forget(holder)
        self._held[holder] = size
        self.used += size
        while self.used > self.limit and len(self._held) > 1:
            oldest = next(iter(self._held))
            self.forget(oldest)
            oldest.shed()

    def forget(self, holder: Evictable) -> None:
        """Take note that it holds nothing any more."""
        self.used -= self._held.pop(holder, 0)
