"""The frames that a client sends, as frozen values in one tagged union. No I/O.

Payloads stay the JSON bytes they came in (`msgspec.Raw`): nothing here reads a record's data.

Source:
    PROTOCOL.md, sections 4 to 8.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from gateway.errors import MalformedFrame
from gateway.model.limits import (
    MAX_APPEND_RECORDS,
    MAX_ATTEMPTS,
    MAX_BATCH_ID_CHARACTERS,
    MAX_INTEGER,
    MAX_LISTED_RUNS,
    MAX_OPERATIONS,
    MAX_ORDER_CHARACTERS,
    MAX_OWNER_CHARACTERS,
    MAX_SET_TAGS,
    MAX_TAG_CHARACTERS,
    MAX_THROTTLE_MS,
    MAX_WRITER_ID_CHARACTERS,
)
from gateway.model.patches import Operation
from gateway.model.records import MAX_RUN_ID_CHARACTERS, RunSet
from gateway.model.runs import STATUSES, RunStatus

VERSION = 1
PING_MS = 25_000  # a hidden tab may run its timers once a minute only
DEFAULT_SET_RUNS = 50

FrameId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Throttle = Annotated[int, Meta(ge=0, le=MAX_THROTTLE_MS)]
Sequence = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
WriterId = Annotated[str, Meta(min_length=1, max_length=MAX_WRITER_ID_CHARACTERS)]
Owner = Annotated[str, Meta(min_length=1, max_length=MAX_OWNER_CHARACTERS)]
Attempt = Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)]
Order = Annotated[str, Meta(min_length=1, max_length=MAX_ORDER_CHARACTERS)]
Tag = Annotated[str, Meta(min_length=1, max_length=MAX_TAG_CHARACTERS)]
BatchId = Annotated[str, Meta(min_length=1, max_length=MAX_BATCH_ID_CHARACTERS)]
RunId = Annotated[str, Meta(max_length=MAX_RUN_ID_CHARACTERS)]
Statuses = Annotated[list[RunStatus], Meta(max_length=len(STATUSES))]
ListLimit = Annotated[int, Meta(ge=1, le=MAX_LISTED_RUNS)]
Skip = list[Literal["payload", "output", "metadata"]]


class _In(msgspec.Struct, frozen=True, tag_field="type"):
    pass


class FromPosition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start after what the client has."""

    position: str


class FromLast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start with the last n records."""

    last: Count


class WriterFields(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who appends: PROTOCOL.md, section 8."""

    id: WriterId
    epoch: Sequence
    sequence: Sequence
    counts: Literal["records", "appends"] = "records"


Start = Literal["beginning", "latest"] | FromPosition | FromLast


class Hello(_In, frozen=True, tag="hello"):
    """The first frame."""

    protocol: int
    token: str | None = None
    owner: Owner | None = None


class RunSetFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which runs: exactly one field is given. PROTOCOL.md, section 6."""

    tag: Tag | None = None
    tags: Annotated[list[Tag], Meta(min_length=1, max_length=MAX_SET_TAGS)] | None = None
    batch: BatchId | None = None
    parent: str | None = None

    @property
    def sets(self) -> list[RunSet]:
        """The sets that are meant.

        Raises:
            MalformedFrame: none or several of the fields are given.
            InvalidId: the parent is no run id.
        """
        given = [name for name in ("tag", "tags", "batch", "parent") if getattr(self, name)]
        if len(given) != 1:
            raise MalformedFrame("`runs` has exactly one of tag, tags, batch, parent")
        if self.tags is not None:
            return [RunSet("tag", tag) for tag in dict.fromkeys(self.tags)]
        return [RunSet.parse(f"{given[0]}:{getattr(self, given[0])}")]


class Subscribe(_In, frozen=True, tag="subscribe"):
    """Follow a stream, the run itself when no stream is named, or a set of runs."""

    id: FrameId
    run: str | UnsetType = UNSET
    runs: RunSetFields | UnsetType = UNSET
    limit: ListLimit = DEFAULT_SET_RUNS
    skip: Skip = []
    stream: str | None = None
    start: Any = "beginning"  # read by `start_of`: msgspec cannot tell the two objects apart
    throttle_ms: Throttle = 0
    token: str | None = None


class Unsubscribe(_In, frozen=True, tag="unsubscribe"):
    """End a subscription."""

    id: FrameId


class Token(_In, frozen=True, tag="token"):
    """Replace a token in place."""

    token: str
    id: FrameId | None = None


class Ping(_In, frozen=True, tag="ping"):
    """Ask for a sign of life."""


class Append(_In, frozen=True, tag="append"):
    """Add records to a stream."""

    id: FrameId
    run: str
    stream: str
    records: Annotated[list[Raw], Meta(max_length=MAX_APPEND_RECORDS)]
    writer: WriterFields | None = None
    end: Literal["completed", "failed", "canceled", "expired"] | None = None
    source: str | None = None
    attempt: Attempt | UnsetType = UNSET
    order: Order | None = None
    token: str | None = None


class Head(_In, frozen=True, tag="head"):
    """Ask where a stream ends."""

    id: FrameId
    run: str
    stream: str
    token: str | None = None


class Read(_In, frozen=True, tag="read"):
    """Ask for one page of a stream."""

    id: FrameId
    run: str
    stream: str
    after: str | None = None
    max_bytes: Annotated[int, Meta(ge=1, le=1 << 20)] = 1 << 18
    token: str | None = None


class Delete(_In, frozen=True, tag="delete"):
    """Remove a stream's records."""

    id: FrameId
    run: str
    stream: str
    token: str | None = None


class RunCreate(_In, frozen=True, tag="run_create"):
    """Make a run."""

    id: FrameId
    value: dict[str, Any]
    token: str | None = None


class RunPatch(_In, frozen=True, tag="run_patch"):
    """Change a run."""

    id: FrameId
    run: str
    patch: dict[str, Any] = {}
    operations: Annotated[list[Operation], Meta(max_length=MAX_OPERATIONS)] = []
    writer: WriterFields | None = None
    token: str | None = None


class RunDelete(_In, frozen=True, tag="run_delete"):
    """Remove a run and all that it owns."""

    id: FrameId
    run: str
    token: str | None = None


class RunGet(_In, frozen=True, tag="run_get"):
    """Ask for a run."""

    id: FrameId
    run: str
    token: str | None = None


class RunList(_In, frozen=True, tag="run_list"):
    """Ask for runs, newest first."""

    id: FrameId
    status: Statuses | None = None
    tag: Tag | None = None
    parent: RunId | None = None
    batch: BatchId | None = None
    owner: Owner | None = None
    before: RunId | None = None
    limit: ListLimit = 100
    token: str | None = None


class Spend(_In, frozen=True, tag="spend"):
    """Take one use of a token."""

    id: FrameId
    token_id: Annotated[str, Meta(min_length=1, max_length=128)]
    uses: Annotated[int, Meta(ge=1, le=MAX_INTEGER)]
    expires_at_ms: Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
    token: str | None = None


class Register(_In, frozen=True, tag="register"):
    """Register the JSON Schemas of input streams."""

    id: FrameId
    schemas: dict[str, dict[str, Any]]
    token: str | None = None


class RunsGet(_In, frozen=True, tag="runs_get"):
    """Ask for a set of runs and the positions of its logs that they reflect."""

    id: FrameId
    runs: RunSetFields
    limit: ListLimit = DEFAULT_SET_RUNS
    token: str | None = None


Request = (
    Append
    | Head
    | Read
    | Delete
    | RunCreate
    | RunPatch
    | RunDelete
    | RunGet
    | RunList
    | RunsGet
    | Spend
    | Register
)
ClientFrame = Hello | Subscribe | Unsubscribe | Token | Ping | Request
