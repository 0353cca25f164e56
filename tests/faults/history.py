"""What was acknowledged, what each reader saw, and whether the two agree. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

Key = tuple[str, str]  # run, stream


class Seen(NamedTuple):
    """One record as a reader saw it."""

    offset: int
    value: str  # WRITER:NUMBER, the numbers of a writer ascending


@dataclass
class View:
    """What one reader saw of one stream, in the order in which it came, over all reconnections."""

    reader: str
    key: Key
    records: list[Seen] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)  # told by the gateway
    resets: int = 0  # likewise
    end: str | None = None
    connections: int = 0


@dataclass
class History:
    """Everything that is known of one test."""

    acknowledged: dict[Key, dict[str, int | None]] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)

    def acknowledge(self, key: Key, value: str, offset: int | None) -> None:
        """Take note that a writer was told that a value is durable, and where if it was told."""
        self.acknowledged.setdefault(key, {})[value] = offset

    def view(self, reader: str, key: Key) -> View:
        """Begin the view of a reader."""
        view = View(reader, key)
        self.views.append(view)
        return view


@dataclass
class Verdict:
    """What a check found; `faults` says each in words."""

    records: int = 0
    readers: int = 0
    deliveries: int = 0
    losses: int = 0
    repeats: int = 0
    disorders: int = 0
    contradictions: int = 0
    kills: int = 0
    stops: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing at all is wrong."""
        return not self.faults

    def __str__(self) -> str:
        return (
            f"records {self.records}, readers {self.readers}, deliveries {self.deliveries}, "
            f"losses {self.losses}, repeats {self.repeats}, disorders {self.disorders}, "
            f"contradictions {self.contradictions}"
        )

    def count(self, kind: str, text: str) -> None:
        """Count a fault and say it."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.faults.append(f"{kind}: {text}")


def check(history: History, *, may_reset: bool = False) -> Verdict:
    """Compare what was acknowledged with what every reader saw.

    Every acknowledged record is there once, where the writer was told, in the writer's order; every
    reader saw the same log, without holes and repeats; and every reader was told the end.

    Args:
        history: Of a test.
        may_reset: Readers may have been told to begin anew; what they saw since is judged.
    """
    verdict = Verdict(
        records=sum(map(len, history.acknowledged.values())), readers=len(history.views)
    )
    logs: dict[Key, dict[int, str]] = {}
    for view in history.views:
        verdict.deliveries += len(view.records)
        _check_sequence(view, verdict)
        if view.resets and not may_reset:
            verdict.count("contradictions", f"{view.reader} was told {view.resets} resets")
        _check_values(view, verdict)
        _check_against_acknowledged(view, history.acknowledged.get(view.key, {}), verdict)
        log = logs.setdefault(view.key, {})
        for offset, value in view.records:
            if log.setdefault(offset, value) != value:
                verdict.count(
                    "contradictions",
                    f"{view.reader} saw {value} at {offset} of {view.key}, others {log[offset]}",
                )
    for key in history.acknowledged.keys() - logs.keys():
        verdict.count("losses", f"nobody read {key}")
    return verdict


def _check_sequence(view: View, verdict: Verdict) -> None:
    """Look at the offsets alone."""
    expected, seen = 0, set()
    skips = dict(view.gaps)
    for offset, value in view.records:
        while expected in skips:
            expected = skips.pop(expected)
        if offset in seen:
            verdict.count("repeats", f"{view.reader} got offset {offset} ({value}) again")
        elif offset < expected:
            verdict.count("disorders", f"{view.reader} got offset {offset} after {expected - 1}")
        elif offset > expected:
            verdict.count("losses", f"{view.reader} got no {expected} to {offset - 1}")
        seen.add(offset)
        expected = max(expected, offset + 1)
    if view.end != "completed":
        verdict.count("losses", f"{view.reader} of {view.key} was not told the end: {view.end}")


def _check_values(view: View, verdict: Verdict) -> None:
    """Look at what the writers meant: each value once, each writer's in its order."""
    places: Counter[str] = Counter()
    newest: dict[str, int] = {}
    for value in dict(view.records).values():
        writer, _, number = value.rpartition(":")
        places[value] += 1
        if places[value] > 1:
            verdict.count("repeats", f"{value} was written twice, says {view.reader}")
        elif int(number) <= newest.get(writer, -1):
            verdict.count(
                "disorders", f"{value} came after {writer}:{newest[writer]}, says {view.reader}"
            )
        newest[writer] = max(int(number), newest.get(writer, -1))


def _check_against_acknowledged(
    view: View, acknowledged: dict[str, int | None], verdict: Verdict
) -> None:
    places = {value: offset for offset, value in view.records}
    trimmed = [range(*gap) for gap in view.gaps]
    for value, offset in acknowledged.items():
        if value not in places:
            if not any(offset in gap for gap in trimmed):
                verdict.count("losses", f"{value} was acknowledged, {view.reader} never saw it")
        elif offset is not None and places[value] != offset:
            verdict.count(
                "contradictions",
                f"{value} was acknowledged at {offset}, {view.reader} saw it at {places[value]}",
            )
