"""Memory for the unfinished messages of clients that have not presented a valid token. No I/O.

Each such client may buffer a message up to the frame limit. After `hello`, a larger message counts
against one budget that all of them share: a page whose first frame is a large `append` with its
token has room, and a thousand connections without a token have the same budget together.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_BYTES = 32 << 20  # per process


@dataclass
class _Held:
    """The memory that all these clients use."""

    bytes: int = 0


_held = _Held()


class BufferShare:
    """One client's share of the budget.

    Args:
        free_bytes: A message up to this size does not count against the budget.
    """

    __slots__ = ("_bytes", "_free_bytes", "_is_over")

    def __init__(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._bytes = 0
        self._is_over = False

    def hold(self, size: int) -> bool:
        """Record how many bytes the client holds now; return whether they fit the budget."""
        counted = size if size > self._free_bytes and not self._is_over else 0
        _held.bytes += counted - self._bytes
        self._bytes = counted
        return not counted or _held.bytes <= MAX_BYTES

    def end(self) -> None:
        """Stop counting: the client has presented a valid token."""
        self._is_over = True
        self.hold(0)
