"""A reader that stays: what is there, then what is appended, until the stream is closed or gone."""

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
from gateway.server.durable_streams.path_streams import Paths
from gateway.server.durable_streams.stream import HttpPage, HttpStream


class LiveReaders(set["LiveReader"]):
    """Those who read now."""

    def lagging(self) -> Iterator[LaggingReader]:
        """Yield those that have records yet to take."""
        for reader in tuple(self):
            if reader.lag:
                yield LaggingReader("http", reader.stream.key, reader.lag)

    def call_off(self) -> None:
        """Tell all of them to end."""
        for reader in tuple(self):
            reader.call_off()

    def recheck(self) -> None:
        """Tell all of them to ask whether they may go on."""
        for reader in tuple(self):
            reader.must_check = True
            reader.wake()


class ReaderDeps(NamedTuple):
    """What live readers are opened with.

    Attributes:
        hub: Shares the live ends of streams among their readers.
        paths: Knows how the stream of a path is kept.
        readers: Those who are open.
    """

    hub: Hub
    paths: Paths
    readers: LiveReaders


class LiveReader:
    """A reader's place in a stream, woken by the hub. Used as `async with`.

    Args:
        stream: Which.
        position: Where to begin.
        opening: What it is opened with.

    Attributes:
        is_called_off: It has to end.
        must_check: It has to ask whether it may go on.
    """

    def __init__(self, stream: HttpStream, position: Position, opening: ReaderDeps) -> None:
        self.stream = stream
        self.position = position
        self.is_called_off = False
        self.must_check = False
        self._hub, self._paths, self._readers = opening
        self._woken = asyncio.Event()
        self._cursor: RecordCursor | None = None
        self._watch: RecordCursor | None = None  # on the configuration, which says if it is gone

    @property
    def lag(self) -> int:
        """How many records it has yet to take."""
        if self._cursor is None:
            return 0
        end = self._cursor.tail_position.offset + self.stream.start
        return max(0, end - self.position.offset)

    async def __aenter__(self) -> LiveReader:
        stream = self.stream
        self._readers.add(self)
        try:
            # Both cursors are there before the configuration is looked at again, so that nothing
            # that happens from now on is missed.
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
        """Leave the hub. Safe to call twice."""
        self._readers.discard(self)
        for cursor in (self._cursor, self._watch):
            if cursor is not None:
                cursor.close()

    def wake(self) -> None:
        """Make `wait` return."""
        self._woken.set()

    def call_off(self) -> None:
        """Have it end."""
        self.is_called_off = True
        self._woken.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until there may be something to take; false when the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True

    async def next(self) -> HttpPage | None:
        """Take the next step.

        Returns:
            None at the end of an open stream.

        Raises:
            Refused: the stream was deleted, or its position says nothing any more.
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
        # Within what is inherited the cursor waits at its log's beginning.
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
        """Refuse to go on if the stream is not the one that it was."""
        assert self.stream.path is not None
        now = await self._paths.open(self.stream.path)
        if now.key != self.stream.key:
            raise position_gone(self.stream.name)


def _end(head: Head) -> Position:
    return head.position
