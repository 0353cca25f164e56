"""How a gateway that goes down sends its clients away: in batches, and not all back at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

BATCH = 50  # clients told at once
TOLD_PER_S = 1000.0  # a goodbye costs a frame and a close
MAX_BACK_S = 30.0  # nobody is asked to stay away for longer


class DrainBatch(NamedTuple):
    """What to do next.

    Attributes:
        pause_s: How long to wait before.
        retry_after_s: For each client of this batch, when it is to come back.
    """

    pause_s: float
    retry_after_s: list[float]


def farewells(
    count: int, *, within_s: float, accepts_per_s: float, random: Callable[[], float]
) -> Iterator[DrainBatch]:
    """Plan how clients are told.

    Args:
        count: How many there are.
        within_s: All have to be told by then.
        accepts_per_s: New connections that the gateway in its place takes.
        random: Gives a number from 0 to 1.

    Yields:
        One batch after the other, `count` clients in all.
    """
    pause_s = min(BATCH / TOLD_PER_S, within_s * BATCH / max(count, 1))
    back_s = min(MAX_BACK_S, 2 * count / accepts_per_s)
    for first in range(0, count, BATCH):
        size = min(BATCH, count - first)
        yield DrainBatch(
            2 * random() * pause_s if first else 0.0, [random() * back_s for _ in range(size)]
        )
