"""Compare acknowledged records with the records that each reader received. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

Key = tuple[str, str]  # run, stream


class Seen(NamedTuple):
    """One record that a reader received."""

    offset: int
    value: str  # WRITER:NUMBER; the numbers of a writer ascend


@dataclass
class View:
    """The records that one reader received of one stream, in order, over all connections."""

    reader: str
    key: Key
    records: list[Seen] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)  # from `gap` frames
    resets: int = 0  # number of `reset` frames
    end: str | None = None
    connections: int = 0


@dataclass
class History:
    """The acknowledgements and the readers' records of one test."""

    acknowledged: dict[Key, dict[str, int | None]] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)

    def acknowledge(self, key: Key, value: str, offset: int | None) -> None:
        """Record that a value was acknowledged, and its offset if the acknowledgement has one."""
        self.acknowledged.setdefault(key, {})[value] = offset

    def view(self, reader: str, key: Key) -> View:
        """Create the view of a new reader."""
        view = View(reader, key)
        self.views.append(view)
        return view


@dataclass
class Verdict:
    """The result of a check: counts by kind, and a description of each fault."""

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
        """Whether the check found no fault."""
        return not self.faults

    def __str__(self) -> str:
        return (
            f"records {self.records}, readers {self.readers}, deliveries {self.deliveries}, "
            f"losses {self.losses}, repeats {self.repeats}, disorders {self.disorders}, "
            f"contradictions {self.contradictions}"
        )

    def count(self, kind: str, text: str) -> None:
        """Count a fault and keep its description."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.faults.append(f"{kind}: {text}")


def check(history: History, *, may_reset: bool = False) -> Verdict:
    """Compare the acknowledged records with the records of every reader.

    Every acknowledged record exists once, at its acknowledged offset, in the writer's order. All
    readers received the same log, without holes and repeats, and the end of the stream.

    Args:
        history: The history of a test.
        may_reset: Whether readers may have received a `reset`. Records since then are checked.
    """
    verdict = Verdict(
        records=sum(map(len, history.acknowledged.values())), readers=len(history.views)
    )
    logs: dict[Key, dict[int, str]] = {}
    for view in history.views:
        verdict.deliveries += len(view.records)
        _check_sequence(view, verdict)
        if view.resets and not may_reset:
            verdict.count("contradictions", f"{view.reader} received {view.resets} resets")
        _check_values(view, verdict)
        _check_against_acknowledged(view, history.acknowledged.get(view.key, {}), verdict)
        log = logs.setdefault(view.key, {})
        for offset, value in view.records:
            if log.setdefault(offset, value) != value:
                verdict.count(
                    "contradictions",
                    f"{view.reader} has {value} at {offset} of {view.key}, others {log[offset]}",
                )
    for key in history.acknowledged.keys() - logs.keys():
        verdict.count("losses", f"no reader read {key}")
    return verdict


def _check_sequence(view: View, verdict: Verdict) -> None:
    """Check the order of offsets."""
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
            verdict.count("losses", f"{view.reader} did not get {expected} to {offset - 1}")
        seen.add(offset)
        expected = max(expected, offset + 1)
    if view.end != "completed":
        verdict.count("losses", f"{view.reader} of {view.key} got no completed end: {view.end}")


def _check_values(view: View, verdict: Verdict) -> None:
    """Check that each value exists once, and that each writer's values are in order."""
    places: Counter[str] = Counter()
    newest: dict[str, int] = {}
    for value in dict(view.records).values():
        writer, _, number = value.rpartition(":")
        places[value] += 1
        if places[value] > 1:
            verdict.count("repeats", f"{view.reader} has {value} twice")
        elif int(number) <= newest.get(writer, -1):
            verdict.count("disorders", f"{view.reader} has {value} after {writer}:{newest[writer]}")
        newest[writer] = max(int(number), newest.get(writer, -1))


def _check_against_acknowledged(
    view: View, acknowledged: dict[str, int | None], verdict: Verdict
) -> None:
    places = {value: offset for offset, value in view.records}
    trimmed = [range(*gap) for gap in view.gaps]
    for value, offset in acknowledged.items():
        if value not in places:
            if not any(offset in gap for gap in trimmed):
                verdict.count("losses", f"{value} was acknowledged, {view.reader} did not get it")
        elif offset is not None and places[value] != offset:
            verdict.count(
                "contradictions",
                f"{value} was acknowledged at {offset}, {view.reader} has it at {places[value]}",
            )
