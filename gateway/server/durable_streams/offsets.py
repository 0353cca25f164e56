"""Offsets in URLs, entity tags, and the cursor that keeps caches from looping. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from gateway.errors import InvalidPosition
from gateway.model.records import ORIGIN, Position
from gateway.server.durable_streams.errors import malformed

CURSOR_EPOCH_S = 1_728_432_000  # start of the first interval
CURSOR_INTERVAL_S = 20
CURSOR_JITTER_S = 3600
MAX_CURSOR = 2**53

StartOffset = Position | Literal["now"]


def read_offset(given: Sequence[str]) -> StartOffset | None:
    """Read the `offset` parameters of a URL.

    Returns:
        The position; "now" for the stream's end; None without a parameter.

    Raises:
        HttpRefusal: 400, more than one, or not an offset of this gateway.
    """
    if not given:
        return None
    if len(given) > 1:
        raise malformed(f"offset is given {len(given)} times")
    if given[0] == "-1":
        return ORIGIN
    if given[0] == "now":
        return "now"
    try:
        return Position.parse(given[0])
    except InvalidPosition as error:
        raise malformed(f"offset: {error.message}, -1 or now") from None


def entity_tag(identity: str, start: Position, stop: Position, closed: bool) -> str:
    """Make the entity tag of a page. It changes when the page grows or the stream is closed."""
    return f'"{identity}:{start}:{stop}{":c" if closed else ""}"'


def next_cursor(now_s: float, given: str | None, random: Callable[[], float]) -> str:
    """Return the cursor of a live response: it grows with time, and beyond the client's cursor.

    Args:
        now_s: Unix time.
        given: The cursor that the client sent, if any.
        random: Returns a number from 0 to below 1.
    """
    current = int((now_s - CURSOR_EPOCH_S) // CURSOR_INTERVAL_S)
    if given is None or not given.isascii() or not given.isdecimal() or len(given) > 15:
        return str(current)
    if int(given) < current:
        return str(current)
    jitter_s = 1 + random() * (CURSOR_JITTER_S - 1)
    return str(min(int(given) + max(1, int(jitter_s / CURSOR_INTERVAL_S)), MAX_CURSOR))
