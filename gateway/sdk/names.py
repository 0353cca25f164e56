"""Lists of known names for the message about one that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_LISTED = 20
_COMPARED_CHARACTERS = 200  # comparing takes time in proportion to the square of the length


def listed(name: str, known: Iterable[str]) -> str:
    """List known names, those that resemble an unknown one first.

    Args:
        name: The unknown one.
        known: The others, of which at most `MAX_LISTED` are listed.

    Returns:
        The names, separated by commas.
    """
    names = list(known)
    close = get_close_matches(name[:_COMPARED_CHARACTERS], names, n=MAX_LISTED)
    ordered = [*close, *(each for each in names if each not in close)]
    more = len(ordered) - MAX_LISTED
    return ", ".join(ordered[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
