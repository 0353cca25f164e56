"""Attempts that were cut off by the end of their process: what follows, and what the log says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gateway.model.runs import Run, end_patch, may_retry_crash, retry_patch

STOPPED: Mapping[str, str] = {
    "type": "ProcessStopped",
    "message": "the process that executed it was stopped",
}

_log = logging.getLogger("realtime.runner")


def died(message: str) -> dict[str, str]:
    """Return the error of a run whose process is no more."""
    return {"type": "ProcessDied", "message": message}


def crash_patch(run: Run, error: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    """Make the patch that marks a run crashed, unless a later attempt has begun meanwhile.

    Args:
        run: As it was found.
        error: Why.
        now_ms: The time.
    """
    return end_patch(run, "crashed", now_ms, error=dict(error), attempt=run.attempt)


def next_patch(run: Run, error: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    """Make the patch of what follows where the next attempt can be executed.

    There is no rest before it: the process took time to come back, or another one to notice.

    Args:
        run: As it was when its attempt was cut off.
        error: Why it was.
        now_ms: The time.

    Returns:
        That of the next attempt, or of the end as crashed if there is none.
    """
    if may_retry_crash(run):
        return retry_patch(run, now_ms, error)
    return crash_patch(run, error, now_ms)


def unused(run: Run) -> str:
    """Say why the attempts that a worker's run has left are not made; "" if it has none."""
    if not may_retry_crash(run):
        return ""
    left = run.max_attempts - run.attempt
    return f"; attempts that are left: {left} of {run.max_attempts}, but only a worker makes them"


def log(run: Run, why: str) -> None:
    """Log that a run was cut off.

    Args:
        run: As it is after it was judged.
        why: It was cut off.
    """
    then = f"attempt {run.attempt} of {run.max_attempts} follows"
    _log.warning(
        "run %s (%s) was cut off: %s; %s",
        run.id,
        run.task,
        why,
        "it is marked crashed" if run.is_finished else then,
        extra={"run": run.id, "task": run.task},
    )
