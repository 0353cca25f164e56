"""Runs: their fields, their statuses and the table of allowed transitions. No I/O.

    queued ──> executing <──> waiting
      │            │             │
      └────────────┴──────┬──────┘
                          v
       completed | failed | canceled | crashed      (final: nothing follows)

A run's changes are a log (`$run`): the first record is the whole run, each later one a JSON merge
patch (RFC 7396). `apply` folds a patch and is the only judge of whether it may happen.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from gateway.errors import IllegalTransition, InvalidValue
from gateway.records import check_run_id

RunStatus = Literal["queued", "executing", "waiting", "completed", "failed", "canceled", "crashed"]

_FINAL: dict[str, frozenset[str]] = {
    status: frozenset() for status in ("completed", "failed", "canceled", "crashed")
}
TRANSITIONS: dict[str, frozenset[str]] = {
    "queued": frozenset({"executing", "failed", "canceled", "crashed"}),
    "executing": frozenset({"waiting", "completed", "failed", "canceled", "crashed"}),
    "waiting": frozenset({"executing", "completed", "failed", "canceled", "crashed"}),
    **_FINAL,
}
"""From each status, those that may follow. A status may always stay as it is while not final."""

FINAL_STATUSES = frozenset(_FINAL)
STATUSES: tuple[str, ...] = tuple(TRANSITIONS)

# Identity and history: fixed when the run is made.
_FIXED_FIELDS = frozenset(
    {"id", "task", "parent_id", "root_id", "batch_id", "created_at", "payload"}
)


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run failed, as much of it as a frontend may see; the traceback stays in the log."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a task, as it is now.

    Times are ISO 8601 strings in UTC with milliseconds, or None.

    Source:
        PROTOCOL.md, section 6.
    """

    id: str
    task: str
    status: RunStatus
    root_id: str
    created_at: str
    tags: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    payload: Any = None
    output: Any = None
    error: RunError | None = None
    attempt: int = 1
    parent_id: str | None = None
    batch_id: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    cancel_requested_at: str | None = None
    owner: str = ""

    @property
    def is_final(self) -> bool:
        """Whether nothing follows any more."""
        return self.status in FINAL_STATUSES

    def to_wire(self) -> dict[str, Any]:
        """Return the run as JSON-able fields."""
        wire = {name: getattr(self, name) for name in _FIELDS}
        if self.error is not None:
            wire["error"] = {"type": self.error.type, "message": self.error.message}
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Run:
        """Read a run from its JSON fields; fields that are not known here are left out.

        Raises:
            InvalidValue: a field is missing or of the wrong kind.
        """
        try:
            known = {name: wire[name] for name in _FIELDS if name in wire}
            if known.get("error") is not None:
                error = known["error"]
                known["error"] = RunError(str(error["type"]), str(error["message"]))
            run = cls(**known)
        except (TypeError, KeyError) as error:
            raise InvalidValue(f"not a run: {error}") from None
        _check(run)
        return run


# What a store keeps in a column, or a client shows: a wrong kind is refused when it comes in.
_TEXTS = ("task", "created_at", "owner")
_TEXTS_OR_NONE = ("batch_id", "started_at", "finished_at", "cancel_requested_at")
_FIELDS: tuple[str, ...] = tuple(f.name for f in dataclasses.fields(Run))


def _check(run: Run) -> None:
    check_run_id(run.id)
    check_run_id(run.root_id)
    if run.parent_id is not None:
        check_run_id(run.parent_id)
    for name in (*_TEXTS, *_TEXTS_OR_NONE):
        value = getattr(run, name)
        if not (isinstance(value, str) or (value is None and name in _TEXTS_OR_NONE)):
            raise InvalidValue(f"run {run.id}: {name} must be a string")
    if not isinstance(run.attempt, int) or isinstance(run.attempt, bool) or run.attempt < 1:
        raise InvalidValue(f"run {run.id}: attempt must be a whole number from 1")
    if not isinstance(run.status, str) or run.status not in TRANSITIONS:
        raise InvalidValue(f"run {run.id}: status {run.status!r} is none of {', '.join(STATUSES)}")
    if not isinstance(run.metadata, dict):
        raise InvalidValue(f"run {run.id}: metadata must be an object")
    if not isinstance(run.tags, list) or not all(isinstance(tag, str) for tag in run.tags):
        raise InvalidValue(f"run {run.id}: tags must be an array of strings")


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch and return the result; neither argument is changed.

    Source:
        RFC 7396, section 2.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def apply(run: Run, patch: Mapping[str, Any]) -> Run:
    """Fold a merge patch into a run if the table allows it.

    Args:
        run: The run as it is.
        patch: Merge patch of its wire fields.

    Returns:
        The run after it.

    Raises:
        IllegalTransition: the run is final, or its status does not go there.
        InvalidValue: a field that is unknown, fixed, or of the wrong kind.
    """
    for name in patch:
        if name not in _FIELDS or name in _FIXED_FIELDS:
            raise InvalidValue(f"run {run.id}: field {name!r} cannot be changed")
    status = patch.get("status", run.status)
    if not isinstance(status, str):
        raise InvalidValue(f"run {run.id}: status must be a string")
    if run.is_final or (status != run.status and status not in TRANSITIONS[run.status]):
        raise IllegalTransition(f"run {run.id} is {run.status}; it cannot become {status}")
    return Run.from_wire(merge_patch(run.to_wire(), dict(patch)))


_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def _base36(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def new_run_id(now_ms: int, random_bits: Callable[[int], int] = secrets.randbits) -> str:
    """Make a run id: 9 characters of time, so that ids sort by it, then 100 random bits."""
    return f"run_{_base36(now_ms, 9)}{_base36(random_bits(100), 20)}"


def iso_time(now_ms: int) -> str:
    """Write a time in the form that a run's fields have."""
    moment = datetime.fromtimestamp(now_ms / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
