"""Retention: what a store may delete, and the result of one sweep.

Nothing is forgotten unless a setting says so: the defaults keep everything, since what was
acknowledged is lost only where someone has asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from gateway.errors import ConfigurationError
from gateway.model.runs import iso_time

EMPTY_SET_S = 3600  # the log of a set without runs outlives its last change by this


@dataclass(frozen=True, slots=True)
class Retention:
    """What a store keeps; None keeps for ever.

    What lies inside every limit is never removed. What is beyond one goes when the store is swept,
    in pieces as large as the store lays records down (SQLite: a row of at most 256 KiB), so a
    stream holds somewhat more than its limits: up to a piece, and what came since the last sweep.

    Attributes:
        age_s: Records of a stream that are older may go.
        records: Of one stream; the newest stay.
        bytes: Of one stream's records as they are stored; the newest stay.
        run_ttl_s: A run that finished so long ago is deleted, with all that it owns.
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
        """Whether records of a run that is kept may go."""
        return (self.age_s, self.records, self.bytes) != (None, None, None)

    @property
    def bounds(self) -> bool:
        """Whether a stream may outgrow what is kept, however young it is."""
        return (self.records, self.bytes) != (None, None)

    def is_beyond(self, records: int, size: int) -> bool:
        """Whether a stream of so many records and bytes has outgrown what is kept."""
        return (self.records is not None and records > self.records) or (
            self.bytes is not None and size > self.bytes
        )

    def records_since_ms(self, now_ms: int) -> int:
        """Return the time, in ms since 1970, before which records may go; 0 for none."""
        return 0 if self.age_s is None else now_ms - round(self.age_s * 1000)

    def runs_until(self, now_ms: int) -> str:
        """Return the `finished_at` up to which runs are to be deleted; "" for none."""
        return "" if self.run_ttl_s is None else iso_time(now_ms - round(self.run_ttl_s * 1000))


KEEP_ALL = Retention()


class SweepResult(NamedTuple):
    """The result of one step of a sweep.

    Attributes:
        records: How many were removed from streams whose run stays.
        runs: How many were deleted.
        has_more: More rows can be deleted; sweep again without a pause.
    """

    records: int = 0
    runs: int = 0
    has_more: bool = False
