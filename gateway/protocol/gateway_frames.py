"""The frames that a gateway sends, as frozen values in tagged unions. No I/O.

Most are the same for who writes them and who reads them. `records` and `result` are written from
bytes that are ready, and read as `RecordsFrame` and `ResultFrame`.

Source:
    PROTOCOL.md, sections 4 to 9.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from gateway.errors import RealtimeError, from_wire
from gateway.model.records import Record, source_of


class _Out(msgspec.Struct, frozen=True, tag_field="type"):
    pass


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
        """Make the frame that reports an error.

        Args:
            error: The error.
            id: The request or subscription that the error ends.
            subscription: The subscription whose token was refused; it continues.
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
        """Return the error that the frame reports."""
        after_ms = self.retry_after_ms
        return from_wire(self.code, self.message, after_ms / 1000 if after_ms else None)


Common = (
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
GatewayFrame = Common | Result


class RecordFields(msgspec.Struct, frozen=True):
    """A record as a client reads it."""

    offset: int
    time_ms: int
    data: Raw
    source: str | UnsetType | None = UNSET
    attempt: int = 1

    def to_record(self, run_id: str) -> Record:
        """Return it as the value that the rest of the code speaks in."""
        source = run_id if self.source is UNSET else self.source
        if source is not None:
            source = source_of(source, self.attempt)
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


ReceivedFrame = Common | ResultFrame | RecordsFrame
