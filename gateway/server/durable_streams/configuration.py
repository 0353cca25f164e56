"""The configuration of a path's stream: a frozen value, and what forks inherit. No I/O.

The configuration of a path is a log of such values; the last one counts. A fork copies no records:
it names the parts of other streams that come before its own. Offsets continue through these parts,
so a position means the same in a fork and in its source.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gateway.model.records import Position, StreamKey, path_data

TOUCH_PARTS = 10  # a sliding TTL is stored this often within its length,
MAX_TOUCH_MS = 60_000  # and at least this often: a stream outlives its TTL by that much at most


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Records of another stream, from the logical offset `start` up to `stop`."""

    path: str
    generation: str
    start: int
    stop: int

    @property
    def key(self) -> StreamKey:
        """The log of the records; its first record has the logical offset `start`."""
        return path_data(self.path, self.generation)


class Fork(msgspec.Struct, frozen=True, array_like=True):
    """A stream that inherits from this one, and its creation time, milliseconds since 1970 UTC."""

    path: str
    generation: str
    since_ms: int


class Configuration(msgspec.Struct, frozen=True, omit_defaults=True):
    """The configuration of a stream.

    Attributes:
        state: `gone` means deleted, but forks still inherit from it.
        changed_ms: When it was created or deleted, milliseconds since 1970 UTC.
        generation: New for each creation of the path's stream.
        content_type: As the request gave it.
        ttl_s: Seconds without a read or write after which the stream expires.
        expires_at: When it expires, as the request gave it.
        expires_ms: The same, milliseconds since 1970 UTC.
        touched_ms: Time until which it counts as read or written.
        parts: The parts that it inherits, in order.
        source: Path of the stream that it was forked from.
        source_generation: Generation of that stream.
        forked_at: Offset of the fork, as the request gave it; None for the source's end.
        fork_position: The position of that offset.
        forked_more: How much was inherited beyond it.
        forks: Streams that inherit from it.
        change_id: New for each change, so that its writer recognizes it in the log.
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
        """Whether the stream has expired."""
        if self.expires_ms is not None:
            return now_ms >= self.expires_ms
        return self.ttl_s is not None and now_ms >= self.touched_ms + self.ttl_s * 1000

    def touched(self, now_ms: int) -> Configuration | None:
        """Return the configuration as read or written now; None if the stored one covers that.

        The stored time is a step ahead, so that not every read costs a write.
        """
        if self.ttl_s is None or now_ms <= self.touched_ms:
            return None
        step_ms = min(self.ttl_s * 1000 // TOUCH_PARTS, MAX_TOUCH_MS)
        return msgspec.structs.replace(self, touched_ms=now_ms + step_ms)

    def inherited(self, path: str, stop: int) -> tuple[Part, ...]:
        """Return the parts that a fork at a logical offset inherits."""
        own = Part(path, self.generation, self.start, stop)
        parts = (
            msgspec.structs.replace(part, stop=min(part.stop, stop)) for part in (*self.parts, own)
        )
        return tuple(part for part in parts if part.stop > part.start)

    def part_at(self, offset: int) -> Part | None:
        """Return the inherited part at a logical offset; None for the stream's own records."""
        return next((part for part in self.parts if part.start <= offset < part.stop), None)

    def with_fork(self, fork: Fork) -> Configuration:
        """Return it with one more fork."""
        return msgspec.structs.replace(self, forks=(*self.forks, fork))

    def without_fork(self, path: str, generation: str) -> Configuration:
        """Return it without one of its forks."""
        kept = tuple(
            fork for fork in self.forks if (fork.path, fork.generation) != (path, generation)
        )
        return msgspec.structs.replace(self, forks=kept)


ABSENT = Configuration("absent")

_decoder = msgspec.json.Decoder(Configuration)


def decode(data: bytes) -> Configuration:
    """Decode a record of a path's configuration."""
    return _decoder.decode(data)


def encode(configuration: Configuration) -> bytes:
    """Encode a record of a path's configuration."""
    return msgspec.json.encode(configuration)


def to_logical(position: Position, start: int) -> Position:
    """Convert a log's position to the stream's, in which the log begins at `start`."""
    return position._replace(offset=position.offset + start)
