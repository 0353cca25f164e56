"""Readers that stand together at the tail of a stream and get the same bytes.

A reader that has caught up, and whose connection takes bytes at once, joins the cohort of its kind:
the same subscription id, the same fields left out, the same throttle. When the stream grows, the
frame is made once and handed to each of them: no task, no queue, no bookkeeping for one reader. A
member whose connection is full is put out, and goes on by itself as a cursor that lags.

    outside ──join──> joining ──its first flush──> member ──put out──> outside
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from gateway.fanout.frame import Pack
from gateway.model.records import Position

FLUSH_BYTES = 256 << 10  # handed to a connection in one tick; the next tick goes on
PROMPT_S = 0.05  # throttles up to this, which pages have by default, are timed like none


class Sink(Protocol):
    """A connection that takes bytes at once.

    Attributes:
        write: Hand bytes over; whole frames only.
    """

    write: Callable[[bytes], None]

    @property
    def is_open(self) -> bool:
        """Whether it takes more now: it is there, and its buffer is not full."""


class SocketBatch(Protocol):
    """Connections that are handed the same bytes."""

    @property
    def full(self) -> Sequence[Any]:
        """Those that were full, or gone, when it was gathered; they are handed nothing."""

    @property
    def is_as_it_was(self) -> bool:
        """Whether none of them has become full, or gone, since it was gathered."""

    def write(self, frames: bytes) -> None:
        """Hand bytes over to each; whole frames only."""


class WireFormat(NamedTuple):
    """How bytes get to connections of one kind.

    Attributes:
        pack: Makes a frame's bytes as they go over the wire from its text.
        gather: Makes a crowd of connections.
    """

    pack: Pack
    gather: Callable[[Iterable[Any]], SocketBatch]


class GroupKey(NamedTuple):
    """What the members of one cohort have in common."""

    id: int
    skip: frozenset[str]
    throttle_s: float
    way: WireFormat


class Member(Protocol):
    """A reader, from the outside: see `gateway.fanout.cursor.Cursor`."""

    position: Position

    def put_out(self) -> None:
        """Take note that it is no member any more, and go on from `position`."""


class FrameSource(Protocol):
    """Where a cohort's frames come from: see `gateway.fanout.tail.Tail`."""

    position: Position

    def holds(self, position: Position) -> bool:
        """Whether the ring goes on right after a position."""

    def text_after(self, offset: int, id: int, skip: frozenset[str]) -> tuple[str, Position]:
        """Make the frame of what follows an offset that the ring holds, and say where it ends."""

    def handed_over(self, start: int, stop: int, readers: int, size: int, *, at_once: bool) -> None:
        """Record that so many readers were given the same bytes; see `Tail.handed_over`."""


class BroadcastGroup:
    """The readers of one kind at one tail.

    Args:
        tail: Gives the frames.
        kind: What they have in common.
        loop: Its time is the throttle's.
        on_empty: Called when the last has left.
    """

    def __init__(
        self,
        tail: FrameSource,
        kind: GroupKey,
        loop: asyncio.AbstractEventLoop,
        on_empty: Callable[[GroupKey], None],
    ) -> None:
        self._tail = tail
        self._kind = kind
        self._loop = loop
        self._on_empty = on_empty
        self._members: dict[Member, Sink] = {}
        self._crowd: SocketBatch | None = None  # the members' connections
        self._position = tail.position
        self._joining: dict[Member, tuple[Sink, float]] = {}
        self._quiet_until = 0.0  # the throttle's window, in the loop's time
        self._flush_handle: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._members) + len(self._joining)

    def join(self, member: Member, sink: Sink, not_before: float) -> None:
        """Take a reader in, where it stands; it may lag a little.

        Args:
            member: Its `position` is not looked at again until it is put out.
            sink: Its connection.
            not_before: Time of the loop before which it wants no frame.
        """
        if not len(self):
            self._position = member.position
            self._quiet_until = not_before
        if member.position == self._position and not_before <= self._quiet_until:
            self._admit(member, sink)
        else:
            self._joining[member] = (sink, not_before)
        if self._tail.position != member.position:
            self.schedule()

    def leave(self, member: Member) -> None:
        """Let a reader go; it knows where it stands."""
        if self._members.pop(member, None) is not None:
            self._crowd = None
            member.position = self._position
        self._joining.pop(member, None)
        self._close_if_empty()

    def _admit(self, member: Member, sink: Sink) -> None:
        self._members[member] = sink
        self._crowd = None

    def _close_if_empty(self) -> None:
        if self._members or self._joining:
            return
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._on_empty(self._kind)

    def disband(self) -> None:
        """Put everybody out: what follows is not for everybody alike."""
        for member in tuple(self._members):
            self._put_out(member, self._position)
        for member in tuple(self._joining):
            self._put_out(member, member.position)

    def schedule(self) -> None:
        """Send what is new: at the end of this tick of the loop, or when the window is over."""
        if self._flush_handle is not None:
            return
        if self._quiet_until > self._loop.time():
            self._flush_handle = self._loop.call_at(self._quiet_until, self._flush)
        else:
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        before = self._position
        if before != self._tail.position and not self._tail.holds(before):
            self.disband()  # fell out of the ring: each reads the store
            return
        frames, self._position = self._frames_between(before, self._tail.position)
        if frames:
            self._hand_out(frames, before)
        if self._kind.throttle_s and self._position == self._tail.position:
            self._quiet_until = self._loop.time() + self._kind.throttle_s
        if self._joining:
            self._take_in()
        if len(self) and (self._joining or self._position != self._tail.position):
            self.schedule()

    def _frames_between(self, start: Position, stop: Position) -> tuple[bytes, Position]:
        """Make the bytes of what lies between, about `FLUSH_BYTES` of them at most."""
        id, skip, _, way = self._kind
        frames: list[bytes] = []
        size = 0
        while start.offset < stop.offset and size < FLUSH_BYTES:
            text, start = self._tail.text_after(start.offset, id, skip)
            frames.append(way.pack(text))
            size += len(frames[-1])
        return (frames[0] if len(frames) == 1 else b"".join(frames)), start

    def _hand_out(self, frames: bytes, before: Position) -> None:
        crowd, full = self._crowd, list[Member]()
        if crowd is None or not crowd.is_as_it_was:
            crowd = self._kind.way.gather(self._members.values())
            if crowd.full:
                sinks = set(crowd.full)
                full = [member for member, sink in self._members.items() if sink in sinks]
        crowd.write(frames)
        self._tail.handed_over(
            before.offset,
            self._position.offset,
            len(self._members) - len(full),
            len(frames),
            at_once=self._kind.throttle_s <= PROMPT_S,
        )
        for member in full:
            self._put_out(member, before)
        self._crowd = crowd

    def _take_in(self) -> None:
        """Bring those who joined since to where the others are, unless it is too soon for them."""
        now = self._loop.time()
        for member, (sink, not_before) in tuple(self._joining.items()):
            at = member.position
            if at != self._position and (not sink.is_open or not self._tail.holds(at)):
                self._put_out(member, at)
                continue
            if at != self._position and not_before <= now:
                frames, member.position = self._frames_between(at, self._position)
                sink.write(frames)
                stop = member.position.offset
                self._tail.handed_over(at.offset, stop, 1, len(frames), at_once=False)
            if member.position == self._position and not_before <= max(now, self._quiet_until):
                del self._joining[member]
                self._admit(member, sink)

    def _put_out(self, member: Member, at: Position) -> None:
        if self._members.pop(member, None) is not None:
            self._crowd = None
        self._joining.pop(member, None)
        member.position = at
        self._close_if_empty()
        member.put_out()
