"""A frame that many readers get: its text, and its bytes on the wire, made once. No I/O.

Readers who stand together hold the same object, also those whose connections take it slowly.
"""

from __future__ import annotations

from collections.abc import Callable

Pack = Callable[[str], bytes]
"""Makes a frame's bytes as they go over the wire from its text; they end with it, in UTF-8."""


class Frame:
    """One frame from the gateway; held once, as text or as bytes, whichever was wanted last.

    Args:
        text: As it is without the wire's own framing.

    Attributes:
        size: About what it holds, in bytes.
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
        """As it is without the wire's own framing."""
        return self._packed[-self._length :].decode() if self._text is None else self._text

    def packed(self, pack: Pack) -> bytes:
        """Return its bytes, which are kept in place of the text."""
        if self._packed_by is not pack:
            text = self.text
            self._length = len(text) if text.isascii() else len(text.encode())
            self._packed, self._packed_by = pack(text), pack
            self._text = None
        return self._packed
