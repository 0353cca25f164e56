"""Memory for the unfinished messages of clients that have shown no good token. No I/O.

Each such client has the limit of a frame for itself. What is beyond it, after `hello`, comes out of
one amount for all of them: a page whose first frame is a large `append` with its own token has
room, a thousand connections without a token have no more together.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_BYTES = 32 << 20  # of this process


@dataclass
class _Held:
    """What all of them hold."""

    bytes: int = 0


_held = _Held()


class Share:
    """What one client holds of it.

    Args:
        free_bytes: Not counted.
    """

    __slots__ = ("_bytes", "_free_bytes", "_is_over")

    def __init__(self, free_bytes: int) -> None:
        self._free_bytes = free_bytes
        self._bytes = 0
        self._is_over = False

    def hold(self, size: int) -> bool:
        """Take note of what it holds now; false if that is more than there is room for."""
        counted = size if size > self._free_bytes and not self._is_over else 0
        _held.bytes += counted - self._bytes
        self._bytes = counted
        return not counted or _held.bytes <= MAX_BYTES

    def end(self) -> None:
        """Count no more: the client has shown a good token."""
        self._is_over = True
        self.hold(0)
