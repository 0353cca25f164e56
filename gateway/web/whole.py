"""Read a request that has arrived whole, in the plainest form that there is. No I/O.

An append over HTTP is a few hundred bytes that come in one piece. This reads these and nothing
else: whatever is not of this form, or not there to its last byte, is left to h11, which knows all
forms and their limits. So nothing is taken that h11 would refuse or understand otherwise;
`tests/test_whole.py` holds the two against each other.

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
# With these a request is more than one of so many bytes to which one answer comes.
_OTHER_WAYS = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"trailer", b"te"})


class Whole(NamedTuple):
    """A request.

    Attributes:
        path: Of its target, which has nothing else.
        headers: In order, their names in small letters.
        body: All of it.
    """

    path: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


def read_whole(data: bytes, begins: bytes) -> Whole | None:
    """Read what a connection has brought since its last request, if that is one of the plain form.

    Args:
        data: All of it.
        begins: The request's first bytes: its method, and how its path begins.

    Returns:
        The request; None if it is anything else, or not there in whole.
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
    body = data[end + 4 :]
    if headers is None or len(body) > MAX_BODY_BYTES or not _is_plain(headers, len(body)):
        return None
    return Whole(path, headers, body)


def _headers(lines: list[bytes]) -> list[tuple[bytes, bytes]] | None:
    headers = []
    for line in lines:
        name, _, value = line.partition(b": ")
        if not name or name.translate(None, _TOKEN) or not value or value != value.strip(b" "):
            return None
        headers.append((name.lower(), value))
    return headers


def _is_plain(headers: list[tuple[bytes, bytes]], body_bytes: int) -> bool:
    hosts = lengths = 0
    for name, value in headers:
        if name == b"content-length":
            lengths += 1
            if value != b"%d" % body_bytes:
                return False
        elif name == b"host":
            hosts += 1
        elif name in _OTHER_WAYS or (name == b"connection" and value.lower() != b"keep-alive"):
            return False
    return hosts == 1 and lengths == 1
