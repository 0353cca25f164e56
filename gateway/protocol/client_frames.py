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
from gateway.patches import Operation
from gateway.records import RunSet

VERSION = 1
PING_MS = 25_000  # a hidden tab may run its timers once a minute only
MAX_THROTTLE_MS = 60_000
MAX_APPEND_RECORDS = 1000
MAX_OPERATIONS = 1000  # on metadata, in one run_patch
MAX_SET_RUNS = 1000  # in one snapshot of a set
DEFAULT_SET_RUNS = 50
MAX_SET_TAGS = 20  # in one union: a cursor each

FrameId = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Throttle = Annotated[int, Meta(ge=0, le=MAX_THROTTLE_MS)]
Sequence = Annotated[int, Meta(ge=0, le=2**53)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Attempt = Annotated[int, Meta(ge=1, le=2**32 - 1)]
Order = Annotated[str, Meta(min_length=1, max_length=256)]
Name128 = Annotated[str, Meta(min_length=1, max_length=128)]
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

    id: Name
    epoch: Sequence
    sequence: Sequence
    counts: Literal["records", "appends"] = "records"


Start = Literal["beginning", "latest"] | FromPosition | FromLast


class Hello(_In, frozen=True, tag="hello"):
    """The first frame."""

    protocol: int
    token: str | None = None
    owner: Name | None = None


class RunSetFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which runs: exactly one field is given. PROTOCOL.md, section 6."""

    tag: Name128 | None = None
    tags: Annotated[list[Name128], Meta(min_length=1, max_length=MAX_SET_TAGS)] | None = None
    batch: Name128 | None = None
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


SetLimit = Annotated[int, Meta(ge=1, le=MAX_SET_RUNS)]


class Subscribe(_In, frozen=True, tag="subscribe"):
    """Follow a stream, the run itself when no stream is named, or a set of runs."""

    id: FrameId
    run: str | UnsetType = UNSET
    runs: RunSetFields | UnsetType = UNSET
    limit: SetLimit = DEFAULT_SET_RUNS
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
    status: list[str] | None = None
    tag: str | None = None
    parent: str | None = None
    batch: str | None = None
    owner: str | None = None
    before: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    token: str | None = None


class Spend(_In, frozen=True, tag="spend"):
    """Take one use of a token."""

    id: FrameId
    token_id: Annotated[str, Meta(min_length=1, max_length=128)]
    uses: Annotated[int, Meta(ge=1)]
    expires_at_ms: int
    token: str | None = None


class Register(_In, frozen=True, tag="register"):
    """Tell the JSON Schemas of input streams."""

    id: FrameId
    schemas: dict[str, dict[str, Any]]
    token: str | None = None


class RunsGet(_In, frozen=True, tag="runs_get"):
    """Ask for a set of runs and the positions of its logs that they reflect."""

    id: FrameId
    runs: RunSetFields
    limit: SetLimit = DEFAULT_SET_RUNS
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
