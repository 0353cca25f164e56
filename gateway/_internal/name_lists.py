"""Lists of known names for error messages about an unknown name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_LISTED = 20
_COMPARED_CHARACTERS = 200  # comparing takes time quadratic in the length


def listed(name: str, known: Iterable[str]) -> str:
    """List known names, beginning with names similar to the unknown one.

    Args:
        name: The unknown name.
        known: The known names; at most `MAX_LISTED` of them are listed.

    Returns:
        The names, separated by commas.
    """
    names = list(known)
    close = get_close_matches(name[:_COMPARED_CHARACTERS], names, n=MAX_LISTED)
    ordered = [*close, *(each for each in names if each not in close)]
    more = len(ordered) - MAX_LISTED
    return ", ".join(ordered[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
