"""Which JSON is accepted from outside: one set of rules for frames, bodies, tokens and arguments.

The parsers that a value meets on its way differ: msgspec passes over numbers of any size, orjson
reads 1,024 levels and Pydantic 200, Python's own module takes NaN and half a surrogate pair. What
only some of them read could be stored and not be read again, so it is refused when it comes in:

- it is UTF-8 without a byte order mark, and has no NaN and no Infinity (RFC 8259);
- no text in it has half a surrogate pair, which UTF-8 cannot express;
- every number is finite as a double: below about 1.8e308;
- at most `JSON_DEPTH` arrays and objects are inside each other;
- of members with the same name the last one counts, as it does for every one of these parsers.

Source:
    PROTOCOL.md, section 2; RFC 8259.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import msgspec
import orjson

from gateway.limits import JSON_DEPTH

_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG = b"0" * 209  # without so many digits, or an exponent of three, a number is finite
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_STEPS = bytes(set(range(256)) - set(b'[{]}"'))


class NotJson(ValueError):
    """Some text is no JSON that is accepted; the message says why and does not repeat it."""


def check_values(data: bytes, depth: int = JSON_DEPTH) -> None:
    """Check the numbers and the depth of JSON that msgspec or orjson has taken for JSON.

    A regular expression, or a second parser, would take ten times as long.

    Args:
        data: JSON text.
        depth: How many arrays and objects may be inside each other.

    Raises:
        NotJson: a number is infinite, or it is too deep.
    """
    size, digits = len(data), data.translate(_DIGITS, b"+")
    # `find`, since `in` takes twice as long. A text can look like a large number too.
    if digits.find(b"0e000") >= 0 or (size >= len(_LONG) and digits.find(_LONG) >= 0):
        _parse(data)
    if size > 2 * depth:  # each level has two brackets
        check_depth(data, depth)


def check_json(data: bytes | str, depth: int = JSON_DEPTH) -> bytes:
    """Check a text from outside against all rules, and return it as bytes.

    Args:
        data: What may be JSON.
        depth: How many arrays and objects may be inside each other.

    Raises:
        NotJson: it breaks one of the rules above.
    """
    try:
        data = data.encode() if isinstance(data, str) else data
    except UnicodeEncodeError:
        raise NotJson("it has half of a surrogate pair") from None
    check_depth(data, depth)
    _parse(data)
    return data


def read_json(data: bytes | str, depth: int = JSON_DEPTH) -> Any:
    """Read JSON from outside; whole numbers stay exact.

    Raises:
        NotJson: it breaks one of the rules above.
    """
    return msgspec.json.decode(check_json(data, depth))  # orjson rounds large whole numbers


def why_not_json(data: bytes | str, depth: int = JSON_DEPTH) -> str:
    """Say which rule a text breaks that another parser has refused; "" if it breaks none."""
    try:
        check_json(data, depth)
    except NotJson as error:
        return str(error)
    return ""


def _parse(data: bytes) -> None:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise NotJson(f"{error.msg} (character {error.pos})") from None


def check_depth(data: bytes, depth: int = JSON_DEPTH) -> None:
    """Refuse JSON with more arrays and objects inside each other.

    Raises:
        NotJson: states the limit.
    """
    if data.count(b"[") + data.count(b"{") > depth and _depth_of(data) > depth:
        raise NotJson(f"it is nested deeper than {depth} levels")


def _depth_of(data: bytes) -> int:
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = data.translate(_STEPS, _NO_STEPS).replace(b'""', b"")
    outside = b"".join(steps.split(b'"')[::2])  # of texts, which may hold brackets
    return max(accumulate(memoryview(outside).cast("b")), default=0)
