"""Check untrusted JSON: one set of rules for frames, bodies, tokens and arguments.

The parsers that process a value differ: msgspec skips numbers of any size, orjson reads 1,024
levels and Pydantic 200, Python's `json` module accepts NaN and half of a surrogate pair. A value
that only some of them read could be stored and never be read again, so it is rejected on arrival.
The rules:

- it is UTF-8 without a byte order mark, and has no NaN and no Infinity (RFC 8259);
- no text in it has half of a surrogate pair, which UTF-8 cannot express;
- every number is finite as a double: below about 1.8e308;
- arrays and objects are nested at most `JSON_DEPTH` levels deep;
- of members with the same name the last one counts, as it does for every one of these parsers.

Source:
    PROTOCOL.md, section 2; RFC 8259.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import msgspec
import orjson

from gateway.model.limits import JSON_DEPTH

_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_LONG = b"0" * 209  # a number with fewer digits and an exponent of fewer than three is finite
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_PAIR = b"\x01\xff"  # the brackets of an array or object without inner ones
_NO_STEPS = bytes(set(range(256)) - set(b'[{]}"'))


class NotJson(ValueError):
    """A text is not JSON that is accepted; the message says why and does not repeat the text."""


def check_values(data: bytes, depth: int = JSON_DEPTH) -> None:
    """Check the numbers and the depth of JSON that msgspec or orjson has accepted.

    A regular expression, or a second parser, would take ten times as long.

    Args:
        data: JSON text.
        depth: How deeply arrays and objects may be nested.

    Raises:
        NotJson: a number is infinite, or the nesting is too deep.
    """
    size, digits = len(data), data.translate(_DIGITS, b"+")
    # `find`, since `in` takes twice as long. The match may be inside a text: the parser decides.
    if digits.find(b"0e000") >= 0 or (size >= len(_LONG) and digits.find(_LONG) >= 0):
        _parse(data)
    if size > 2 * depth:  # each level has two brackets
        check_depth(data, depth)


def check_json(data: bytes | str, depth: int = JSON_DEPTH) -> bytes:
    """Check an untrusted text against all rules, and return it as bytes.

    Args:
        data: A text that may be JSON.
        depth: How deeply arrays and objects may be nested.

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
    """Decode untrusted JSON; whole numbers stay exact.

    Raises:
        NotJson: it breaks one of the rules above.
    """
    return msgspec.json.decode(check_json(data, depth))  # orjson rounds large whole numbers


def why_not_json(data: bytes | str, depth: int = JSON_DEPTH) -> str:
    """Name the rule that a text breaks which another parser has rejected; "" if it breaks none."""
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
    """Reject JSON whose arrays and objects are nested deeper than `depth`.

    Raises:
        NotJson: states the limit.
    """
    if data.count(b"[") + data.count(b"{") > depth and depth_of(data) > depth:
        raise NotJson(f"it is nested deeper than {depth} levels")


def depth_of(data: bytes) -> int:
    """Return how many arrays and objects of JSON are inside each other at most."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = data.translate(_STEPS, _NO_STEPS).replace(b'""', b"")
    outside = b"".join(steps.split(b'"')[::2])  # outside texts, which may contain brackets
    depth = 0
    while outside:  # remove one level at a time while that shortens the rest: most JSON is flat
        rest = outside.replace(_PAIR, b"")
        depth += 1
        if 4 * len(rest) > 3 * len(outside):
            return depth + max(accumulate(memoryview(rest).cast("b")), default=0)
        outside = rest
    return depth
