"""Notify the followers of a stream, within one process, of each commit.

A store publishes each commit, and each follower of the stream buffers its page. The buffer is
bounded: when it is full, or when a page is not contiguous, the follower reads from the store
instead. A waiting follower with an `on_page` callback is not woken for a contiguous page: the
publisher calls `on_page` directly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

from gateway._internal.wakeup import Wakeup
from gateway.errors import RunNotFound
from gateway.model.log import Page
from gateway.model.records import ORIGIN, Position, StreamKey
from gateway.stores.base import OnPage

WATCH_BYTES = 1 << 20  # per follower: committed pages that it has not read yet

ReadPage = Callable[[StreamKey, Position | None], Awaitable[Page]]


class Follower:
    """The commits to one stream that one follower has not received yet.

    Args:
        after: Position to start from.
        on_page: See `Store.follow`.

    Attributes:
        after: Position of the follower.
        pages: Committed pages that were not delivered yet.
        must_read: The follower must read from the store.
    """

    def __init__(self, after: Position | None, on_page: OnPage | None) -> None:
        self.after = after
        self.pages: deque[Page] = deque()
        self.must_read = False
        self._on_page = on_page
        self._is_waiting = False  # for the next page, with nothing buffered
        self._fault: Exception | None = None  # raised by `on_page`
        self._bytes = 0
        self._woken = Wakeup()

    def put(self, page: Page | None) -> None:
        """Buffer or deliver a committed page; None: the follower must read from the store."""
        if self._is_waiting and page is not None and self._deliver_inline(page):
            return
        self._is_waiting = False
        size = sum(len(record.data) for record in page.records) if page is not None else 0
        if page is None or self.must_read or self._bytes + size > WATCH_BYTES:
            self.pages.clear()
            self._bytes, self.must_read = 0, True
        else:
            self.pages.append(page)
            self._bytes += size
        self._woken.set()

    def take(self) -> deque[Page]:
        """Remove and return all buffered pages."""
        pages, self.pages = self.pages, deque()
        self._bytes = 0
        return pages

    def _deliver_inline(self, page: Page) -> bool:
        if self._on_page is None or page.end is not None or not _is_contiguous(self.after, page):
            return False
        if not (page.is_empty or _is_stale(self.after, page)):
            self.after = page.position
            try:
                self._on_page(page)
            except Exception as error:
                self._fault, self._is_waiting = error, False
                self._woken.set()
        return True

    async def wait(self) -> None:
        """Wait until there is a page to take or something to read.

        Raises:
            Exception: as raised by `on_page`.
        """
        self._is_waiting = not (self.pages or self.must_read)
        await self._woken.wait()
        self._is_waiting = False
        if self._fault is not None:
            raise self._fault


class ChangeNotifier:
    """The followers of a store's streams. Used on the store's event loop only."""

    def __init__(self) -> None:
        self._watches: dict[str, dict[StreamKey, set[Follower]]] = {}

    def is_followed(self, key: StreamKey) -> bool:
        """Whether a stream has followers in this process."""
        return key in self._watches.get(key.run_id, ())

    def publish(self, key: StreamKey, page: Page | None) -> None:
        """Deliver a committed page to a stream's followers; None makes them read from the store."""
        for watch in tuple(self._watches.get(key.run_id, {}).get(key, ())):
            watch.put(page)

    def invalidate_run(self, run_id: str) -> None:
        """Make all followers of a run's streams read, including streams that do not exist yet."""
        for watches in self._watches.get(run_id, {}).values():
            for watch in watches:
                watch.put(None)

    async def follow(
        self, key: StreamKey, after: Position | None, read: ReadPage, on_page: OnPage | None = None
    ) -> AsyncGenerator[Page, None]:
        """Implement `Store.follow`; `read` fetches pages that the follower has not buffered."""
        watch = Follower(after, on_page)
        watches = self._watches.setdefault(key.run_id, {}).setdefault(key, set())
        watches.add(watch)  # before the first read, so that no commit is missed
        try:
            async for page in _pages(key, read, watch):
                yield page
                if page.end is not None:
                    return
        finally:
            self._forget(key, watch)

    def _forget(self, key: StreamKey, watch: Follower) -> None:
        streams = self._watches[key.run_id]
        streams[key].discard(watch)
        if not streams[key]:
            del streams[key]
        if not streams:
            del self._watches[key.run_id]


async def _pages(key: StreamKey, read: ReadPage, watch: Follower) -> AsyncGenerator[Page, None]:
    watch.must_read = True
    is_known = False
    while True:
        for page in watch.take():
            if not _is_contiguous(watch.after, page):
                watch.must_read = True
                break
            if not page.is_empty and not _is_stale(watch.after, page):
                yield page
                watch.after = page.position
        while watch.must_read:
            watch.must_read = False
            try:
                page = await read(key, watch.after)
            except RunNotFound:
                if not is_known:
                    raise
                page = Page([], watch.after or ORIGIN, "deleted")
            is_known = True
            if not page.is_empty:
                # Buffered pages are read again or recognized as stale.
                watch.must_read = True
                yield page
                watch.after = page.position
        await watch.wait()


def _is_stale(after: Position | None, page: Page) -> bool:
    if after is None or page.end is not None or page.position.epoch != after.epoch:
        return False
    return page.position.offset <= after.offset


def _is_contiguous(after: Position | None, page: Page) -> bool:
    if _is_stale(after, page):
        return True
    start = page.position.offset - len(page.records)
    if start == 0 and (after is None or after.offset == 0):
        return True
    return after is not None and after == Position(page.position.epoch, start)
