"""Check the fields of a run against the limits of `gateway.model.limits`. No I/O.

A new run is checked whole; a change is checked in the fields that it changes. A run that an
earlier version stored with a value over a limit can therefore still be read, and can still end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from gateway.errors import InvalidId, InvalidValue, MetadataTooLarge
from gateway.model.limits import (
    MAX_ATTEMPTS,
    MAX_BATCH_ID_CHARACTERS,
    MAX_ERROR_CHARACTERS,
    MAX_ERROR_TYPE_CHARACTERS,
    MAX_INTEGER,
    MAX_KEY_CHARACTERS,
    MAX_METADATA_BYTES,
    MAX_METADATA_KEY_CHARACTERS,
    MAX_OUTPUT_BYTES,
    MAX_OWNER_CHARACTERS,
    MAX_PAYLOAD_BYTES,
    MAX_SECONDS,
    MAX_TAG_CHARACTERS,
    MAX_TAGS,
    MAX_TASK_CHARACTERS,
)
from gateway.model.records import shown
from gateway.model.untrusted_json import NotJson, check_depth

TIMES = (
    *("created_at", "queued_at", "started_at", "finished_at", "cancel_requested_at"),
    *("delay_until", "expires_at", "idempotency_key_expires_at"),
)
_Check = Callable[[str, Any], object]


def check_values(run_id: str, values: Mapping[str, Any]) -> None:
    """Reject field values that are over their limits.

    Args:
        run_id: The run; error messages name it.
        values: Fields of a run as on the wire, each of the right type.

    Raises:
        InvalidValue: a field is over its limit (the message names the field, its size and the
            limit), or cannot be encoded as JSON.
        InvalidId: a tag breaks the rule for tags.
        MetadataTooLarge: states the size of the metadata and its limit.
    """
    for name, value in values.items():
        if value is not None and (check := _CHECKS.get(name)) is not None:
            check(f"run {run_id}: {name}", value)


def check_tags(tags: Sequence[str], what: str = "tags") -> tuple[str, ...]:
    """Return tags if they are allowed.

    Raises:
        InvalidValue: there are too many tags, or they are not a list.
        InvalidId: a tag breaks the rule for tags.
    """
    if isinstance(tags, str) or len(tags) > MAX_TAGS:
        got = "a text" if isinstance(tags, str) else str(len(tags))
        raise InvalidValue(f"{what} are a list of up to {MAX_TAGS}, got {got}")
    for tag in tags:
        if not is_text(tag, MAX_TAG_CHARACTERS) or tag.endswith("*"):
            raise InvalidId(
                f"tag {tag!r:.80} is not allowed: 1 to {MAX_TAG_CHARACTERS} characters, "
                "none of them half of a surrogate pair, no * at the end"
            )
    return tuple(tags)


def is_text(value: Any, max_characters: int) -> bool:
    """Whether a value is a non-empty text within a limit and without half surrogate pairs."""
    if not isinstance(value, str) or not 0 < len(value) <= max_characters:
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def check_metadata(run_id: str, metadata: Mapping[str, Any]) -> None:
    """Reject metadata whose total size is over its limit.

    Raises:
        MetadataTooLarge: states the size of the metadata and its limit.
        InvalidValue: a value in it cannot be stored as JSON.
    """
    size = _size_of(f"run {run_id}: metadata", metadata)
    if size > MAX_METADATA_BYTES:
        raise MetadataTooLarge(
            f"run {run_id}: the metadata would be {size} bytes; the limit is {MAX_METADATA_BYTES}"
        )


def check_metadata_key(key: object) -> None:
    """Reject a value that cannot be a key of metadata.

    Raises:
        InvalidValue: states the rule.
    """
    if not isinstance(key, str) or not 0 < len(key) <= MAX_METADATA_KEY_CHARACTERS:
        raise InvalidValue(
            f"metadata key {key!r:.80} is not allowed: "
            f"it is 1 to {MAX_METADATA_KEY_CHARACTERS} characters"
        )


def _size_of(what: str, value: Any) -> int:
    try:
        data = orjson.dumps(value)
        check_depth(data)
        return len(data)
    except (orjson.JSONEncodeError, NotJson) as error:
        raise InvalidValue(f"{what} cannot be kept as JSON: {error}") from None


def _bytes(limit: int) -> _Check:
    def check(what: str, value: Any) -> None:
        size = _size_of(what, value)
        if size > limit:
            raise InvalidValue(
                f"{what} is {size} bytes; the limit is {limit}: keep it elsewhere, or send it as "
                "records of a stream"
            )

    return check


def _characters(limit: int) -> _Check:
    def check(what: str, value: str) -> None:
        if len(value) > limit:
            raise InvalidValue(f"{what} has {len(value)} characters; the limit is {limit}")

    return check


def _number(limit: float) -> _Check:
    def check(what: str, value: float) -> None:
        if value > limit:
            raise InvalidValue(f"{what} is {value:.17g}; the limit is {limit:.17g}")

    return check


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z", re.ASCII)


def time_ms(text: str) -> int | None:
    """Parse a time in the format of a run's fields, as ms since 1970; None if it does not match."""
    if not _TIME.match(text):
        return None
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        return None


def _time(what: str, text: str) -> None:
    if time_ms(text) is None:
        raise InvalidValue(f"{what} is {shown(text)}; it is a time like 2026-11-22T12:56:14.123Z")


def _error(what: str, error: Mapping[str, str]) -> None:
    are_texts = all(isinstance(value, str) for value in error.values())
    if error.keys() != {"type", "message"} or not are_texts:
        raise InvalidValue(f"{what} is {shown(error)}; it has two texts, type and message")
    for name, limit in (("type", MAX_ERROR_TYPE_CHARACTERS), ("message", MAX_ERROR_CHARACTERS)):
        _characters(limit)(f"{what}.{name}", error[name])


_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(TIMES, _time),
    "task": _characters(MAX_TASK_CHARACTERS),
    "batch_id": _characters(MAX_BATCH_ID_CHARACTERS),
    "owner": _characters(MAX_OWNER_CHARACTERS),
    "idempotency_key": _characters(MAX_KEY_CHARACTERS),
    "tags": lambda what, tags: check_tags(tags, what),
    "payload": _bytes(MAX_PAYLOAD_BYTES),
    "output": _bytes(MAX_OUTPUT_BYTES),
    "error": _error,
    "last_error": _error,
    "attempt": _number(MAX_ATTEMPTS),
    "max_attempts": _number(MAX_ATTEMPTS),
    "duration_ms": _number(MAX_INTEGER),
    "max_duration_s": _number(MAX_SECONDS),
}
