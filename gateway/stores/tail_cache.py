"""Where open streams end, as far as a store's one owner knows without looking.

Most reads come from somebody who stands at the tail and finds nothing. What the owner commits goes
through its hands, so that it can say so by itself: a read that found nothing is remembered until
the stream changes.
"""

from __future__ import annotations

from gateway.model.log import Page
from gateway.model.records import Position, StreamKey

MAX_TAILS = 20_000  # about 300 bytes each


class TailCache:
    """The tails of streams that somebody has read up to. Used on the store's event loop only.

    A read may see less than what was committed while it was under way. It says before that it
    begins, and what it found counts only if nothing was told of the stream meanwhile.
    """

    def __init__(self) -> None:
        self._runs: dict[str, dict[StreamKey, Position | _PendingRead]] = {}
        self._count = 0

    def is_known_tail(self, key: StreamKey, after: Position | None) -> bool:
        """Whether nothing follows this position as yet."""
        known = self._runs.get(key.run_id)
        return known is not None and after is not None and known.get(key) == after

    def begin(self, key: StreamKey) -> _PendingRead | None:
        """Take note that a read begins; None if another one will tell."""
        known = self._runs.setdefault(key.run_id, {})
        if key in known:
            return None
        if self._count >= MAX_TAILS:
            self.clear()
            known = self._runs.setdefault(key.run_id, {})
        reading = known[key] = _PendingRead()
        self._count += 1
        return reading

    def end(self, key: StreamKey, reading: _PendingRead | None, page: Page | None) -> None:
        """Take note of what a read found; None: it failed."""
        known = self._runs.get(key.run_id)
        if reading is None or known is None or known.get(key) is not reading:
            return
        if page is not None and page.is_empty and page.position.offset > 0:
            known[key] = page.position
        else:
            self.forget(key)

    def grew(self, key: StreamKey, position: Position, *, is_open: bool) -> None:
        """Take note of what was committed."""
        known = self._runs.get(key.run_id)
        if known is None or key not in known:
            return
        if is_open:
            known[key] = position
        else:
            self.forget(key)

    def forget(self, key: StreamKey) -> None:
        """Know nothing of a stream any more."""
        known = self._runs.get(key.run_id)
        if known is None or known.pop(key, None) is None:
            return
        self._count -= 1
        if not known:
            del self._runs[key.run_id]

    def forget_run(self, run_id: str) -> None:
        """Know nothing of a run's streams any more."""
        self._count -= len(self._runs.pop(run_id, ()))

    def clear(self) -> None:
        """Know nothing any more."""
        self._runs.clear()
        self._count = 0


class _PendingRead:
    """Stands for a tail that a read under way may find."""
