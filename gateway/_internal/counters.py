"""Counters of a gateway: plain numbers, read only for `/metrics` and the snapshot. No I/O.

The hot path adds to a number; it looks nothing up, takes no lock and sets no label.
`gateway.server.ops.metrics` exports the numbers under their names.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from math import inf

# Seconds. A commit with fsync takes about 1 ms, a delivery to 1,000 readers about 10 ms.
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """A histogram with fixed buckets.

    Args:
        bounds: Upper bounds of the buckets, ascending; larger values are counted in one more.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value. A value below 0, after a clock was set back, counts as 0."""
        value = max(value, 0.0)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def quantile(self, q: float, before: Sequence[int] = ()) -> float | None:
        """Return the bound below which a share of the values lies.

        Args:
            q: The share, 0 to 1.
            before: `counts` at an earlier time; only later values are considered.

        Returns:
            A bound, infinity above the last one; None without values.
        """
        counts = [now - then for now, then in zip_longest(self.counts, before, fillvalue=0)]
        wanted, total = q * sum(counts), 0
        for bound, count in zip((*self.bounds, inf), counts, strict=True):
            total += count
            if total and total >= wanted:
                return bound
        return None

    def up_to(self) -> list[int]:
        """Return, for each bound, how many values were at most that bound; last, all values."""
        total, sums = 0, []
        for count in self.counts:
            total += count
            sums.append(total)
        return sums


@dataclass(slots=True)
class Counters:
    """The counters of one gateway since its start.

    Attributes:
        clock_s: Unix time.
        connections_opened: Accepted WebSockets and HTTP fallback requests.
        connections_closed: By cause: `client`, `cut`, or an error's code.
        records_appended: Through this process, duplicates left out.
        bytes_appended: Data of these records.
        records_sent: Deliveries: one record to ten readers counts ten.
        bytes_received: Frames from clients, and bodies of appends over HTTP.
        bytes_sent: Frames to clients, and bodies of reads over HTTP.
        catch_up_reads: Pages read from the store for readers behind the ring.
        refusals: Errors sent to clients, by code.
        store_errors: Failed calls of the store that the caller did not cause, by method.
        append_s: From a call of the store to its result.
        delivery_s: From a record's acceptance to its delivery to readers that had caught up and had
            hardly any throttle; one value per delivery to a group.
        loop_lag_s: How much later than requested the event loop ran a timer.
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
        """Measure the delivery of a record that was accepted at a time, ms since 1970 UTC."""
        self.delivery_s.observe(self.clock_s() - accepted_ms / 1000)
