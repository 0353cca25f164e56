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
    """What an append did.

    Attributes:
        offset: Of the first record; None if there was none, or a repeat's is no longer known.
        position: After the last record of the stream as far as this append knows.
        duplicate: It was a repeat and wrote nothing.
        next_sequence: Of the writer's next append, if the writer counts appends.
    """

    offset: int | None
    position: Position
    duplicate: bool = False
    next_sequence: int | None = None


class Head(NamedTuple):
    """Where a stream ends and begins."""

    position: Position
    earliest: Position
    end: EndReason | None


class Page(NamedTuple):
    """What a reader gets in one step.

    Attributes:
        records: In order, without holes, the first right after the reader's position
            (or after the gap, or at the beginning after a reset).
        position: After the last of them; where to read on.
        end: Why the stream ended, only when nothing follows `position`.
        gap: Records before these that are gone.
        reset: The reader's position said nothing any more; these are from the beginning.
    """

    records: list[Record]
    position: Position
    end: EndReason | None = None
    gap: Gap | None = None
    reset: ResetReason | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it tells the reader nothing new."""
        return not (self.records or self.end or self.gap or self.reset)


class RunState(NamedTuple):
    """A run at a position of its log."""

    run: Run
    position: Position


class SetState(NamedTuple):
    """The newest runs of some sets, as they are at a position of each set's log.

    Attributes:
        runs: Newest first, each once.
        has_more: There are older ones.
        positions: In the order of the sets that were asked for.
    """

    runs: list[Run]
    has_more: bool
    positions: tuple[Position, ...]


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs to list; every condition that is given must hold.

    Attributes:
        status: One of these.
        tag: Carries it.
        parent_id: Is a child of this run.
        batch_id: Belongs to this batch.
        owner: Is executed by this runner.
        before: Its id sorts before this one (to continue a list).
        limit: At most so many, newest first.
    """

    status: tuple[str, ...] = ()
    tag: str | None = None
    parent_id: str | None = None
    batch_id: str | None = None
    owner: str | None = None
    before: str | None = None
    limit: int = 100


NO_RECORDS = Head(ORIGIN, ORIGIN, None)
"""The head of an open stream that nothing was appended to."""


def is_set_log(key: StreamKey) -> bool:
    """Whether a key is that of a set's log."""
    return key.stream_id == RUNS_STREAM


def belongs_to_no_run(key: StreamKey) -> bool:
    """Whether a log needs no run: logs of run sets and paths, and the log of revoked tokens."""
    return is_set_log(key) or key == REVOCATIONS or path_of(key) is not None


def run_log(run_id: str) -> StreamKey:
    """Return the key of the stream that holds a run's own changes."""
    return StreamKey(run_id, RUN_STREAM)
