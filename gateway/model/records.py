"""Frozen values of the log: stream keys, records, positions, writers. No I/O."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from gateway.errors import InvalidId, InvalidPosition

RUN_STREAM = "$run"  # the reserved stream with the changes of a run
STREAMS_STREAM = "$streams"  # the reserved stream that announces a run's new streams
RUNS_STREAM = "$runs"  # the log of a set: the changes of all its runs
MAX_STREAM_ID_CHARACTERS = 64
MAX_RUN_ID_CHARACTERS = 64

EndReason = Literal["completed", "failed", "canceled", "crashed", "expired", "timed_out", "deleted"]

_STREAM_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_RUN_ID = re.compile(r"run_[A-Za-z0-9]{1,60}\Z")
_ATTEMPT = re.compile(r"[1-9][0-9]{0,9}\Z")
_POSITION = re.compile(r"([0-9a-f]{16})_([0-9]{16})\Z")


def check_stream_id(stream_id: str) -> str:
    """Return the id if users may give it to a stream.

    Raises:
        InvalidId: the id is empty, too long, outside the alphabet, or reserved; the message states
            the rule.

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
    """Return the id if it has the form of a run id.

    Raises:
        InvalidId: it does not have that form.
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
    except ValueError:  # Python refuses to format integers of more than 4,300 digits
        return f"a {type(value).__name__} of too many digits"
    return text if len(text) <= 80 else f"{text[:76]}... ({len(text)} characters)"


class StreamKey(NamedTuple):
    """The key of a stream: the id of its run, and its id within the run."""

    run_id: str
    stream_id: str

    def __str__(self) -> str:
        return f"{self.run_id}/{self.stream_id}"

    def named(self) -> dict[str, str]:
        """Return the parts by name, as fields of log messages."""
        return {"run": self.run_id, "stream": self.stream_id}


REVOCATIONS = StreamKey("gateway", "$revocations")
"""The log of revoked tokens, which every gateway follows; it belongs to no run."""

PATH_CONFIG = "$config"  # the log with the configuration of a path's stream
_PATH_OWNER = "path:"  # prefix of a path that is used in place of a run id


def path_config(path: str) -> StreamKey:
    """Return the key of the log with the configuration of a path's stream; it has no run."""
    return StreamKey(_PATH_OWNER + path, PATH_CONFIG)


def path_data(path: str, generation: str) -> StreamKey:
    """Return the key of one generation of a path's stream; it has no run.

    Args:
        path: The path.
        generation: A name that is new each time the path's stream is created.
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
            InvalidId: the text does not name a run set.
        """
        kind, _, id = text.partition(":") if isinstance(text, str) else ("", "", "")
        if kind not in SET_KINDS or not id:
            raise InvalidId(f"{shown(text)} names no set of runs: tag:…, batch:… or parent:…")
        if kind == "parent":
            check_run_id(id)
        return cls(kind, id)


def source_of(run_id: str, attempt: int) -> str:
    """Return the source of records of a run's attempt; for the first attempt, the run's id alone.

    So a run with one attempt needs no extra space, and stores keep the attempt in the field of the
    run's id.
    """
    return run_id if attempt == 1 else f"{run_id}:{attempt}"


def split_source(source: str | None) -> tuple[str | None, int]:
    """Return the run and the attempt that a source names; None and 1 for a client outside a run.

    A source in another form, which a client may have given, is returned unchanged.
    """
    if source is None or ":" not in source:
        return source, 1
    run_id, _, attempt = source.rpartition(":")
    return (run_id, int(attempt)) if _ATTEMPT.match(attempt) else (source, 1)


class Record(NamedTuple):
    """One appended value.

    Attributes:
        offset: Its number in the stream: 0, 1, 2, … without holes.
        time_ms: When the store accepted it, in milliseconds since 1970 UTC.
        source: The run and attempt that wrote it, as in `source_of`; None for a client outside a
            run.
        data: The JSON bytes as received.
    """

    offset: int
    time_ms: int
    source: str | None
    data: bytes

    @property
    def written_by(self) -> tuple[str | None, int]:
        """The run and the attempt that wrote it."""
        return split_source(self.source)


class Position(NamedTuple):
    """A reader's place in a stream: the reader has seen `offset` records of the epoch `epoch`.

    Positions compare and sort like their strings. Offset 0 is valid in every epoch, because the
    reader has seen no records that could differ.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}_{self.offset:016d}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Parse a position.

        Raises:
            InvalidPosition: the text is not a position.
        """
        match = _POSITION.match(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidPosition(
                f"{shown(text)} is not a position: send back one that you were given"
            )
        return cls(match[1], int(match[2]))


ORIGIN = Position("0" * 16, 0)
"""The beginning of every stream, and the position of a stream that does not exist yet."""


class Writer(NamedTuple):
    """Identity and sequence of an append, by which a store recognizes a repeat.

    Attributes:
        id: Random name of the writer.
        epoch: Increases when another process takes over the id; appends of an older epoch are
            rejected.
        sequence: Number of the append's first record, counted by the writer for each stream.
        counts: The unit of `sequence`: records, or whole appends. When appends are counted, an
            append is a repeat as a whole, and an append without records has a number too.
    """

    id: str
    epoch: int
    sequence: int
    counts: Literal["records", "appends"] = "records"

    def after(self, records: int) -> int:
        """Return the sequence of the writer's next append, after one of `records` records."""
        return self.sequence + (1 if self.counts == "appends" else records)


class Gap(NamedTuple):
    """A range of permanently deleted records between two positions."""

    start: Position
    stop: Position
    reason: Literal["trimmed"]


ResetReason = Literal["epoch_changed", "tail_lost"]
