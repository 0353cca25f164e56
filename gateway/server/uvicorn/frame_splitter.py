"""Tells text frames that arrived whole from what the WebSocket library has to read.

Nearly all that clients send are short text frames, and the library's parser costs each of them ten
times what reading its header does. What is anything else goes to the library as it came: control
frames, other messages, messages in pieces, frames of which a part is still to come, and all that is
no WebSocket, so that every rule about these stays where it was. No I/O.

Source:
    RFC 6455, section 5.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from websockets import frames

_FINAL_TEXT = 0x81  # and no bit of an extension
_MASKED = 0x80
_CONTROL = 0x08
_OPCODES = frozenset((0x0, 0x1, 0x2, 0x8, 0x9, 0xA))

_unmasked = frames.apply_mask  # type: ignore[attr-defined]  # compiled, or the library's own


class FrameSplitter:
    """The frames of one client, from the first after the handshake on.

    Args:
        max_bytes: Of a message; a larger one is left to the library to refuse.

    Attributes:
        max_bytes: The same; may be changed between two frames.
        is_closing: The connection is being closed: messages that begin now are dropped, and only
            control frames go to the library, of which one is the client's goodbye.
    """

    __slots__ = ("_head", "_is_dropping", "_is_in_pieces", "_owed", "is_closing", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._head = b""  # of a frame whose size is not known yet: 13 bytes at most
        self._owed = 0  # bytes of the library's frame that are still to come
        self._is_in_pieces = False  # the library waits for more of a message
        self._is_dropping = False  # the frame of which bytes are still to come
        self.is_closing = False

    def split(self, data: bytes) -> Iterator[list[bytes] | bytes]:
        """Split what has come.

        Yields:
            In order, the payloads of text frames that are whole, and bytes for the library.
        """
        if self._head:
            data, self._head = self._head + data, b""
        at, end = 0, len(data)
        while at < end:
            if self._owed:
                piece = data[at : at + self._owed]
                self._owed -= len(piece)
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
                at = self._meet(data, at)

    def _take_texts(self, data: bytes, at: int, texts: list[bytes]) -> int:
        """Take whole text frames from a place on; returns where they end."""
        end = len(data)
        while end - at >= 6 and data[at] == _FINAL_TEXT:
            size = data[at + 1] - _MASKED
            if size < 0:
                break  # not masked, which the library refuses
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

    def _meet(self, data: bytes, at: int) -> int:
        """Look at a frame of the library's; returns where to go on."""
        head = data[at : at + 10]
        if len(head) > 1 and (not head[1] & _MASKED or head[0] & 0x0F not in _OPCODES):
            self._owed, self._is_dropping = len(data) - at, False  # to be refused at once
            return at
        short = head[1] & ~_MASKED if len(head) > 1 else 0
        size_end = {126: 4, 127: 10}.get(short, 2)
        if len(head) < size_end:
            self._head = head
            return len(data)
        size = int.from_bytes(head[2:size_end]) if size_end > 2 else short
        self._owed = size_end + 4 + size
        self._is_dropping = self.is_closing and not head[0] & _CONTROL
        if not head[0] & _CONTROL:
            self._is_in_pieces = head[0] < _FINAL_TEXT - 1
        return at
