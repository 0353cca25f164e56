"""Read a request of the plainest form that there is. No I/O.

An append over HTTP is a few hundred bytes that come in one piece, or its head and its body do. This
reads these and nothing else: whatever is not of this form is left to h11, which knows all forms and
their limits. So nothing is taken that h11 would refuse or understand otherwise;
`tests/server/uvicorn/test_request_head.py` holds the two against each other.

Source:
    RFC 9112, sections 3 to 6.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_HEAD_BYTES = 32 << 10
MAX_BODY_BYTES = 64 << 10

_TEXT = bytes(range(0x20, 0x7F)) + b"\r\n"
_ALPHANUMERIC = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TOKEN = _ALPHANUMERIC + b"!#$%&'*+-.^_`|~"
_TARGET = _ALPHANUMERIC + b"/-._~@:=+"  # no query, and nothing that is escaped
_DIGITS = len(str(MAX_BODY_BYTES))
# With these a request is more than one of so many bytes to which one answer comes.
_OTHER_WAYS = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te"})


class RequestHead(NamedTuple):
    """The head of a request.

    Attributes:
        path: Of its target, which has nothing else.
        headers: In order, their names in small letters.
        data: All of it as it came, with the empty line at its end.
        size: How many the whole request has.
    """

    path: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    data: bytes
    size: int


def read_head(data: bytes, begins: bytes) -> RequestHead | None:
    """Read the head of what a connection has brought since its last request.

    Args:
        data: All of it.
        begins: The request's first bytes: its method, and how its path begins.

    Returns:
        The head, if it is there in whole and of the plain form; else None.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) if data.startswith(begins) else -1
    if end < 0:
        return None
    head = data[:end]
    first, *lines = head.split(b"\r\n")
    if head.translate(None, _TEXT) or not head.count(b"\r") == head.count(b"\n") == len(lines):
        return None
    method, _, rest = first.partition(b" ")
    path, _, version = rest.partition(b" ")
    if version != b"HTTP/1.1" or path.translate(None, _TARGET) or not begins.startswith(method):
        return None
    headers = _headers(lines)
    length = _length(headers) if headers is not None else None
    if headers is None or length is None or length > MAX_BODY_BYTES:
        return None
    return RequestHead(path, tuple(headers), data[: end + 4], end + 4 + length)


def _headers(lines: list[bytes]) -> list[tuple[bytes, bytes]] | None:
    headers = []
    for line in lines:
        name, _, value = line.partition(b": ")
        if not name or name.translate(None, _TOKEN) or not value or value != value.strip(b" "):
            return None
        headers.append((name.lower(), value))
    return headers


def _length(headers: list[tuple[bytes, bytes]]) -> int | None:
    """Return how long the body is; None if that is not told once and plainly."""
    hosts, lengths = 0, list[bytes]()
    for name, value in headers:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"host":
            hosts += 1
        elif name in _OTHER_WAYS or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
    if hosts != 1 or len(lengths) != 1 or len(lengths[0]) > _DIGITS or not lengths[0].isdigit():
        return None
    length = int(lengths[0])
    return length if lengths[0] == b"%d" % length else None
