"""The stream that a request reads, of a run or of a path, page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway.errors import RunNotFound
from gateway.model.log import Page
from gateway.model.records import ORIGIN, EndReason, Position, StreamKey
from gateway.server.durable_streams import bodies
from gateway.server.durable_streams.configuration import Configuration, to_logical
from gateway.server.durable_streams.errors import HttpRefusal, not_found, position_gone
from gateway.stores.base import Store

JSON = "application/json"
RUN_STREAM_CONFIGURATION = Configuration("live", generation="run", content_type=JSON)


class HttpPage(NamedTuple):
    """The result of one read.

    Attributes:
        records: In order, without gaps.
        position: Position after the last record.
        is_at_tail: No record follows yet.
        is_closed: No record can follow.
    """

    records: list[bytes]
    position: Position
    is_at_tail: bool
    is_closed: bool


@dataclass(frozen=True, slots=True)
class HttpStream:
    """An existing stream.

    Attributes:
        name: Its name in URLs.
        key: The log of its own records.
        configuration: Its configuration.
        store: The store.
        path: Its path; None for a run's stream.
    """

    name: str
    key: StreamKey
    configuration: Configuration
    store: Store
    path: str | None

    @property
    def form(self) -> bodies.Form:
        """How its records are stored and presented."""
        return bodies.form_of(self.configuration.content_type)

    @property
    def start(self) -> int:
        """Logical offset of its own first record."""
        return self.configuration.start

    def is_over(self, end: EndReason | None) -> HttpRefusal | None:
        """Return the error of a deleted stream; None if it is not deleted."""
        if end != "deleted":
            return None
        if self.path is not None:
            return not_found(self.name)
        return HttpRefusal(410, "stream_gone", f"the stream {self.name} was deleted")

    async def tail(self) -> tuple[Position, EndReason | None]:
        """Return its end position, and the reason of its end if it has ended.

        Raises:
            HttpRefusal: 404 or 410, it was deleted.
        """
        head = await self.store.head(self.key)
        if over := self.is_over(head.end):
            raise over
        if head.position.offset > 0:
            return to_logical(head.position, self.start), head.end
        return await self._inherited_end(), head.end

    async def _inherited_end(self) -> Position:
        parts = self.configuration.parts
        if not parts:
            return ORIGIN
        return Position((await self.store.head(parts[-1].key)).position.epoch, self.start)

    async def holds(self, position: Position) -> bool:
        """Whether a position is one of this stream's, so that a read can start there."""
        if position.offset == 0:
            return True
        if position.offset == self.start:
            return position == await self._inherited_end()
        part = self.configuration.part_at(position.offset - 1)
        key, start = (part.key, part.start) if part is not None else (self.key, self.start)
        after = position._replace(offset=position.offset - start)
        page = await self.store.read(key, after, 1)
        return page.reset is None and page.gap is None

    async def read(self, position: Position, max_bytes: int) -> HttpPage:
        """Read from a position, without waiting.

        Args:
            position: Where to start.
            max_bytes: Approximate limit of data; at least one record is returned if there is one.

        Raises:
            HttpRefusal: 410, the stream no longer has the position; 404 or 410, it was deleted.
        """
        chunk = await self._read_parts(position, max_bytes)
        left = max_bytes - sum(map(len, chunk.records))
        if chunk.position.offset < self.start or (chunk.records and left <= 0):
            return chunk
        return await self._read_own(chunk, max(left, 1))

    async def _read_parts(self, position: Position, max_bytes: int) -> HttpPage:
        records, size, at = list[bytes](), 0, position
        if 0 < position.offset <= self.start and not await self.holds(position):
            raise position_gone(self.name)
        while size < max_bytes and (part := self.configuration.part_at(at.offset)):
            # Between two parts, the position still has the epoch of the first one.
            inside = at.offset > part.start
            after = at._replace(offset=at.offset - part.start) if inside else None
            page = await self.store.read(part.key, after, max_bytes - size)
            data = [record.data for record in page.records][: part.stop - at.offset]
            if not data:
                raise position_gone(self.name)
            records += data
            size += sum(map(len, data))
            at = Position(page.position.epoch, at.offset + len(data))
        return HttpPage(records, at, False, False)

    async def _read_own(self, before: HttpPage, max_bytes: int) -> HttpPage:
        at = before.position
        after = at._replace(offset=at.offset - self.start) if at.offset > self.start else None
        page = await self._page(after, max_bytes)
        is_void = page.reset is not None or page.gap is not None
        if after is not None and is_void:
            raise position_gone(self.name)
        if page.position.offset > 0:
            at = to_logical(page.position, self.start)
        records = before.records + [record.data for record in page.records]
        is_closed = page.end is not None
        return HttpPage(records, at, is_closed or await self._is_tail(page), is_closed)

    async def _page(self, after: Position | None, max_bytes: int) -> Page:
        try:
            page = await self.store.read(self.key, after, max_bytes)
        except RunNotFound:
            raise not_found(self.name) from None
        if over := self.is_over(page.end):
            raise over
        return page

    async def _is_tail(self, page: Page) -> bool:
        if not page.records:
            return True
        return (await self.store.head(self.key)).position == page.position
