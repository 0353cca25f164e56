"""Broadcast groups: readers at the tail of one stream that receive the same bytes.

A reader that has caught up, and whose connection accepts writes, joins the group of its key: the
same subscription id, the same excluded fields, the same throttle. When the stream grows, the group
encodes the frame once and writes it to every member: no task, no queue and no bookkeeping for a
single reader. A member whose send buffer is full is evicted. It continues alone as a cursor that
lags, and may join again after it has caught up.

    outside ──join──> joining ──first flush──> member ──evict──> outside
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from gateway.fanout.frame import Pack
from gateway.model.records import Position

FLUSH_BYTES = 256 << 10  # written to a connection per tick of the loop; the next tick continues
PROMPT_S = 0.05  # the default throttle of pages; latency is measured for throttles up to this


class Sink(Protocol):
    """A connection that accepts bytes without waiting.

    Attributes:
        write: Writes bytes; whole frames only.
    """

    write: Callable[[bytes], None]

    @property
    def is_open(self) -> bool:
        """Whether it accepts writes: the connection is open, and its send buffer is not full."""


class SocketBatch(Protocol):
    """The connections of a group, to which the same bytes are written."""

    @property
    def full(self) -> Sequence[Any]:
        """Connections that were full or closed when the batch was made; they get no bytes."""

    @property
    def is_current(self) -> bool:
        """Whether no connection has become full or closed since the batch was made."""

    def write(self, frames: bytes) -> None:
        """Write bytes to every connection that is not full; whole frames only."""


class WireFormat(NamedTuple):
    """How frames are written to connections of one type.

    Attributes:
        pack: Encodes a frame's text as the bytes of the wire.
        batch: Makes a batch of connections.
    """

    pack: Pack
    batch: Callable[[Iterable[Any]], SocketBatch]


class GroupKey(NamedTuple):
    """What all members of a group share."""

    id: int
    skip: frozenset[str]
    throttle_s: float
    wire: WireFormat


class Member(Protocol):
    """A reader as the group uses it; `gateway.fanout.cursor.Cursor` implements it."""

    position: Position

    def detach(self) -> None:
        """Continue alone from `position`: the group has evicted this member."""


class FrameSource(Protocol):
    """Where a group's frames come from; `gateway.fanout.tail.Tail` implements it."""

    position: Position

    def contains(self, position: Position) -> bool:
        """Whether the ring holds the record that follows a position."""

    def text_after(self, offset: int, id: int, skip: frozenset[str]) -> tuple[str, Position]:
        """Encode the records after an offset that the ring holds; return the text and its end."""

    def record_delivery(
        self, start: int, stop: int, readers: int, size: int, *, is_live: bool
    ) -> None:
        """Count one delivery of the same bytes to several readers."""


class BroadcastGroup:
    """The readers of one tail that share a key.

    Args:
        tail: Provides the frames.
        key: What the members share.
        loop: Throttle windows are in its time.
        on_empty: Called with the key when the last member has left.
    """

    def __init__(
        self,
        tail: FrameSource,
        key: GroupKey,
        loop: asyncio.AbstractEventLoop,
        on_empty: Callable[[GroupKey], None],
    ) -> None:
        self._tail = tail
        self._key = key
        self._loop = loop
        self._on_empty = on_empty
        self._members: dict[Member, Sink] = {}
        self._batch: SocketBatch | None = (
            None  # the members' connections; None after a change of the members
        )
        self._position = tail.position
        self._joining: dict[Member, tuple[Sink, float]] = {}
        self._throttled_until = 0.0  # end of the throttle window, in the loop's time
        self._flush_handle: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._members) + len(self._joining)

    def join(self, member: Member, sink: Sink, not_before: float) -> None:
        """Add a reader at its own position, which may be a little behind the group's.

        Args:
            member: The group owns its `position` until it leaves or is evicted.
            sink: Its connection.
            not_before: Time of the loop before which the reader's throttle allows no frame.
        """
        if not len(self):
            self._position = member.position
            self._throttled_until = not_before
        # A reader whose window ends later than the group's has to wait by itself first.
        if member.position == self._position and not_before <= self._throttled_until:
            self._admit(member, sink)
        else:
            self._joining[member] = (sink, not_before)
        if self._tail.position != member.position:
            self.schedule()

    def leave(self, member: Member) -> None:
        """Remove a reader and set its `position` after the last record that it has received."""
        if self._members.pop(member, None) is not None:
            self._batch = None
            member.position = self._position
        self._joining.pop(member, None)
        self._close_if_empty()

    def _admit(self, member: Member, sink: Sink) -> None:
        self._members[member] = sink
        self._batch = None

    def _close_if_empty(self) -> None:
        if self._members or self._joining:
            return
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._on_empty(self._key)

    def dissolve(self) -> None:
        """Evict all members: the next records are not the same for all of them."""
        for member in tuple(self._members):
            self._evict(member, self._position)
        for member in tuple(self._joining):
            self._evict(member, member.position)

    def schedule(self) -> None:
        """Schedule a flush: in the next tick of the loop, or when the throttle window ends."""
        if self._flush_handle is not None:
            return
        if self._throttled_until > self._loop.time():
            self._flush_handle = self._loop.call_at(self._throttled_until, self._flush)
        else:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        before = self._position
        if before != self._tail.position and not self._tail.contains(before):
            self.dissolve()  # the ring has moved on: each member reads the store
            return
        frames, self._position = self._frames_between(before, self._tail.position)
        if frames:
            self._broadcast(frames, before)
        if self._key.throttle_s and self._position == self._tail.position:
            self._throttled_until = self._loop.time() + self._key.throttle_s
        if self._joining:
            self._admit_joining()
        if len(self) and (self._joining or self._position != self._tail.position):
            self.schedule()

    def _frames_between(self, start: Position, stop: Position) -> tuple[bytes, Position]:
        """Encode the records between two positions, up to about `FLUSH_BYTES`; return the end."""
        id, skip, _, wire = self._key
        frames: list[bytes] = []
        size = 0
        while start.offset < stop.offset and size < FLUSH_BYTES:
            text, start = self._tail.text_after(start.offset, id, skip)
            frames.append(wire.pack(text))
            size += len(frames[-1])
        return (frames[0] if len(frames) == 1 else b"".join(frames)), start

    def _broadcast(self, frames: bytes, before: Position) -> None:
        # A batch is reused while no connection changed: the usual flush does no work per member.
        batch, full = self._batch, list[Member]()
        if batch is None or not batch.is_current:
            batch = self._key.wire.batch(self._members.values())
            if batch.full:
                sinks = set(batch.full)
                full = [member for member, sink in self._members.items() if sink in sinks]
        batch.write(frames)
        self._tail.record_delivery(
            before.offset,
            self._position.offset,
            len(self._members) - len(full),
            len(frames),
            is_live=self._key.throttle_s <= PROMPT_S,
        )
        for member in full:
            self._evict(member, before)
        self._batch = batch

    def _admit_joining(self) -> None:
        """Send joining readers the frames up to the group's position, within their throttle."""
        now = self._loop.time()
        for member, (sink, not_before) in tuple(self._joining.items()):
            at = member.position
            if at != self._position and (not sink.is_open or not self._tail.contains(at)):
                self._evict(member, at)
                continue
            if at != self._position and not_before <= now:
                frames, member.position = self._frames_between(at, self._position)
                sink.write(frames)
                stop = member.position.offset
                self._tail.record_delivery(at.offset, stop, 1, len(frames), is_live=False)
            if member.position == self._position and not_before <= max(now, self._throttled_until):
                del self._joining[member]
                self._admit(member, sink)

    def _evict(self, member: Member, at: Position) -> None:
        if self._members.pop(member, None) is not None:
            self._batch = None
        self._joining.pop(member, None)
        member.position = at
        self._close_if_empty()
        member.detach()
