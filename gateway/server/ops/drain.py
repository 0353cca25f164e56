"""Plans a drain: clients are notified in batches, and reconnect spread over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

BATCH = 50  # clients in one batch
NOTICES_PER_S = 1000.0  # each costs an error frame and a close frame
MAX_RETRY_AFTER_S = 30.0  # longest retry-after


class DrainBatch(NamedTuple):
    """One step of the plan.

    Attributes:
        pause_s: Seconds to wait before it.
        retry_after_s: The retry-after of each client in the batch, seconds.
    """

    pause_s: float
    retry_after_s: list[float]


def plan_drain(
    count: int, *, within_s: float, accepts_per_s: float, random: Callable[[], float]
) -> Iterator[DrainBatch]:
    """Plan when clients are notified and when they reconnect.

    Args:
        count: Number of clients.
        within_s: All are notified within this time, seconds.
        accepts_per_s: Rate at which the replacing gateway accepts connections.
        random: Returns a number from 0 to 1.

    Yields:
        Batches of `count` clients in total.
    """
    pause_s = min(BATCH / NOTICES_PER_S, within_s * BATCH / max(count, 1))
    back_s = min(MAX_RETRY_AFTER_S, 2 * count / accepts_per_s)
    for first in range(0, count, BATCH):
        size = min(BATCH, count - first)
        yield DrainBatch(
            2 * random() * pause_s if first else 0.0, [random() * back_s for _ in range(size)]
        )
