"""Unanswered requests and active subscriptions of a connection to a gateway."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from gateway import protocol
from gateway.errors import MalformedFrame, RealtimeError, RunNotFound, from_wire
from gateway.model.log import Page
from gateway.model.records import ORIGIN, Gap, Position, StreamKey

# Received but unread bytes of a subscription; above this limit it pauses.
FOLLOW_BYTES = 4 << 20


@dataclass(eq=False, slots=True)
class PendingRequest:
    """A request, and the future of its answer."""

    frame: protocol.Request
    may_repeat: bool
    text: str = field(init=False)  # the encoded frame, sent on each connection
    answer: asyncio.Future[Any] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    was_sent: bool = False
    was_repeated: bool = False

    def __post_init__(self) -> None:
        self.text = protocol.encode(self.frame)

    @property
    def name(self) -> str:
        """The request's type, for messages."""
        return str(self.frame.__struct_config__.tag)

    @property
    def is_unanswered(self) -> bool:
        """Whether it was sent and has neither an answer nor an error."""
        return self.was_sent and not self.answer.done()

    def fail(self, error: RealtimeError) -> None:
        """Set an error, unless the request is already answered."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(eq=False, slots=True)
class RemoteSubscription:
    """A subscription to a stream, with its received but unread pages."""

    id: int
    key: StreamKey
    after: Position | None
    pages: deque[Page] = field(default_factory=deque)
    bytes: int = 0
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    is_paused: bool = False
    is_over: bool = False
    is_known: bool = False  # the gateway has sent a frame of the stream
    error: RealtimeError | None = None

    def frame(self) -> protocol.Subscribe:
        """Return the frame that subscribes from the current position."""
        start = {"position": str(self.after)} if self.after is not None else "beginning"
        run_id, stream_id = self.key
        return protocol.Subscribe(self.id, run_id, stream=stream_id, start=start)

    def take(self, frame: Any) -> bool:
        """Buffer a frame; True when the buffer exceeds `FOLLOW_BYTES` and must pause."""
        if isinstance(frame, protocol.ErrorFrame):
            if frame.code != RunNotFound.code or not self.is_known:
                self.fail(from_wire(frame.code, frame.message))
                return False
            frame = protocol.End(self.id, "deleted", str(self.after or ORIGIN))  # it was deleted
        self.is_known = True
        page = self._page(frame)
        if page is None or self.is_paused:
            return False
        expected = self.after.offset if self.after is not None else 0
        if page.records and page.records[0].offset != expected:
            raise MalformedFrame(
                f"stream {self.key}: record {page.records[0].offset} came where {expected} was next"
            )
        self.pages.append(page)
        self.after = page.position
        self.is_over = page.end is not None
        self.bytes += sum(len(record.data) for record in page.records)
        self.is_paused = self.bytes > FOLLOW_BYTES and not self.is_over
        self.grown.set()
        return self.is_paused

    def _page(self, frame: Any) -> Page | None:
        match frame:
            case protocol.RecordsFrame(records=records, position=position):
                run_id = self.key.run_id
                return Page([r.to_record(run_id) for r in records], Position.parse(position))
            case protocol.End(reason=reason, position=position):
                return Page([], Position.parse(position), reason)  # type: ignore[arg-type]
            case protocol.GapFrame(start=start, stop=stop, reason=reason):
                end = Position.parse(stop)
                return Page([], end, gap=Gap(Position.parse(start), end, reason))  # type: ignore[arg-type]
            case protocol.Reset(position=position, reason=reason):
                return Page([], Position.parse(position), reset=reason)  # type: ignore[arg-type]
        return None

    def fail(self, error: RealtimeError) -> None:
        """End the subscription; pages received before are still yielded, then the error."""
        self.error, self.is_over = error, True
        self.grown.set()
