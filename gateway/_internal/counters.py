"""What a gateway counts while it works: plain numbers, read only when somebody asks. No I/O.

A number is added to where something happens; nothing is looked up, locked or labelled there.
`gateway.server.ops.metrics` gives them their names.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from math import inf

# Seconds. A commit with fsync takes about 1 ms, a hand-over to 1,000 readers about 10.
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """How often something took how long.

    Args:
        bounds: Upper bounds of the buckets, ascending; what is above the last is counted too.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value; one below 0 (a clock was set) is taken for 0."""
        value = max(value, 0.0)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def quantile(self, q: float, before: Sequence[int] = ()) -> float | None:
        """Say below which bound a share of the values lies.

        Args:
            q: The share, 0 to 1.
            before: `counts` at an earlier time; only what came since is looked at.

        Returns:
            A bound, of which the last is infinity; None if there was no value.
        """
        counts = [now - then for now, then in zip_longest(self.counts, before, fillvalue=0)]
        wanted, total = q * sum(counts), 0
        for bound, count in zip((*self.bounds, inf), counts, strict=True):
            total += count
            if total and total >= wanted:
                return bound
        return None

    def up_to(self) -> list[int]:
        """How many values were at most each bound, and at last how many there were."""
        total, sums = 0, []
        for count in self.counts:
            total += count
            sums.append(total)
        return sums


@dataclass(slots=True)
class Counters:
    """The counts of one gateway since it was made.

    Attributes:
        clock_s: Unix time.
        connections_opened: WebSockets and requests of frames that were accepted.
        connections_closed: By what ended them: `client`, `cut`, or an error's code.
        records_appended: By anyone through this process, repeats left out.
        bytes_appended: Of their data.
        records_sent: To readers, each counted for each of them.
        bytes_received: Of frames from clients, and of the bodies of appends over HTTP.
        bytes_sent: Of frames to clients, and of the bodies that they read over HTTP.
        catch_up_reads: Pages that the store was read for because a reader lagged behind the ring.
        refusals: Errors that clients were told, by code.
        store_errors: Calls of the store that failed by no fault of the caller, by method.
        append_s: From a call of the store to its answer.
        delivery_s: From a record's acceptance to its hand-over to readers that had caught up and
            asked for hardly any throttle; one value for what is handed over at once.
        loop_lag_s: How much later than asked for the event loop came back.
    """

    clock_s: Callable[[], float] = time.time
    connections_opened: int = 0
    connections_closed: Counter[str] = field(default_factory=Counter)
    records_appended: int = 0
    bytes_appended: int = 0
    records_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    catch_up_reads: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    store_errors: Counter[str] = field(default_factory=Counter)
    append_s: Histogram = field(default_factory=Histogram)
    delivery_s: Histogram = field(default_factory=Histogram)
    loop_lag_s: Histogram = field(default_factory=Histogram)

    def delivered(self, accepted_ms: int) -> None:
        """Measure a hand-over: of a record that was accepted at a time, ms since 1970 UTC."""
        self.delivery_s.observe(self.clock_s() - accepted_ms / 1000)
