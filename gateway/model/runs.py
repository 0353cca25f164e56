"""Runs: their fields, their statuses and the table of allowed transitions. No I/O.

    delayed <──> queued <──> executing <──> waiting
       │           │             │             │
       └───────────┴──────┬──────┴─────────────┘
                          v
       completed | failed | canceled | crashed | expired | timed_out    (final: nothing follows)

When a failed attempt is retried, the run returns to `delayed`, or to `queued` if the retry has no
delay, also from `waiting`. A run's changes form a log (`$run`): the first record is the whole run,
and each later record is a change for `patches.fold_change`. Only `apply` decides whether a patch
is allowed; it also folds it.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from gateway.errors import IllegalTransition, InvalidValue
from gateway.model.patches import METADATA_NULLS, Operation, carry_out, difference, fold_change
from gateway.model.records import check_run_id, shown
from gateway.model.run_limits import check_metadata, check_metadata_key, check_values
from gateway.model.run_limits import time_ms as time_ms

RunStatus = Literal[
    "delayed",
    "queued",
    "executing",
    "waiting",
    "completed",
    "failed",
    "canceled",
    "crashed",
    "expired",
    "timed_out",
]

_FINAL: dict[str, frozenset[str]] = {
    status: frozenset()
    for status in ("completed", "failed", "canceled", "crashed", "expired", "timed_out")
}
_WHILE_WORKING = frozenset({"completed", "failed", "canceled", "crashed", "timed_out"})
TRANSITIONS: dict[str, frozenset[str]] = {
    "delayed": frozenset({"queued", "failed", "canceled", "crashed", "expired"}),
    "queued": frozenset({"executing", "failed", "canceled", "crashed", "expired"}),
    "executing": frozenset({"waiting", "queued", "delayed"}) | _WHILE_WORKING,
    "waiting": frozenset({"executing", "queued", "delayed"}) | _WHILE_WORKING,
    **_FINAL,
}
"""The statuses that may follow each status. A status that is not final may also stay unchanged."""

FINAL_STATUSES = frozenset(_FINAL)
STATUSES: tuple[str, ...] = tuple(TRANSITIONS)
FAILED_STATUSES = frozenset({"failed", "crashed", "expired", "timed_out"})

# Identity and history: fixed at creation.
_FIXED_FIELDS = frozenset(
    {
        "id",
        "task",
        "parent_id",
        "root_id",
        "batch_id",
        "created_at",
        "payload",
        "retry_on_crash",
        "idempotency_key",
        "idempotency_key_expires_at",
    }
)


@dataclass(frozen=True, slots=True)
class RunError:
    """The error of a failed run that frontends may see; the traceback is only in the log."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a task, in its current state.

    Times are ISO 8601 strings in UTC with milliseconds, or None. PROTOCOL.md defines each field.
    `omitted` is used only for runs from a list: it names the large fields that the list left out,
    with their sizes in bytes. `runs.retrieve` returns these fields.

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
    max_attempts: int = 1
    retry_on_crash: bool = True
    last_error: RunError | None = None
    parent_id: str | None = None
    batch_id: str | None = None
    delay_until: str | None = None
    queued_at: str | None = None
    expires_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    duration_ms: int | None = None
    max_duration_s: float | None = None
    cancel_requested_at: str | None = None
    idempotency_key: str | None = None
    idempotency_key_expires_at: str | None = None
    owner: str = ""
    omitted: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_queued(self) -> bool:
        """Whether the run waits for its start time, for a free slot, or for its next attempt."""
        return self.status in ("delayed", "queued")

    @property
    def is_executing(self) -> bool:
        """Whether the run executes; true also while it `is_waiting`."""
        return self.status in ("executing", "waiting")

    @property
    def is_waiting(self) -> bool:
        """Whether the run has started and waits for a time, a token or other runs."""
        return self.status == "waiting"

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended, with any result; its status never changes again."""
        return self.status in FINAL_STATUSES

    @property
    def is_completed(self) -> bool:
        """The same as `is_finished`, under the name that Trigger.dev's SDK uses.

        True for a failed run too. A run that returned its output `is_success`.
        """
        return self.is_finished

    @property
    def is_success(self) -> bool:
        """Whether the run has ended and returned its output: its status is `completed`."""
        return self.status == "completed"

    @property
    def is_failed(self) -> bool:
        """Whether the run has ended without output: failed, crashed, expired or timed out."""
        return self.status in FAILED_STATUSES

    @property
    def is_canceled(self) -> bool:
        """Whether the run was canceled."""
        return self.status == "canceled"

    def to_wire(self) -> dict[str, Any]:
        """Return the run as JSON-able fields."""
        wire = {name: getattr(self, name) for name in _FIELDS}
        for name in _ERRORS:
            if (error := wire[name]) is not None:
                wire[name] = {"type": error.type, "message": error.message}
        if self.omitted:
            wire = {name: value for name, value in wire.items() if name not in self.omitted}
            wire["omitted"] = dict(self.omitted)
        return wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Run:
        """Parse a run from its JSON fields; unknown fields are ignored.

        Raises:
            InvalidValue: a field is missing or of the wrong kind.
        """
        known = {name: wire[name] for name in _FIELDS if name in wire}
        missing = [name for name in _REQUIRED if name not in known]
        if missing:
            raise InvalidValue(
                f"not a run: it needs {', '.join(_REQUIRED)}; missing: {', '.join(missing)}"
            )
        for name in _ERRORS:
            if (error := known.get(name)) is not None:
                known[name] = _read_error(name, error)
        run = cls(**known)
        check_fields(run)
        return run


def _read_error(name: str, error: Any) -> RunError:
    if not isinstance(error, dict) or not {"type", "message"} <= error.keys():
        raise InvalidValue(f"not a run: {name} is {shown(error)}; it has a type and a message")
    return RunError(str(error["type"]), str(error["message"]))


# Fields that a store keeps in a column or a client shows: a wrong type is rejected on arrival.
_TEXTS = ("task", "created_at", "owner")
_TIMES = ("delay_until", "expires_at", "idempotency_key_expires_at")  # a process acts on them
_TEXTS_OR_NONE = (
    "batch_id",
    "queued_at",
    "started_at",
    "finished_at",
    "cancel_requested_at",
    "idempotency_key",
    *_TIMES,
)
_COUNTS = ("attempt", "max_attempts")
_ERRORS = ("error", "last_error")
_FIELDS: tuple[str, ...] = tuple(
    each.name
    for each in dataclasses.fields(Run)
    if each.name != "omitted"  # only in answers to lists
)
_REQUIRED = ("id", "task", "status", "root_id", "created_at")


def check_fields(run: Run) -> None:
    """Reject a run that could be stored but not be read again.

    Raises:
        InvalidValue: a field has the wrong type.
        InvalidId: the id of the run, its root or its parent is not a run id.
    """
    check_run_id(run.id)
    check_run_id(run.root_id)
    if run.parent_id is not None:
        check_run_id(run.parent_id)
    for name in (*_TEXTS, *_TEXTS_OR_NONE):
        value = getattr(run, name)
        if not (isinstance(value, str) or (value is None and name in _TEXTS_OR_NONE)):
            raise InvalidValue(f"run {run.id}: {name} must be a string")
    for name in _TIMES:
        if (time := getattr(run, name)) is not None and time_ms(time) is None:
            raise InvalidValue(f"run {run.id}: {name} must be a time, as created_at is")
    for name in _COUNTS:
        if not _is_number(getattr(run, name), int, least=1):
            raise InvalidValue(f"run {run.id}: {name} must be a whole number from 1")
    if run.duration_ms is not None and not _is_number(run.duration_ms, int, least=0):
        raise InvalidValue(f"run {run.id}: duration_ms must be a whole number from 0")
    if run.max_duration_s is not None and not _is_number(run.max_duration_s, int | float, least=0):
        raise InvalidValue(f"run {run.id}: max_duration_s must be a number from 0")
    if not isinstance(run.retry_on_crash, bool):
        raise InvalidValue(f"run {run.id}: retry_on_crash must be true or false")
    if not isinstance(run.status, str) or run.status not in TRANSITIONS:
        raise InvalidValue(f"run {run.id}: status {run.status!r} is none of {', '.join(STATUSES)}")
    if not isinstance(run.metadata, dict):
        raise InvalidValue(f"run {run.id}: metadata must be an object")
    if not isinstance(run.tags, list) or not all(isinstance(tag, str) for tag in run.tags):
        raise InvalidValue(f"run {run.id}: tags must be an array of strings")


def _is_number(value: Any, kind: Any, least: int) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and value >= least


def check_statuses(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the statuses of a query as a tuple: one, several, or none for all.

    Raises:
        InvalidValue: a status is unknown.
    """
    wanted = (given,) if given and isinstance(given, str) else tuple(given or ())
    if any(each not in STATUSES for each in wanted):
        raise InvalidValue(f"status is {shown(given)}; it lists any of {', '.join(STATUSES)}")
    return tuple(dict.fromkeys(wanted))


def check_new_run(run: Run) -> None:
    """Reject a run that must not be created.

    Raises:
        InvalidValue: a field has the wrong type, or is over its limit.
        InvalidId: an id or a tag breaks its rule.
        MetadataTooLarge: states the size of the metadata and its limit.
    """
    check_fields(run)
    check_values(run.id, run.to_wire())
    for key in run.metadata:
        check_metadata_key(key)
    check_metadata(run.id, run.metadata)


def apply(run: Run, patch: Mapping[str, Any]) -> Run:
    """Fold a patch into a run if the table of transitions allows it.

    Args:
        run: The current run.
        patch: A change of its wire fields that sets no null in the metadata.

    Returns:
        The run after the patch.

    Raises:
        IllegalTransition: the run is final, or the table does not allow the new status.
        InvalidValue: a field is unknown, fixed, of the wrong type, or over its limit.
        MetadataTooLarge: the metadata would be over its limit.
    """
    for name in patch:
        if name not in _FIELDS or name in _FIXED_FIELDS:
            raise InvalidValue(f"run {run.id}: field {name!r} cannot be changed")
    status = patch.get("status", run.status)
    if not isinstance(status, str):
        raise InvalidValue(f"run {run.id}: status must be a string")
    if run.is_finished or (status != run.status and status not in TRANSITIONS[run.status]):
        raise IllegalTransition(f"run {run.id} is {run.status}; it cannot become {status}")
    wire = fold_change(run.to_wire(), patch)
    after = Run.from_wire(wire)
    check_values(run.id, {name: wire[name] for name in patch if name in wire})
    if "metadata" in patch:
        for key in after.metadata.keys() - run.metadata.keys():
            check_metadata_key(key)
        check_metadata(run.id, after.metadata)
    return after


def change(
    run: Run, patch: Mapping[str, Any], operations: Sequence[Operation] = ()
) -> tuple[Run, Mapping[str, Any]]:
    """Fold a patch, and then operations on metadata, into a run.

    Args:
        run: The current run.
        patch: A change of its wire fields that sets no null in the metadata.
        operations: The operations, in order; all or none are applied.

    Returns:
        The run after the change, and one change that contains the patch and the operations.

    Raises:
        IllegalTransition: the run is final, or the table does not allow the new status.
        InvalidValue: a field or an operation is invalid.
        MetadataTooLarge: the metadata would be over its limit.
    """
    if operations and run.is_finished:
        raise IllegalTransition(f"run {run.id} has ended ({run.status}); its metadata stays")
    patch = _without_attempt(run, patch)
    try:
        after = apply(run, patch)
        if not operations:
            return after, patch
        after = dataclasses.replace(after, metadata=carry_out(after.metadata, operations))
        check_metadata(run.id, after.metadata)
        merge, nulls = difference(run.metadata, after.metadata)
        return after, {**patch, "metadata": merge, **({METADATA_NULLS: nulls} if nulls else {})}
    except RecursionError:
        raise InvalidValue(f"run {run.id}: the patch is nested too deeply") from None


def _without_attempt(run: Run, patch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Reject a change by an earlier attempt; drop the number of the current attempt.

    A process that was considered dead and resumes names the attempt that it executes, so its
    changes are rejected. When two processes begin the same attempt, the second one is rejected.
    """
    attempt: Any = patch.get("attempt")
    if not _is_number(attempt, int, least=1) or attempt > run.attempt:
        return patch
    status, owner = patch.get("status"), patch.get("owner", run.owner)
    if attempt < run.attempt or (run.is_executing and status in ("queued", "delayed")):
        raise IllegalTransition(
            f"run {run.id} is at attempt {run.attempt}; the change is of attempt {attempt}"
            + (f" and makes it {status}" if attempt == run.attempt else ", which is over")
        )
    if run.is_executing and status == "executing" and owner != run.owner:
        raise IllegalTransition(f"attempt {attempt} of run {run.id} was begun by {run.owner}")
    return {name: value for name, value in patch.items() if name != "attempt"}


def may_retry_crash(run: Run) -> bool:
    """Whether a run is retried after the process of its attempt has ended."""
    return (
        run.is_executing
        and run.retry_on_crash
        and run.attempt < run.max_attempts
        and run.cancel_requested_at is None
    )


def retry_patch(
    run: Run, now_ms: int, error: Mapping[str, str], rest_s: float = 0.0
) -> dict[str, Any]:
    """Return the patch that delays or queues a run for its next attempt.

    Args:
        run: The run whose attempt has failed.
        now_ms: The current time, in ms since 1970.
        error: The error of the failed attempt.
        rest_s: Delay before the next attempt, in seconds.

    Returns:
        Attempt, error, status and time.
    """
    patch: dict[str, Any] = {"attempt": run.attempt + 1, "last_error": dict(error)}
    if rest_s > 0:
        due_at = iso_time(now_ms + round(rest_s * 1000))
        return patch | {"status": "delayed", "delay_until": due_at}
    return patch | {"status": "queued", "queued_at": iso_time(now_ms)}


def end_patch(run: Run, status: str, now_ms: int, **fields: Any) -> dict[str, Any]:
    """Return the patch that ends a run.

    Args:
        run: The run, with its start time if it has started.
        status: A final status.
        now_ms: The current time, in ms since 1970.
        fields: Further fields: the output or the error.

    Returns:
        Status, time, duration and the fields.
    """
    patch = {"status": status, "finished_at": iso_time(now_ms), **fields}
    started_ms = time_ms(run.started_at) if run.started_at is not None else None
    if started_ms is not None:
        patch["duration_ms"] = max(0, now_ms - started_ms)
    return patch


_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def _base36(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 36)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def new_run_id(now_ms: int, random_bits: Callable[[int], int] = secrets.randbits) -> str:
    """Return a new run id: 9 characters of time, so that ids sort by time, then 100 random bits."""
    return _run_id(now_ms, random_bits(100))


def _run_id(now_ms: int, number: int) -> str:
    return f"run_{_base36(now_ms, 9)}{_base36(number, 20)}"


class RunIds:
    """Generates the run ids of one process; each sorts after the previous one.

    This also holds within one millisecond. So queued runs start again, and sets are listed, in the
    order of their triggers.

    Args:
        random_bits: Returns a random number of the given number of bits.
    """

    def __init__(self, random_bits: Callable[[int], int] = secrets.randbits) -> None:
        self._random_bits = random_bits
        self._last = (0, 0)  # time and random number

    def new(self, now_ms: int) -> str:
        """Return the next id; it sorts after the last one even if the clock was set back."""
        last_ms, number = self._last
        if now_ms > last_ms:
            self._last = (now_ms, self._random_bits(99))
        else:  # a random step, so that ids cannot be guessed; there is room for 2**19
            self._last = (last_ms, number + 1 + self._random_bits(80))
        return _run_id(*self._last)


LAST_MS = 253_402_300_799_000  # the last second of 9999, the last year of four digits


def iso_time(now_ms: int) -> str:
    """Format a time as in a run's fields; times after the year 9999 become its last second."""
    moment = datetime.fromtimestamp(min(now_ms, LAST_MS) / 1000, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
