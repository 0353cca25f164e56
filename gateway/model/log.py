"""Values that stores return: results of appends, pages, heads, runs and sets; reserved logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gateway.model.records import (
    ORIGIN,
    REVOCATIONS,
    RUN_STREAM,
    RUNS_STREAM,
    EndReason,
    Gap,
    Position,
    Record,
    ResetReason,
    StreamKey,
    path_of,
)
from gateway.model.runs import Run


class Appended(NamedTuple):
    """The result of an append.

    Attributes:
        offset: Offset of the first record; None if the append had no records, or if it was a repeat
            whose offset is no longer stored.
        position: The end of the stream as far as this append knows.
        duplicate: Whether the append was a repeat and wrote nothing.
        next_sequence: Sequence of the writer's next append, if the writer counts appends.
    """

    offset: int | None
    position: Position
    duplicate: bool = False
    next_sequence: int | None = None


class Head(NamedTuple):
    """The end position of a stream, its earliest record, and why it ended if it has."""

    position: Position
    earliest: Position
    end: EndReason | None


class Page(NamedTuple):
    """The result of one read.

    Attributes:
        records: Consecutive records in order. The first one follows the reader's position, or the
            gap, or is the stream's first after a reset.
        position: The position after the last record, from which to continue.
        end: Why the stream ended; set only when no records follow `position`.
        gap: The deleted records before `records`.
        reset: Set when the reader's position is no longer valid; `records` start at the beginning.
    """

    records: list[Record]
    position: Position
    end: EndReason | None = None
    gap: Gap | None = None
    reset: ResetReason | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the page has neither records nor an end, a gap or a reset."""
        return not (self.records or self.end or self.gap or self.reset)


class RunState(NamedTuple):
    """A run at a position of its log."""

    run: Run
    position: Position


class SetState(NamedTuple):
    """The newest runs of several sets, at a position of each set's log.

    Attributes:
        runs: Newest first, without duplicates.
        has_more: Whether there are older runs.
        positions: A position for each set, in the order of the request.
    """

    runs: list[Run]
    has_more: bool
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Conditions of a list of runs; a run must meet all that are given.

    Attributes:
        status: The run has one of these statuses.
        tag: The run has this tag.
        parent_id: The run is a child of this run.
        batch_id: The run belongs to this batch.
        owner: The run is executed by this runner.
        before: The run's id sorts before this one (to continue a list).
        limit: Largest number of runs; the newest are returned, newest first.
    """

    status: tuple[str, ...] = ()
    tag: str | None = None
    parent_id: str | None = None
    batch_id: str | None = None
    owner: str | None = None
    before: str | None = None
    limit: int = 100


NO_RECORDS = Head(ORIGIN, ORIGIN, None)
"""The head of an open stream without records."""


def is_set_log(key: StreamKey) -> bool:
    """Whether a key names the log of a run set."""
    return key.stream_id == RUNS_STREAM


def belongs_to_no_run(key: StreamKey) -> bool:
    """Whether a log has no run: logs of run sets and paths, and the log of revoked tokens."""
    return is_set_log(key) or key == REVOCATIONS or path_of(key) is not None


def run_log(run_id: str) -> StreamKey:
    """Return the key of the log that records the changes of a run."""
    return StreamKey(run_id, RUN_STREAM)
