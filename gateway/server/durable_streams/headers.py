"""Headers of requests as values. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from gateway.errors import InvalidPosition
from gateway.model.records import Position, Writer
from gateway.server.durable_streams.errors import HttpRefusal, malformed

CLOSED = "Stream-Closed"
NEXT_OFFSET = "Stream-Next-Offset"
UP_TO_DATE = "Stream-Up-To-Date"
CURSOR = "Stream-Cursor"
SEQUENCE = "Stream-Seq"
TTL = "Stream-TTL"
EXPIRES_AT = "Stream-Expires-At"
FORKED_FROM = "Stream-Forked-From"
FORK_OFFSET = "Stream-Fork-Offset"
FORK_SUB_OFFSET = "Stream-Fork-Sub-Offset"
PRODUCER_ID = "Producer-Id"
PRODUCER_EPOCH = "Producer-Epoch"
PRODUCER_SEQUENCE = "Producer-Seq"
EXPECTED_SEQUENCE = "Producer-Expected-Seq"
RECEIVED_SEQUENCE = "Producer-Received-Seq"
DATA_ENCODING = "Stream-SSE-Data-Encoding"

REQUEST_HEADERS = (
    *(CLOSED, SEQUENCE, TTL, EXPIRES_AT, FORKED_FROM, FORK_OFFSET, FORK_SUB_OFFSET),
    *(PRODUCER_ID, PRODUCER_EPOCH, PRODUCER_SEQUENCE, "If-None-Match"),
)
"""What a page of another origin may send, besides what any request of it may."""

ANSWER_HEADERS = (
    *(NEXT_OFFSET, UP_TO_DATE, CLOSED, CURSOR, TTL, EXPIRES_AT, DATA_ENCODING, "ETag", "Location"),
    *(PRODUCER_EPOCH, PRODUCER_SEQUENCE, EXPECTED_SEQUENCE, RECEIVED_SEQUENCE),
)
"""What a page of another origin may look at."""

_NAMES = {
    name.lower().encode(): name for name in (*REQUEST_HEADERS, "Content-Type", "Authorization")
}

DEFAULT_TYPE = "application/octet-stream"
MAX_NAME = 256  # characters of a producer's id, a sequence or a content type
MAX_TTL_S = 10 * 366 * 24 * 3600
MAX_SEQUENCE = 2**53 - 1

_NUMBER = re.compile(r"(0|[1-9][0-9]{0,18})\Z")
_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+\Z")
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)


def named(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the known headers of a request by their usual spelling.

    Args:
        raw: The headers of the ASGI scope. The first of equal names counts.
    """
    found = {}
    for raw_name, value in raw:
        name = _NAMES.get(raw_name)
        if name is not None and name not in found:
            found[name] = value.decode("latin-1")
    return found


def where(position: Position, is_closed: bool) -> dict[str, str]:
    """Make the headers that give the end of a page, and whether the stream is closed there."""
    return {NEXT_OFFSET: str(position)} | ({CLOSED: "true"} if is_closed else {})


class ForkSpec(NamedTuple):
    """What a new stream inherits.

    Attributes:
        source: Path of the source, as in the request's URL.
        at: Where the fork diverges; None for the source's end.
        more: How much to inherit beyond it: records, or bytes of one record.
    """

    source: str
    at: Position | None
    more: int


class CreateHeaders(NamedTuple):
    """The headers of a PUT.

    Attributes:
        content_type: As given; None without one.
        ttl_s: Seconds without a read or write after which the stream expires.
        expires_at: When it expires, as given.
        expires_ms: The same, milliseconds since 1970 UTC.
        closes: The body is the whole stream.
        fork: What it inherits.
    """

    content_type: str | None
    ttl_s: int | None
    expires_at: str | None
    expires_ms: int | None
    closes: bool
    fork: ForkSpec | None


class AppendHeaders(NamedTuple):
    """The headers of a POST.

    Attributes:
        content_type: As given; None without one.
        closes: The stream ends after this append.
        producer: Makes a repeated append harmless.
        order: A sequence that has to sort after the previous one.
    """

    content_type: str | None
    closes: bool
    producer: Writer | None
    order: str | None


def read_create_headers(headers: Mapping[str, str]) -> CreateHeaders:
    """Read the headers of a PUT.

    Raises:
        HttpRefusal: 400, a header breaks its rule.
    """
    ttl_s = _whole(headers, TTL, MAX_TTL_S)
    expires_at = headers.get(EXPIRES_AT)
    if ttl_s is not None and expires_at is not None:
        raise malformed(f"{TTL} and {EXPIRES_AT} exclude each other")
    expires_ms = _time_ms(expires_at) if expires_at is not None else None
    content_type = _content_type(headers)
    fork = _fork(headers)
    return CreateHeaders(content_type, ttl_s, expires_at, expires_ms, closes(headers), fork)


def read_append_headers(headers: Mapping[str, str]) -> AppendHeaders:
    """Read the headers of a POST.

    Raises:
        HttpRefusal: 400, a header breaks its rule.
    """
    order = headers.get(SEQUENCE)
    if order is not None and not 0 < len(order) <= MAX_NAME:
        raise malformed(f"{SEQUENCE} has {len(order)} characters; it has 1 to {MAX_NAME}")
    return AppendHeaders(_content_type(headers), closes(headers), _producer(headers), order)


def closes(headers: Mapping[str, str]) -> bool:
    """Whether a request closes the stream. Any value but `true` is ignored."""
    return headers.get(CLOSED, "").lower() == "true"


@lru_cache(64)
def media_type(content_type: str) -> str:
    """Return a content type for comparison: without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def _content_type(headers: Mapping[str, str]) -> str | None:
    given = headers.get("Content-Type")
    if not given:
        return None
    if len(given) > MAX_NAME or not _TYPE.match(media_type(given)):
        raise malformed(f"the content type {given[:80]!r} is none: type/subtype is needed")
    return given


def _whole(headers: Mapping[str, str], name: str, most: int) -> int | None:
    text = headers.get(name)
    if text is None:
        return None
    if not _NUMBER.match(text) or int(text) > most:
        raise malformed(f"{name} is {text[:40]!r}; it is a whole number from 0 to {most}")
    return int(text)


def _time_ms(text: str) -> int:
    try:
        if not _TIME.match(text):
            raise ValueError
        return int(datetime.fromisoformat(text.upper()).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise malformed(
            f"{EXPIRES_AT} is {text[:40]!r}; it is a time like 2026-11-22T15:04:05Z (RFC 3339)"
        ) from None


def _producer(headers: Mapping[str, str]) -> Writer | None:
    names = (PRODUCER_ID, PRODUCER_EPOCH, PRODUCER_SEQUENCE)
    given = [name for name in names if name in headers]
    if not given:
        return None
    if len(given) < len(names):
        raise malformed(f"{', '.join(names)} come together; this has only {', '.join(given)}")
    id = headers[PRODUCER_ID]
    if not 0 < len(id) <= MAX_NAME:
        raise malformed(f"{PRODUCER_ID} has {len(id)} characters; it has 1 to {MAX_NAME}")
    epoch, sequence = (_whole(headers, name, MAX_SEQUENCE) for name in names[1:])
    return Writer(id, epoch or 0, sequence or 0, "appends")


def _fork(headers: Mapping[str, str]) -> ForkSpec | None:
    source, at = headers.get(FORKED_FROM), headers.get(FORK_OFFSET)
    more = _whole(headers, FORK_SUB_OFFSET, MAX_SEQUENCE)
    if source is None:
        if at is not None or more is not None:
            raise malformed(f"{FORK_OFFSET} and {FORK_SUB_OFFSET} need {FORKED_FROM}")
        return None
    return ForkSpec(source, _position(at) if at is not None else None, more or 0)


def _position(text: str) -> Position:
    try:
        return Position.parse(text)
    except InvalidPosition as error:
        raise HttpRefusal(400, error.code, f"{FORK_OFFSET}: {error.message}") from None
