"""Retention: what a store may delete, and the result of one sweep.

The defaults keep everything: acknowledged records are deleted only if a setting asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from gateway.errors import ConfigurationError
from gateway.model.runs import iso_time

EMPTY_SET_S = 3600  # how long the log of a set without runs is kept after its last change


@dataclass(frozen=True, slots=True)
class Retention:
    """The limits of a store; None means no limit.

    Records within every limit are never deleted. A sweep deletes records beyond a limit in the
    store's units of storage (SQLite: a row of at most 256 KiB). So a stream exceeds its limits by
    up to one unit, and by the records appended since the last sweep.

    Attributes:
        age_s: Older records of a stream may be deleted.
        records: Number of records of one stream; the newest are kept.
        bytes: Stored size of one stream's records; the newest are kept.
        run_ttl_s: A run is deleted, with everything it owns, this long after it finished.
    """

    age_s: float | None = None
    records: int | None = None
    bytes: int | None = None
    run_ttl_s: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value <= 0:
                raise ConfigurationError(f"the retention's {field.name} is {value}; it is above 0")

    @property
    def trims(self) -> bool:
        """Whether records may be deleted while their run is kept."""
        return (self.age_s, self.records, self.bytes) != (None, None, None)

    @property
    def bounds(self) -> bool:
        """Whether there is a limit on the size of a stream, whatever its age."""
        return (self.records, self.bytes) != (None, None)

    def is_beyond(self, records: int, size: int) -> bool:
        """Whether a stream with this many records and bytes exceeds a limit."""
        return (self.records is not None and records > self.records) or (
            self.bytes is not None and size > self.bytes
        )

    def records_since_ms(self, now_ms: int) -> int:
        """Return the time, in ms since 1970, before which records may be deleted; 0 for none."""
        return 0 if self.age_s is None else now_ms - round(self.age_s * 1000)

    def runs_until(self, now_ms: int) -> str:
        """Return the `finished_at` up to which runs are deleted; "" for none."""
        return "" if self.run_ttl_s is None else iso_time(now_ms - round(self.run_ttl_s * 1000))


KEEP_ALL = Retention()


class SweepResult(NamedTuple):
    """The result of one step of a sweep.

    Attributes:
        records: Number of records deleted from streams whose run is kept.
        runs: Number of deleted runs.
        has_more: Whether more can be deleted; then sweep again without a delay.
    """

    records: int = 0
    runs: int = 0
    has_more: bool = False
