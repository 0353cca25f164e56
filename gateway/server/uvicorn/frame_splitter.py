"""Separates text frames that arrived whole from bytes that the WebSocket library has to read.

Nearly all frames from clients are short text frames, and the library's parser costs ten times as
much as reading their headers. Everything else goes to the library unchanged: control frames,
binary and fragmented messages, incomplete frames, and bytes that are not WebSocket at all. So the
library still enforces every rule about these. No I/O.

Source:
    RFC 6455, section 5.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from websockets import frames

_FINAL_TEXT = 0x81  # FIN and opcode 1, without bits of extensions
_MASKED = 0x80
_CONTROL = 0x08
_OPCODES = frozenset((0x0, 0x1, 0x2, 0x8, 0x9, 0xA))

_unmasked = frames.apply_mask  # type: ignore[attr-defined]  # compiled, or the library's own


class FrameSplitter:
    """The frames of one client, from the first one after the handshake.

    Args:
        max_bytes: Size limit of a message; the library rejects a larger one.

    Attributes:
        max_bytes: The same; it may change between two frames.
        is_closing: The connection is closing: new messages are dropped, and only control frames go
            to the library, since one of them is the client's close frame.
    """

    __slots__ = (
        "_head",
        "_is_dropping",
        "_is_in_pieces",
        "_passthrough_bytes",
        "is_closing",
        "max_bytes",
    )

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._head = b""  # start of a frame whose size is not known yet: 13 bytes at most
        self._passthrough_bytes = 0  # bytes still to come of a frame that the library reads
        self._is_in_pieces = False  # the library has part of a fragmented message
        self._is_dropping = False  # those bytes are dropped instead
        self.is_closing = False

    def split(self, data: bytes) -> Iterator[list[bytes] | bytes]:
        """Split bytes that have arrived.

        Yields:
            In order: lists of payloads of whole text frames, and bytes for the library.
        """
        if self._head:
            data, self._head = self._head + data, b""
        at, end = 0, len(data)
        while at < end:
            if self._passthrough_bytes:
                piece = data[at : at + self._passthrough_bytes]
                self._passthrough_bytes -= len(piece)
                at += len(piece)
                if not self._is_dropping:
                    yield piece
                continue
            if not self._is_in_pieces:
                texts: list[bytes] = []
                at = self._take_texts(data, at, texts)
                if texts:
                    yield texts
            if at < end:
                at = self._pass_through(data, at)

    def _take_texts(self, data: bytes, at: int, texts: list[bytes]) -> int:
        """Append whole text frames from an index on to `texts`; return the index after them."""
        end = len(data)
        while end - at >= 6 and data[at] == _FINAL_TEXT:
            size = data[at + 1] - _MASKED
            if size < 0:
                break  # not masked: the library rejects it
            start = at + 6
            if size >= 126:
                start = at + (8 if size == 126 else 14)
                size = int.from_bytes(data[at + 2 : start - 4])
            stop = start + size
            if stop > end or size > self.max_bytes:
                break
            texts.append(_unmasked(data[start:stop], data[start - 4 : start]))
            at = stop
        return at

    def _pass_through(self, data: bytes, at: int) -> int:
        """Read the header of a frame for the library; return the index to continue at."""
        head = data[at : at + 10]
        if len(head) > 1 and (not head[1] & _MASKED or head[0] & 0x0F not in _OPCODES):
            self._passthrough_bytes, self._is_dropping = (
                len(data) - at,
                False,
            )  # invalid: the library gets all the rest, and rejects it
            return at
        short = head[1] & ~_MASKED if len(head) > 1 else 0
        size_end = {126: 4, 127: 10}.get(short, 2)
        if len(head) < size_end:
            self._head = head
            return len(data)
        size = int.from_bytes(head[2:size_end]) if size_end > 2 else short
        self._passthrough_bytes = size_end + 4 + size
        self._is_dropping = self.is_closing and not head[0] & _CONTROL
        if not head[0] & _CONTROL:
            self._is_in_pieces = head[0] < _FINAL_TEXT - 1
        return at
