"""Encodes WebSocket text frames as a server sends them: final and not masked. No I/O.

Source:
    RFC 6455, section 5.2.
"""

from __future__ import annotations

import struct


def encode_text_frame(text: str) -> bytes:
    """Encode one text frame."""
    payload = text.encode()
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x81, size) + payload
    if size < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, size) + payload
    return struct.pack("!BBQ", 0x81, 127, size) + payload


def text_frame_bytes(text: str) -> int:
    """Return the size of `encode_text_frame(text)`, without encoding it."""
    size = len(text) if text.isascii() else len(text.encode())
    return size + (2 if size < 126 else 4 if size < 1 << 16 else 10)
