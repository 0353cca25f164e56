"""Frozen values of the log: stream keys, records, positions.

No I/O here; everything above this module speaks in these values.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from gateway.errors import InvalidId, InvalidPosition

RUN_STREAM = "$run"  # the reserved stream that holds a run's own changes
STREAMS_STREAM = "$streams"  # the one that names a run's streams as they appear
RUNS_STREAM = "$runs"  # the one that holds the changes of all runs of a set
MAX_STREAM_ID_CHARACTERS = 64
MAX_RUN_ID_CHARACTERS = 64

EndReason = Literal["completed", "failed", "canceled", "crashed", "expired", "timed_out", "deleted"]

_STREAM_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_RUN_ID = re.compile(r"run_[A-Za-z0-9]{1,60}\Z")
_ATTEMPT = re.compile(r"[1-9][0-9]{0,9}\Z")
_POSITION = re.compile(r"([0-9a-f]{16})_([0-9]{16})\Z")


def check_stream_id(stream_id: str) -> str:
    """Return the id if a user may name a stream so.

    Raises:
        InvalidId: empty, too long, outside the alphabet, or reserved; the message says the rule.

    Source:
        PROTOCOL.md, section 3.
    """
    if not isinstance(stream_id, str) or not _STREAM_ID.match(stream_id):
        raise InvalidId(
            f"stream id {shown(stream_id)} is not allowed: use 1 to {MAX_STREAM_ID_CHARACTERS} "
            "of the characters A-Z a-z 0-9 - _ . (ids that start with $ are reserved)"
        )
    if stream_id in (".", ".."):
        raise InvalidId(f"stream id {stream_id!r} is reserved")
    return stream_id


def check_run_id(run_id: str) -> str:
    """Return the id if it has the form of a run's.

    Raises:
        InvalidId: it has not.
    """
    if not isinstance(run_id, str) or not _RUN_ID.match(run_id):
        raise InvalidId(
            f"run id {shown(run_id)} is not allowed: it is run_ and 1 to 60 letters and digits"
        )
    return run_id


def shown(value: object) -> str:
    """Return a value's text for a message, cut to 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 80 else f"{text[:76]}... ({len(text)} characters)"


class StreamKey(NamedTuple):
    """Which stream: the run it belongs to and its id there."""

    run_id: str
    stream_id: str

    def __str__(self) -> str:
        return f"{self.run_id}/{self.stream_id}"

    def named(self) -> dict[str, str]:
        """Name its parts, for the log."""
        return {"run": self.run_id, "stream": self.stream_id}


REVOCATIONS = StreamKey("gateway", "$revocations")
"""The log of revoked tokens, which every gateway follows; like a set's log it belongs to no run."""

PATH_CONFIG = "$config"  # the log that holds how the stream of a path is kept
_PATH_OWNER = "path:"  # stands before a path in the place of a run id


def path_config(path: str) -> StreamKey:
    """Return the key of the log that says how the stream of a path is kept; it has no run."""
    return StreamKey(_PATH_OWNER + path, PATH_CONFIG)


def path_data(path: str, generation: str) -> StreamKey:
    """Return the key of one generation of a path's stream; it has no run.

    Args:
        path: Which path.
        generation: Made new each time that the path's stream is created.
    """
    return StreamKey(_PATH_OWNER + path, f"$data-{generation}")


def path_of(key: StreamKey) -> str | None:
    """Return the path that a log belongs to; None for any other log."""
    owner = key.run_id
    return owner.removeprefix(_PATH_OWNER) if owner.startswith(_PATH_OWNER) else None


SetKind = Literal["tag", "batch", "parent"]
SET_KINDS: tuple[SetKind, ...] = ("tag", "batch", "parent")


class RunSet(NamedTuple):
    """A set of runs: the runs with a tag, of a batch, or the children of a run."""

    kind: SetKind
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @property
    def log(self) -> StreamKey:
        """The key of the log of the set's changes; it belongs to no run."""
        return StreamKey(str(self), RUNS_STREAM)

    @classmethod
    def parse(cls, text: str) -> RunSet:
        """Parse the name of a run set, which its log's key has in place of a run id.

        Raises:
            InvalidId: it is none.
        """
        kind, _, id = text.partition(":") if isinstance(text, str) else ("", "", "")
        if kind not in SET_KINDS or not id:
            raise InvalidId(f"{shown(text)} names no set of runs: tag:…, batch:… or parent:…")
        if kind == "parent":
            check_run_id(id)
        return cls(kind, id)


def source_of(run_id: str, attempt: int) -> str:
    """Name an attempt of a run as the source of records; the first one is the run's id alone.

    So the attempt costs nothing where there is only one, and stores keep it where they have always
    kept the run's id.
    """
    return run_id if attempt == 1 else f"{run_id}:{attempt}"


def split_source(source: str | None) -> tuple[str | None, int]:
    """Return the run and the attempt that a source names; None and 1 for a client outside any.

    A source in another form, which a client may have given, is returned as it is.
    """
    if source is None or ":" not in source:
        return source, 1
    run_id, _, attempt = source.rpartition(":")
    return (run_id, int(attempt)) if _ATTEMPT.match(attempt) else (source, 1)


class Record(NamedTuple):
    """One appended value.

    Attributes:
        offset: Dense place in its stream, from 0.
        time_ms: When the store accepted it, milliseconds since 1970 UTC.
        source: Who wrote it, as `source_of` names it; None for a client outside any run.
        data: JSON bytes as they came in.
    """

    offset: int
    time_ms: int
    source: str | None
    data: bytes

    @property
    def written_by(self) -> tuple[str | None, int]:
        """The run that wrote it, and in which attempt."""
        return split_source(self.source)


class Position(NamedTuple):
    """How far a reader has come: `offset` records of storage `epoch` have been seen.

    Compares and sorts like its string. Offset 0 fits every epoch: nothing was seen, so
    nothing can be wrong.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}_{self.offset:016d}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read a position's string.

        Raises:
            InvalidPosition: the string is not one.
        """
        match = _POSITION.match(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidPosition(
                f"{shown(text)} is not a position: send back one that you were given"
            )
        return cls(match[1], int(match[2]))


ORIGIN = Position("0" * 16, 0)
"""The beginning of any stream, and the position in one that does not exist yet."""


class Writer(NamedTuple):
    """Who appends, so that a repeat is harmless.

    Attributes:
        id: Random name of the writer.
        epoch: Grows when another takes over under the same id; an older one is refused.
        sequence: Number of the append's first record, counted by the writer for each stream.
        counts: What the sequence numbers: records, or whole appends (a repeat is then one as a
            whole, and an append without records takes a number too).
    """

    id: str
    epoch: int
    sequence: int
    counts: Literal["records", "appends"] = "records"

    def after(self, records: int) -> int:
        """Return the sequence that follows an append of so many records."""
        return self.sequence + (1 if self.counts == "appends" else records)


class Gap(NamedTuple):
    """Records that are gone for good between two positions."""

    start: Position
    stop: Position
    reason: Literal["trimmed"]


ResetReason = Literal["epoch_changed", "tail_lost"]
