"""Parses the head of a plain request. No I/O.

An append over HTTP has a few hundred bytes, in one piece or as a head and a body. This parser
accepts only the plainest form of it. It leaves every other form to h11, which knows all forms and
their limits. So it accepts nothing that h11 would reject or understand differently;
`tests/server/uvicorn/test_request_head.py` compares the two.

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
_TARGET = _ALPHANUMERIC + b"/-._~@:=+"  # no query, no percent-encoding
_DIGITS = len(str(MAX_BODY_BYTES))
# With one of these headers, the body's length or the number of responses differs.
_UNSUPPORTED_HEADERS = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te"})


class RequestHead(NamedTuple):
    """The head of a request.

    Attributes:
        path: The path; a plain target has nothing else.
        headers: In order, names in lower case.
        data: The bytes of the head, with the empty line at its end.
        size: Size of the whole request, bytes.
    """

    path: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    data: bytes
    size: int


def read_head(data: bytes, prefix: bytes) -> RequestHead | None:
    """Parse the head of a request.

    Args:
        data: All bytes since the last request.
        prefix: The first bytes to accept: the method and the start of the path.

    Returns:
        The head, if it is complete and plain; else None.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) if data.startswith(prefix) else -1
    if end < 0:
        return None
    head = data[:end]
    first, *lines = head.split(b"\r\n")
    if head.translate(None, _TEXT) or not head.count(b"\r") == head.count(b"\n") == len(lines):
        return None
    method, _, rest = first.partition(b" ")
    path, _, version = rest.partition(b" ")
    if version != b"HTTP/1.1" or path.translate(None, _TARGET) or not prefix.startswith(method):
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
    """Return the length of the body; None unless exactly one plain Content-Length gives it."""
    hosts, lengths = 0, list[bytes]()
    for name, value in headers:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"host":
            hosts += 1
        elif name in _UNSUPPORTED_HEADERS or (
            name == b"connection" and value.lower() != b"keep-alive"
        ):
            return None
    if hosts != 1 or len(lengths) != 1 or len(lengths[0]) > _DIGITS or not lengths[0].isdigit():
        return None
    length = int(lengths[0])
    return length if lengths[0] == b"%d" % length else None
