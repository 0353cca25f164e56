"""Bodies of requests, responses and events, by content type. No I/O.

A JSON stream stores each value as a record, byte for byte. With any other content type, the body
of one request is one record: a JSON string of its base64, since a record is JSON.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Literal

import msgspec
import orjson

from gateway.model.limits import JSON_DEPTH
from gateway.model.untrusted_json import NotJson, check_json
from gateway.server.durable_streams.errors import HttpRefusal, malformed
from gateway.server.durable_streams.headers import media_type

MAX_BODY_BYTES = 4 << 20  # of one request; each JSON value also has the limit of a record
MAX_BODY_RECORDS = 10_000

Form = Literal["json", "text", "binary"]

_values = msgspec.json.Decoder(list[msgspec.Raw])
_LINE_END = re.compile(rb"\r\n|\r|\n")


def form_of(content_type: str) -> Form:
    """Return how the records of a content type are stored and presented."""
    kind = media_type(content_type)
    if kind == "application/json":
        return "json"
    return "text" if kind.startswith("text/") else "binary"


def split(form: Form, body: bytes, max_bytes: int) -> list[bytes]:
    """Make records of a request's body. The values of a JSON array become one record each.

    Args:
        form: The stream's form.
        body: The body, not empty.
        max_bytes: Limit of one value.

    Raises:
        HttpRefusal: 400, the body is not JSON; 413, a value is over the limit.
    """
    values = _split_json(body) if form == "json" else [body]
    for value in values:
        if len(value) > max_bytes:
            raise HttpRefusal(
                413,
                "record_too_large",
                f"a value of the body is {len(value)} bytes; the limit is {max_bytes}",
            )
    return values if form == "json" else [wrap(value) for value in values]


def _split_json(body: bytes) -> list[bytes]:
    is_array = body.lstrip(b" \t\r\n").startswith(b"[")
    try:
        check_json(body, JSON_DEPTH + is_array)
    except NotJson as error:
        raise malformed(f"the body is no JSON that is accepted: {error}") from None
    body = body.strip(b" \t\r\n")
    if not is_array:
        return [body]
    values = [bytes(value).strip(b" \t\r\n") for value in _values.decode(body)]
    if len(values) > MAX_BODY_RECORDS:
        raise HttpRefusal(
            413,
            "body_too_large",
            f"the body has {len(values)} values; the limit is {MAX_BODY_RECORDS}",
        )
    return values


def wrap(data: bytes) -> bytes:
    """Encode bytes as a record."""
    return b'"%b"' % base64.b64encode(data)


def unwrap(record: bytes) -> bytes:
    """Decode a record that `wrap` made."""
    return base64.b64decode(record[1:-1])


def join(form: Form, records: Sequence[bytes]) -> bytes:
    """Make a response's body of records."""
    if form == "json":
        return b"[%b]" % b",".join(records)
    return b"".join(unwrap(record) for record in records)


def event(form: Form, records: Sequence[bytes]) -> bytes:
    """Make a `data` event of records: JSON as it is, text as it is, or base64."""
    if form == "json":
        return _event(b"data", b"[\n%b\n]" % b",\n".join(records))
    data = join(form, records)
    return _event(b"data", data if form == "text" else base64.b64encode(data))


def control(
    position: str, *, cursor: str | None = None, up_to_date: bool = False, closed: bool = False
) -> bytes:
    """Make a `control` event: the reader's position, and whether it is up to date or at the end."""
    fields: dict[str, object] = {"streamNextOffset": position}
    if cursor is not None and not closed:
        fields["streamCursor"] = cursor
    if up_to_date or closed:
        fields["upToDate"] = True
    if closed:
        fields["streamClosed"] = True
    return _event(b"control", orjson.dumps(fields))


KEEP_ALIVE = b":\n\n"
"""A comment, which readers skip."""


def _event(name: bytes, data: bytes) -> bytes:
    # Each line of the data becomes one field, so that no data can end the event early. Readers drop
    # one space after the colon, so a line that begins with a space gets another.
    lines = (b" " + line if line.startswith(b" ") else line for line in _LINE_END.split(data))
    return b"event: %b\n%b\n\n" % (name, b"\n".join(b"data:" + line for line in lines))
