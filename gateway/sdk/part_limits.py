"""Makes a part of an AI answer fit into a record.

Models and tools return values that no record can carry: a page of 1.5 MB, half an emoji, NaN. Parts
only show a model's work, so such a part is changed and marked, and the answer continues.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from gateway.sdk.parts import PARTS, DataPart, Part

MAX_DEPTH = 100  # of an output or input; deeper values become text
CHAR_BYTES = 6  # the largest size of a character as JSON
AROUND_BYTES = 512  # size of a delta without its text
MAX_WHOLE = 2**53 - 1  # the largest integer that a page reads exactly

_SURROGATE = re.compile("[\ud800-\udfff]")
# Fields that are useful even when they are cut. Ids and names are never cut: they link parts.
_CUT = ("text", "delta", "input", "output", "message", "reason", "title", "url")


def is_part(value: Any) -> bool:
    """Whether a value is a part that may be changed; a `DataPart` belongs to the application."""
    return isinstance(value, PARTS) and not isinstance(value, DataPart)


def is_broken(text: str) -> bool:
    """Whether a text has lone surrogates, which UTF-8 cannot encode."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def mended(text: str) -> str:
    """Return a text with surrogate pairs joined, and lone surrogates replaced by U+FFFD."""
    if not is_broken(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def pieces(text: str, max_bytes: int) -> Iterator[str]:
    """Split a text that is too long for one delta.

    Args:
        text: The text.
        max_bytes: The largest size of a record.
    """
    chars = max((max_bytes - AROUND_BYTES) // CHAR_BYTES, 1)
    for start in range(0, len(text), chars):
        yield text[start : start + chars]


def mark(size: int) -> str:
    """Return the end of a value that was cut; `size` is its full size as JSON, in bytes."""
    return f"… [truncated: {size} bytes in full]"


def storable(part: Part, max_bytes: int) -> Part:
    """Return a part that can be written as one record.

    Half an emoji becomes U+FFFD. NaN, infinity and integers over 2^53 - 1 become text. If the part
    is too large, its largest fields are cut and end with `mark`.

    Args:
        part: A part for which `is_part` is true.
        max_bytes: The largest size of a record.
    """
    assert is_dataclass(part) and not isinstance(part, type)
    plain = {field.name: _plain(getattr(part, field.name)) for field in fields(part)}
    sizes = {name: _size(value) for name, value in plain.items()}
    over = sum(sizes.values()) + 32 * len(sizes) - max_bytes
    for name in sorted(_CUT, key=lambda name: -sizes.get(name, 0)):
        if over > 0 and name in plain:
            keep = max(sizes[name] - over, 1024)
            plain[name] = _cut(plain[name], sizes[name], keep)
            over -= sizes[name] - _size(plain[name])
    return replace(part, **plain)


def _cut(value: Any, size: int, keep: int) -> Any:
    if size <= keep:
        return value
    text = value if isinstance(value, str) else _json(value)
    end = mark(size)
    room = keep - _size(end)
    while (length := _size(text)) > room:
        # Estimated from the ratio of characters to bytes; repeated if the end is denser.
        text = text[: min(len(text) * room // length, len(text) - 1)]
    return text + end


def _plain(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MAX_WHOLE:
        return str(value) if value.bit_length() < 10_000 else hex(value)
    if isinstance(value, Mapping | list | tuple) and depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    return value


def _key(key: Any) -> Any:
    return key if key is None or isinstance(key, bool | int | float) else mended(str(key))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _size(value: Any) -> int:
    return len(_json(value).encode("utf-8", "replace"))
