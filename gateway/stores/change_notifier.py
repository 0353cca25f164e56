"""How followers inside one process hear that a stream has grown.

A follower watches a stream; whoever commits tells the watch what was committed. The watch holds a
bounded number of bytes: over that, or when a page does not join, the follower reads from the store
again. A follower that waits, and has said who takes pages for it, does not even wake for one that
joins: it is handed on where it is told.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

from gateway._internal.wakeup import Wakeup
from gateway.errors import RunNotFound
from gateway.model.log import Page
from gateway.model.records import ORIGIN, Position, StreamKey
from gateway.stores.base import OnPage

WATCH_BYTES = 1 << 20  # per live stream: pages committed but not yet taken by its follower

ReadPage = Callable[[StreamKey, Position | None], Awaitable[Page]]


class Follower:
    """One follower's view of what was committed to its stream.

    Args:
        after: Where the follower begins.
        on_page: See `Store.follow`.

    Attributes:
        after: Where the follower stands.
        pages: Committed, and neither yielded nor handed on yet.
        must_read: The follower has to look by itself.
    """

    def __init__(self, after: Position | None, on_page: OnPage | None) -> None:
        self.after = after
        self.pages: deque[Page] = deque()
        self.must_read = False
        self._on_page = on_page
        self._is_waiting = False  # for whatever comes next
        self._fault: Exception | None = None  # of `on_page`
        self._bytes = 0
        self._woken = Wakeup()

    def put(self, page: Page | None) -> None:
        """Take what was committed; None: something happened that has to be read."""
        if self._is_waiting and page is not None and self._is_handed_on(page):
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
        """Take all that is there."""
        pages, self.pages = self.pages, deque()
        self._bytes = 0
        return pages

    def _is_handed_on(self, page: Page) -> bool:
        if self._on_page is None or page.end is not None or not _joins(self.after, page):
            return False
        if not (page.is_empty or _is_behind(self.after, page)):
            self.after = page.position
            try:
                self._on_page(page)
            except Exception as error:
                self._fault, self._is_waiting = error, False
                self._woken.set()
        return True

    async def wait(self) -> None:
        """Return when there is something to take or to read.

        Raises:
            Exception: the one that `on_page` has raised.
        """
        self._is_waiting = not (self.pages or self.must_read)
        await self._woken.wait()
        self._is_waiting = False
        if self._fault is not None:
            raise self._fault


class ChangeNotifier:
    """The watches of a store, by stream. Used on the store's event loop only."""

    def __init__(self) -> None:
        self._watches: dict[str, dict[StreamKey, set[Follower]]] = {}

    def is_followed(self, key: StreamKey) -> bool:
        """Whether anybody would hear what is told of a stream."""
        return key in self._watches.get(key.run_id, ())

    def tell(self, key: StreamKey, page: Page | None) -> None:
        """Tell the followers of a stream what was committed."""
        for watch in tuple(self._watches.get(key.run_id, {}).get(key, ())):
            watch.put(page)

    def tell_run(self, run_id: str) -> None:
        """Tell the followers of a run's streams, also of those that do not exist yet, to look."""
        for watches in self._watches.get(run_id, {}).values():
            for watch in watches:
                watch.put(None)

    async def follow(
        self, key: StreamKey, after: Position | None, read: ReadPage, on_page: OnPage | None = None
    ) -> AsyncGenerator[Page, None]:
        """Be `Store.follow`, with `read` to fetch what the watch does not hold."""
        watch = Follower(after, on_page)
        watches = self._watches.setdefault(key.run_id, {}).setdefault(key, set())
        watches.add(watch)  # before the first read, so that nothing falls between
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
            if not _joins(watch.after, page):
                watch.must_read = True
                break
            if not page.is_empty and not _is_behind(watch.after, page):
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
                # Whatever is still in the watch is read again or known to be behind.
                watch.must_read = True
                yield page
                watch.after = page.position
        await watch.wait()


def _is_behind(after: Position | None, page: Page) -> bool:
    if after is None or page.end is not None or page.position.epoch != after.epoch:
        return False
    return page.position.offset <= after.offset


def _joins(after: Position | None, page: Page) -> bool:
    if _is_behind(after, page):
        return True
    start = page.position.offset - len(page.records)
    if start == 0 and (after is None or after.offset == 0):
        return True
    return after is not None and after == Position(page.position.epoch, start)
