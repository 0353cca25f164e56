"""What streams and their followers have to be, for
`tests/server/websocket/test_stateful.py`. No store, no loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from gateway.model.records import Position, Record, StreamKey, Writer


class Sent(NamedTuple):
    """The newest append of a writer, as it can be sent again."""

    writer: Writer
    data: list[bytes]
    end: str | None
    offset: int | None  # of its first record


@dataclass
class Author:
    """What a stream must remember of a writer."""

    id: str
    counts: Literal["records", "appends"]
    epoch: int = 0
    sequence: int = 0  # of what comes next
    last: Sent | None = None

    def writer(self, *, epoch: int | None = None, sequence: int | None = None) -> Writer:
        """Name itself, or one who stands elsewhere."""
        epoch = self.epoch if epoch is None else epoch
        return Writer(self.id, epoch, self.sequence if sequence is None else sequence, self.counts)

    def take_over(self) -> None:
        """Be another process under the same name."""
        self.epoch, self.sequence, self.last = self.epoch + 1, 0, None

    def send(self, data: list[bytes], first: int, end: str | None = None) -> Sent:
        """Take note of an append; the records begin at offset `first`."""
        self.last = Sent(self.writer(), data, end, first if data else None)
        self.sequence = self.last.writer.after(len(data))
        return self.last


@dataclass
class Log:
    """What a stream must be."""

    key: StreamKey
    authors: list[Author]
    values: list[str] = field(default_factory=list)
    earliest: int = 0
    end: str | None = None
    ends: list[str] = field(default_factory=list)  # one that completed may be deleted later
    renewals: int = 0  # how often its epoch has changed

    def grow(self, count: int, size: int) -> list[bytes]:
        """Take note of new records; gives their data."""
        first = len(self.values)
        values = [f"{first + i} {'x' * size}" for i in range(count)]
        self.values += values
        return [f'"{value}"'.encode() for value in values]

    def finish(self, reason: str) -> None:
        """Take note of an end."""
        self.end = reason
        self.ends.append(reason)

    def check(self, records: Sequence[Record], start: int) -> None:
        """Compare what was read from an offset on."""
        for offset, record in enumerate(records, start):
            assert record.offset == offset
            assert record.data == f'"{self.values[offset]}"'.encode()


@dataclass
class Follower:
    """A client's view of one subscription; `take` checks every frame."""

    log: Log
    expected: int | None  # offset of the next record; None until `subscribed` says
    reset: str | None = None  # the one that must come first
    renewals: int = field(init=False)  # of the stream, which it was told of
    position: str = ""
    is_over: bool = False
    is_subscribed: bool = False

    def __post_init__(self) -> None:
        self.renewals = self.log.renewals

    def resumed(self) -> Follower:
        """Return one that goes on where this one has come to."""
        offset = Position.parse(self.position).offset
        is_void = offset > 0 and self.renewals < self.log.renewals
        return Follower(self.log, offset, "epoch_changed" if is_void else None)

    def take(self, frame: dict[str, Any]) -> None:
        if self.is_over and frame.get("code") == "unknown_subscription":
            return  # it ended while `unsubscribe` was on its way
        assert not self.is_over, f"after the end: {frame}"
        if frame["type"] == "subscribed":
            assert not self.is_subscribed
            self.is_subscribed = True
            self.position = frame["position"]
            stands_at = Position.parse(self.position).offset
            if self.expected is None:
                self.expected = stands_at
            elif self.reset is None:
                assert stands_at == self.expected
            return
        assert self.is_subscribed, f"before `subscribed`: {frame}"
        getattr(self, f"_{frame['type']}")(frame)

    def _records(self, frame: dict[str, Any]) -> None:
        assert self.reset is None, f"records where a reset was due: {frame}"
        for record in frame["records"]:
            assert record["offset"] == self.expected
            assert record["data"] == self.log.values[record["offset"]]
            self.expected += 1
        self._stand(frame["position"])

    def _gap(self, frame: dict[str, Any]) -> None:
        start, stop = (Position.parse(frame[name]).offset for name in ("from", "to"))
        assert start == self.expected < stop <= self.log.earliest
        assert frame["reason"] == "trimmed"
        self.expected = stop
        self._stand(frame["to"])

    def _reset(self, frame: dict[str, Any]) -> None:
        if self.reset is None or frame["reason"] != self.reset:
            assert frame["reason"] == "epoch_changed"
            assert self.renewals < self.log.renewals
            self.renewals += 1
        self.reset, self.expected = None, 0
        self._stand(frame["position"])

    def _end(self, frame: dict[str, Any]) -> None:
        assert frame["reason"] in self.log.ends
        if frame["reason"] != "deleted":
            self.expect_everything()
        self.is_over = True

    def _stand(self, position: str) -> None:
        assert Position.parse(position).offset == self.expected
        self.position = position

    def expect_everything(self) -> None:
        assert self.reset is None and self.expected == len(self.log.values)
