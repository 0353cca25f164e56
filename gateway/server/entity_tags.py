"""Conditional requests: whether a client already has a representation. No I/O.

Source:
    RFC 9110, section 13.1.2.
"""

from __future__ import annotations


def matches(if_none_match: str | None, tag: str) -> bool:
    """Whether an `If-None-Match` header names an entity tag."""
    given = [each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")]
    return tag in given or "*" in given
