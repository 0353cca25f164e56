"""Known tails of open streams, so that a read at the tail needs no query.

Most reads are at the tail and return no records. The owner of a store sees every commit. So it
remembers the tail that such a read found until the stream changes, and answers the next read from
memory.
"""

from __future__ import annotations

from gateway.model.log import Page
from gateway.model.records import Position, StreamKey

MAX_TAILS = 20_000  # about 300 bytes each


class TailCache:
    """The tails of streams that were read to the end. Used on the store's event loop only.

    A read may miss a commit that happens while it runs. So each read registers first, and its
    result is remembered only if the stream does not change in between.
    """

    def __init__(self) -> None:
        self._runs: dict[str, dict[StreamKey, Position | _PendingRead]] = {}
        self._count = 0

    def is_known_tail(self, key: StreamKey, after: Position | None) -> bool:
        """Whether the position is known to be the stream's tail."""
        known = self._runs.get(key.run_id)
        return known is not None and after is not None and known.get(key) == after

    def begin_read(self, key: StreamKey) -> _PendingRead | None:
        """Register a read; None if the tail is known or another read is registered."""
        known = self._runs.setdefault(key.run_id, {})
        if key in known:
            return None
        if self._count >= MAX_TAILS:
            self.clear()
            known = self._runs.setdefault(key.run_id, {})
        reading = known[key] = _PendingRead()
        self._count += 1
        return reading

    def end_read(self, key: StreamKey, reading: _PendingRead | None, page: Page | None) -> None:
        """Remember the page that a read returned; None: the read failed."""
        known = self._runs.get(key.run_id)
        if reading is None or known is None or known.get(key) is not reading:
            return
        if page is not None and page.is_empty and page.position.offset > 0:
            known[key] = page.position
        else:
            self.forget(key)

    def advance(self, key: StreamKey, position: Position, *, is_open: bool) -> None:
        """Move a known tail to the end of a commit; forget it when the stream has ended."""
        known = self._runs.get(key.run_id)
        if known is None or key not in known:
            return
        if is_open:
            known[key] = position
        else:
            self.forget(key)

    def forget(self, key: StreamKey) -> None:
        """Forget a stream's tail."""
        known = self._runs.get(key.run_id)
        if known is None or known.pop(key, None) is None:
            return
        self._count -= 1
        if not known:
            del self._runs[key.run_id]

    def forget_run(self, run_id: str) -> None:
        """Forget the tails of a run's streams."""
        self._count -= len(self._runs.pop(run_id, ()))

    def clear(self) -> None:
        """Forget all tails."""
        self._runs.clear()
        self._count = 0


class _PendingRead:
    """Placeholder for the tail that a running read may find."""
