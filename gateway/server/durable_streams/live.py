"""A live reader: first the existing records, then new ones, until the stream ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from gateway.fanout.hub import Hub
from gateway.fanout.lag import LaggingReader
from gateway.fanout.page_cache import FRAME_BYTES
from gateway.fanout.record_cursor import RecordBatch, RecordCursor
from gateway.model.log import Head
from gateway.model.records import ORIGIN, Position, path_config
from gateway.server.durable_streams.configuration import to_logical
from gateway.server.durable_streams.errors import position_gone
from gateway.server.durable_streams.path_streams import PathStreams
from gateway.server.durable_streams.stream import HttpPage, HttpStream


class LiveReaders(set["LiveReader"]):
    """The open live readers."""

    def lagging(self) -> Iterator[LaggingReader]:
        """Yield the readers that have records to send."""
        for reader in tuple(self):
            if reader.lag:
                yield LaggingReader("http", reader.stream.key, reader.lag)

    def cancel(self) -> None:
        """Cancel all readers."""
        for reader in tuple(self):
            reader.cancel()

    def revalidate(self) -> None:
        """Make all readers check their tokens again."""
        for reader in tuple(self):
            reader.must_revalidate = True
            reader.wake()


class ReaderDeps(NamedTuple):
    """What a live reader needs.

    Attributes:
        hub: Shares the tails of streams among readers.
        paths: Finds the configuration of a path's stream.
        readers: The open readers.
    """

    hub: Hub
    paths: PathStreams
    readers: LiveReaders


class LiveReader:
    """A reader's position in a stream, woken by the hub. Used as `async with`.

    Args:
        stream: The stream.
        position: Where to start.
        deps: What it needs.

    Attributes:
        is_canceled: It has to end.
        must_revalidate: It has to check its token again.
    """

    def __init__(self, stream: HttpStream, position: Position, deps: ReaderDeps) -> None:
        self.stream = stream
        self.position = position
        self.is_canceled = False
        self.must_revalidate = False
        self._hub, self._paths, self._readers = deps
        self._woken = asyncio.Event()
        self._cursor: RecordCursor | None = None
        # cursor on the path's configuration, which shows a deletion
        self._watch: RecordCursor | None = None

    @property
    def lag(self) -> int:
        """Number of records that it has not returned yet."""
        if self._cursor is None:
            return 0
        end = self._cursor.tail_position.offset + self.stream.start
        return max(0, end - self.position.offset)

    async def __aenter__(self) -> LiveReader:
        stream = self.stream
        self._readers.add(self)
        try:
            # Open both cursors before the configuration is read again, so that no change between
            # the two is lost.
            self._cursor = await self._hub.open(
                RecordCursor, stream.key, self._place, 0, self._woken.set
            )
            self._cursor.is_unthrottled = True
            if stream.path is not None:
                key = path_config(stream.path)
                self._watch = await self._hub.open(RecordCursor, key, _end, 0, self._woken.set)
                await self._check()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the cursors. Safe to call twice."""
        self._readers.discard(self)
        for cursor in (self._cursor, self._watch):
            if cursor is not None:
                cursor.close()

    def wake(self) -> None:
        """Make `wait` return."""
        self._woken.set()

    def cancel(self) -> None:
        """Make the reader end."""
        self.is_canceled = True
        self._woken.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until there may be a step to take; return False after the timeout."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True

    async def next(self) -> HttpPage | None:
        """Take the next step.

        Returns:
            A page; None at the end of an open stream.

        Raises:
            HttpRefusal: the stream was deleted, or no longer has the position.
            RealtimeError: the stream cannot be read.
        """
        self._woken.clear()
        await self._check_if_changed()
        if self.position.offset < self.stream.start:
            chunk = await self.stream.read(self.position, FRAME_BYTES)
            self.position = chunk.position
            self._step_to_own()
            return chunk
        assert self._cursor is not None
        taken = await self._cursor.next_records()
        return self._chunk(taken) if taken is not None else None

    def _place(self, head: Head) -> Position:
        # While inherited parts are read, the cursor waits at the start of the stream's own log.
        own = self.position.offset - self.stream.start
        return self.position._replace(offset=own) if own > 0 else ORIGIN

    def _step_to_own(self) -> None:
        if self.position.offset > self.stream.start:
            assert self._cursor is not None
            self._cursor.position = self._place(Head(ORIGIN, ORIGIN, None))

    def _chunk(self, taken: RecordBatch) -> HttpPage:
        assert self._cursor is not None
        if over := self.stream.is_over(taken.end):
            raise over
        if taken.is_void and self.position.offset > 0:
            raise position_gone(self.stream.name)
        if taken.position.offset > 0:
            self.position = to_logical(taken.position, self.stream.start)
        is_closed = taken.end is not None
        is_at_tail = is_closed or taken.position == self._cursor.tail_position
        return HttpPage(taken.data, self.position, is_at_tail, is_closed)

    async def _check_if_changed(self) -> None:
        changed = False
        while self._watch is not None and await self._watch.next_records() is not None:
            changed = True
        if changed:
            await self._check()

    async def _check(self) -> None:
        """Raise if the path has another stream now."""
        assert self.stream.path is not None
        now = await self._paths.open(self.stream.path)
        if now.key != self.stream.key:
            raise position_gone(self.stream.name)


def _end(head: Head) -> Position:
    return head.position
