"""One memory budget for many owners: the least recently used is evicted first. No I/O."""

from __future__ import annotations

from typing import Protocol


class Evictable(Protocol):
    """An owner of memory that can be dropped."""

    def evict(self) -> None:
        """Drop all of the memory; the budget counts 0 bytes for this owner from now on."""


class MemoryBudget:
    """Keeps the memory of all owners together below a limit.

    Args:
        limit: In bytes. A single owner may exceed it: it bounds itself.

    Attributes:
        limit: As given.
        used: Bytes charged to all owners together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._sizes: dict[Evictable, int] = {}  # least recently used first
        self.used = 0

    def charge(self, owner: Evictable, size: int) -> None:
        """Set the size of an owner that was just used; evict others while the limit is exceeded."""
        self.release(owner)
        self._sizes[owner] = size
        self.used += size
        while self.used > self.limit and len(self._sizes) > 1:
            oldest = next(iter(self._sizes))
            self.release(oldest)
            oldest.evict()

    def release(self, owner: Evictable) -> None:
        """Charge nothing to an owner from now on."""
        self.used -= self._sizes.pop(owner, 0)
