"""How the stream of a path is kept: a frozen value, and what forks inherit. No I/O.

The configuration of a path is a log of such values, of which the last counts. A fork copies
nothing: it names the parts of other streams that come before its own records. Offsets go on
counting through them, so that a position says the same in a fork and in its source.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.model.records import Position, StreamKey, path_data

TOUCH_PARTS = 10  # a sliding time to live is written down so many times within itself,
MAX_TOUCH_MS = 60_000  # and at least so often: a stream outlives it by that much at most


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Records of another stream, from logical offset `start` up to `stop`."""

    path: str
    generation: str
    start: int
    stop: int

    @property
    def key(self) -> StreamKey:
        """The log that holds them; its first record has the logical offset `start`."""
        return path_data(self.path, self.generation)


class Fork(msgspec.Struct, frozen=True, array_like=True):
    """A stream that inherits from this one, and since when, milliseconds since 1970 UTC."""

    path: str
    generation: str
    since_ms: int


class Configuration(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a stream is kept.

    Attributes:
        state: `gone` is deleted, but inherited from.
        changed_ms: When it was created or deleted, milliseconds since 1970 UTC.
        generation: Made new each time that the path's stream is created.
        content_type: As it was given.
        ttl_s: Seconds without a read or write after which it goes.
        expires_at: When it goes, as it was given.
        expires_ms: The same, milliseconds since 1970 UTC.
        touched_ms: Up to when it counts as read or written.
        parts: What it inherits, in order.
        source: Path of the stream that it was forked from.
        source_generation: And its generation.
        forked_at: Where, as the request said; None for that stream's end.
        fork_position: Where that was.
        forked_more: How much was inherited beyond it.
        forks: Streams that inherit from it.
        change_id: Made new for each change, so that its writer recognizes it in the log.
    """

    state: Literal["live", "gone", "absent"]
    changed_ms: int = 0
    generation: str = ""
    content_type: str = ""
    ttl_s: int | None = None
    expires_at: str | None = None
    expires_ms: int | None = None
    touched_ms: int = 0
    parts: tuple[Part, ...] = ()
    source: str | None = None
    source_generation: str = ""
    forked_at: str | None = None
    fork_position: str | None = None
    forked_more: int = 0
    forks: tuple[Fork, ...] = ()
    change_id: str = ""

    @property
    def start(self) -> int:
        """Logical offset of the stream's own first record."""
        return self.parts[-1].stop if self.parts else 0

    def is_expired(self, now_ms: int) -> bool:
        """Whether its time is over."""
        if self.expires_ms is not None:
            return now_ms >= self.expires_ms
        return self.ttl_s is not None and now_ms >= self.touched_ms + self.ttl_s * 1000

    def touched(self, now_ms: int) -> Configuration | None:
        """Return it as read or written now; None if that is written down already.

        A step ahead is written down, so that not every read costs a write.
        """
        if self.ttl_s is None or now_ms <= self.touched_ms:
            return None
        step_ms = min(self.ttl_s * 1000 // TOUCH_PARTS, MAX_TOUCH_MS)
        return msgspec.structs.replace(self, touched_ms=now_ms + step_ms)

    def inherited(self, path: str, stop: int) -> tuple[Part, ...]:
        """Return what a fork of this stream at a logical offset inherits."""
        own = Part(path, self.generation, self.start, stop)
        parts = (
            msgspec.structs.replace(part, stop=min(part.stop, stop)) for part in (*self.parts, own)
        )
        return tuple(part for part in parts if part.stop > part.start)

    def part_at(self, offset: int) -> Part | None:
        """Return the inherited part that holds a logical offset; None for the stream's own."""
        return next((part for part in self.parts if part.start <= offset < part.stop), None)

    def with_fork(self, fork: Fork) -> Configuration:
        """Return it with one more stream that inherits from it."""
        return msgspec.structs.replace(self, forks=(*self.forks, fork))

    def without_fork(self, path: str, generation: str) -> Configuration:
        """Return it without a stream that has inherited from it."""
        kept = tuple(
            fork for fork in self.forks if (fork.path, fork.generation) != (path, generation)
        )
        return msgspec.structs.replace(self, forks=kept)


ABSENT = Configuration("absent")

_decoder = msgspec.json.Decoder(Configuration)


def decode(data: bytes) -> Configuration:
    """Read a record of a path's configuration."""
    return _decoder.decode(data)


def encode(configuration: Configuration) -> bytes:
    """Write a record of a path's configuration."""
    return msgspec.json.encode(configuration)


def to_logical(position: Position, start: int) -> Position:
    """Return a position of a log as one of the stream in which its records begin at `start`."""
    return position._replace(offset=position.offset + start)
