"""A frame for many readers: its text and its bytes on the wire, each encoded once. No I/O.

Readers at the same position share one object, including readers whose connections are slow.
"""

from __future__ import annotations

from collections.abc import Callable

Pack = Callable[[str], bytes]
"""Encodes a frame's text as the bytes of the wire, which end with the text in UTF-8."""


class Frame:
    """One frame from the gateway, kept as text or as bytes: the form that was last requested.

    Args:
        text: Without the header of a WebSocket frame.

    Attributes:
        size: About its memory, in bytes.
    """

    __slots__ = ("_length", "_packed", "_packed_by", "_text", "size")

    def __init__(self, text: str) -> None:
        self.size = len(text)
        self._text: str | None = text
        self._length = 0  # of the text in the bytes
        self._packed = b""
        self._packed_by: Pack | None = None

    @property
    def text(self) -> str:
        """The text, without the header of a WebSocket frame."""
        return self._packed[-self._length :].decode() if self._text is None else self._text

    def packed(self, pack: Pack) -> bytes:
        """Return the bytes, which are kept in place of the text."""
        if self._packed_by is not pack:
            text = self.text
            self._length = len(text) if text.isascii() else len(text.encode())
            self._packed, self._packed_by = pack(text), pack
            self._text = None
        return self._packed
