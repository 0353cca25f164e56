"""WebSocket frames as frozen values in two tagged unions, and how to read and write them. No I/O.

Payloads stay the JSON bytes they came in (`msgspec.Raw`): nothing here reads a record's data.

Source:
    PROTOCOL.md, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from gateway.errors import (
    FrameTooLarge,
    MalformedFrame,
    RealtimeError,
    UnknownFrame,
    from_wire,
)
from gateway.limits import DEFAULT_LIMITS, Limits
from gateway.patches import Operation
from gateway.records import Record, RunSet
from gateway.runs import Run

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
Order = Annotated[str, Meta(min_length=1, max_length=256)]
Name128 = Annotated[str, Meta(min_length=1, max_length=128)]
Skip = list[Literal["payload", "output", "metadata"]]


class _In(msgspec.Struct, frozen=True, tag_field="type"):
    pass


class _Out(msgspec.Struct, frozen=True, tag_field="type"):
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


# ---- from the client ----


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


# ---- from the gateway ----


class LimitFields(msgspec.Struct, frozen=True):
    """What a client must stay below."""

    frame_bytes: int
    data_frame_bytes: int
    record_bytes: int
    subscriptions: int


class Welcome(_Out, frozen=True, tag="welcome"):
    """Answer to `hello`."""

    protocol: int
    connection: str
    ping_ms: int
    limits: LimitFields


class Subscribed(_Out, frozen=True, tag="subscribed"):
    """The cursor stands."""

    id: int
    position: str | UnsetType = UNSET
    run: dict[str, Any] | UnsetType = UNSET
    runs: list[Raw] | UnsetType = UNSET
    has_more: bool | UnsetType = UNSET


class GapFrame(_Out, frozen=True, tag="gap", rename={"start": "from", "stop": "to"}):
    """Records that are gone for good."""

    id: int
    start: str
    stop: str
    reason: str


class Reset(_Out, frozen=True, tag="reset"):
    """The client's position says nothing any more."""

    id: int
    reason: str
    position: str | UnsetType = UNSET
    runs: list[Raw] | UnsetType = UNSET
    has_more: bool | UnsetType = UNSET


class End(_Out, frozen=True, tag="end"):
    """The stream has ended."""

    id: int
    reason: str
    position: str


class Unsubscribed(_Out, frozen=True, tag="unsubscribed"):
    """Answer to `unsubscribe`."""

    id: int


class Appended(_Out, frozen=True, tag="appended"):
    """The records are durable."""

    id: int
    offset: int | None
    position: str
    duplicate: bool
    next_sequence: int | UnsetType = UNSET


class Result(_Out, frozen=True, tag="result"):
    """Answer to a request."""

    id: int
    value: Any


class TokenAccepted(_Out, frozen=True, tag="token_accepted"):
    """Answer to `token`."""

    expires_in_ms: int
    id: int | UnsetType = UNSET


class TokenExpiring(_Out, frozen=True, tag="token_expiring"):
    """A token is near its end."""

    expires_in_ms: int
    id: int | UnsetType = UNSET


class Pong(_Out, frozen=True, tag="pong"):
    """Answer to `ping`."""


class ErrorFrame(_Out, frozen=True, tag="error"):
    """Something was refused."""

    code: str
    message: str
    retryable: bool
    id: int | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    subscription: int | UnsetType = UNSET

    @classmethod
    def of(
        cls, error: RealtimeError, id: int | None = None, subscription: int | None = None
    ) -> ErrorFrame:
        """Make the frame that tells of an error.

        Args:
            error: What was refused, and why.
            id: What is over with it.
            subscription: Whose token was refused; it goes on.
        """
        after_s = error.retry_after_s
        return cls(
            error.code,
            error.message,
            error.retryable,
            UNSET if id is None else id,
            UNSET if after_s is None else round(after_s * 1000),
            UNSET if subscription is None else subscription,
        )

    def to_error(self) -> RealtimeError:
        """Return the error that it tells of."""
        after_ms = self.retry_after_ms
        return from_wire(self.code, self.message, after_ms / 1000 if after_ms else None)


_Common = (
    Welcome
    | Subscribed
    | GapFrame
    | Reset
    | End
    | Unsubscribed
    | Appended
    | TokenAccepted
    | TokenExpiring
    | Pong
    | ErrorFrame
)
GatewayFrame = _Common | Result


class _Tag(msgspec.Struct):
    type: Any = None
    id: Any = None


_client_frames = msgspec.json.Decoder(ClientFrame)
_tags = msgspec.json.Decoder(_Tag)
_encoder = msgspec.json.Encoder()
_KNOWN = frozenset(str(frame.__struct_config__.tag) for frame in ClientFrame.__args__)


# These carry what users have made, and may be as large as that is.
_DATA_FRAMES = frozenset({"append", "run_create", "run_patch", "register"})


def decode(
    text: str | bytes, limits: Limits = DEFAULT_LIMITS, *, is_first: bool = False
) -> ClientFrame:
    """Read a client's frame.

    Args:
        text: One WebSocket text message.
        limits: How large it may be.
        is_first: Nothing is known of the client yet, so that no frame may carry data.

    Returns:
        One of the client's frames.

    Raises:
        FrameTooLarge: states both numbers.
        UnknownFrame: names the type.
        MalformedFrame: says which field is wrong.
    """
    is_one_byte_each = isinstance(text, bytes) or text.isascii()
    size = len(text) if is_one_byte_each else len(text.encode(errors="surrogatepass"))  # type: ignore[union-attr]
    if size > limits.frame_bytes:
        carries_data = not is_first and _tag(text).type in _DATA_FRAMES
        _check_size(size, limits.data_frame_bytes if carries_data else limits.frame_bytes)
    try:
        frame: ClientFrame = _client_frames.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _fault(text, error) from None
    return frame


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise FrameTooLarge(f"the frame is {size} bytes; the limit is {limit}")


def _fault(text: str | bytes, error: Exception) -> MalformedFrame | UnknownFrame:
    type_ = _tag(text).type
    if isinstance(type_, str) and type_ not in _KNOWN:
        return UnknownFrame(f"no frame has the type {type_[:40]!r}")
    return MalformedFrame(f"the frame cannot be read: {error}")


def _tag(text: str | bytes) -> _Tag:
    try:
        return _tags.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Tag()


def id_of(text: str | bytes) -> int | None:
    """Find the `id` in a frame that could not be read, so that the error can name it."""
    id = _tag(text).id
    return id if type(id) is int and 0 <= id < 2**32 else None


Start = Literal["beginning", "latest"] | FromPosition | FromLast


def start_of(frame: Subscribe) -> Start:
    """Read where a subscription starts.

    Raises:
        MalformedFrame: it is none of the forms.
    """
    if isinstance(frame.start, str) and frame.start in ("beginning", "latest"):
        return frame.start  # type: ignore[return-value]
    for form in (FromPosition, FromLast):
        try:
            return msgspec.convert(frame.start, form)
        except msgspec.ValidationError:
            continue
    raise MalformedFrame(
        '`start` is none of "beginning", "latest", {"position": "…"}, {"last": 1 to 1000000}'
    )


def encode(frame: GatewayFrame | ClientFrame) -> str:
    """Write a frame as the text of one WebSocket message."""
    return _encoder.encode(frame).decode()


def encode_record(record: Record, run_id: str) -> bytes:
    """Write one record as it stands in `records` frames; the data is copied, not read."""
    source = b""
    if record.source != run_id:
        source = b',"source":' + (
            b"null" if record.source is None else b'"%b"' % record.source.encode()
        )
    return b'{"offset":%d,"time_ms":%d%b,"data":%b}' % (
        record.offset,
        record.time_ms,
        source,
        record.data,
    )


def time_of(encoded: bytes) -> int:
    """Read when a record was accepted from how it was encoded, ms since 1970 UTC."""
    start = encoded.index(b'"time_ms":') + 10
    return int(encoded[start : encoded.index(b",", start)])


def without(wire: dict[str, Any], skip: Collection[str]) -> dict[str, Any]:
    """Leave fields out of a run or of a patch of one."""
    return {name: value for name, value in wire.items() if name not in skip}


def encode_runs(runs: Iterable[Run], skip: Collection[str], max_bytes: int) -> list[Raw]:
    """Write runs, as many of the first as fit; at least one if there is one."""
    encoded: list[Raw] = []
    size = 0
    for run in runs:
        data = _encoder.encode(without(run.to_wire(), skip))
        size += len(data)
        if encoded and size > max_bytes:
            break
        encoded.append(Raw(data))
    return encoded


def strip_run_data(data: bytes, skip: Collection[str]) -> bytes:
    """Leave fields out of a record's data in the log of a run or of a set of runs."""
    change = without(msgspec.json.decode(data), skip)
    for name in ("run", "patch"):  # of a set's log; no run has fields of these names
        if isinstance(change.get(name), dict):
            change[name] = without(change[name], skip)
    return _encoder.encode(change)


def record_data(encoded: bytes) -> bytes:
    """Return the data of an encoded record."""
    return encoded.partition(b'"data":')[2][:-1]  # what is before it are numbers and an id


def strip_run_record(encoded: bytes, skip: Collection[str]) -> bytes:
    """Leave fields out of an encoded record of such a log."""
    head, _, data = encoded.partition(b'"data":')  # what is before it are numbers and an id
    return head + b'"data":' + strip_run_data(data[:-1], skip) + b"}"


def encode_records(id: int, records: Iterable[bytes], position: str) -> str:
    """Write a `records` frame from records that are already encoded."""
    body = b",".join(records).decode()
    return f'{{"type":"records","id":{id},"records":[{body}],"position":"{position}"}}'


class RecordFields(msgspec.Struct, frozen=True):
    """A record as a client reads it."""

    offset: int
    time_ms: int
    data: Raw
    source: str | UnsetType | None = UNSET

    def to_record(self, run_id: str) -> Record:
        """Return it as the value that the rest of the code speaks in."""
        source = run_id if self.source is UNSET else self.source
        return Record(self.offset, self.time_ms, source, bytes(self.data))


class PageFields(msgspec.Struct, frozen=True):
    """The value of a `read` request's result as a client reads it."""

    records: list[RecordFields]
    position: str
    end: str | None = None
    gap: dict[str, str] | None = None
    reset: str | None = None


class ResultFrame(_Out, frozen=True, tag="result"):
    """A result as a client reads it: the value's shape is the request's to know."""

    id: int
    value: Raw


class RecordsFrame(_Out, frozen=True, tag="records"):
    """New records."""

    id: int
    records: list[RecordFields]
    position: str


ReceivedFrame = _Common | ResultFrame | RecordsFrame
_gateway_frames = msgspec.json.Decoder(ReceivedFrame)


def decode_gateway(text: str | bytes) -> ReceivedFrame | None:
    """Read a gateway's frame: the client's side of the wire.

    Returns:
        The frame; None for a type that this version does not know, which a client ignores.

    Raises:
        MalformedFrame: a known frame in another shape.
    """
    try:
        frame: ReceivedFrame = _gateway_frames.decode(text)
    except msgspec.ValidationError as error:
        if "Invalid value" in str(error) and "$.type" in str(error):
            return None
        raise MalformedFrame(f"the gateway's frame cannot be read: {error}") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedFrame(f"the gateway's frame is no JSON: {error}") from None
    return frame
