"""Attempts that ended with their process: the patch that follows, and its line in the log."""

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


def crash_error(message: str) -> dict[str, str]:
    """Return the error of a run whose process has died."""
    return {"type": "ProcessDied", "message": message}


def crash_patch(run: Run, error: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    """Return the patch that marks a run crashed, unless a later attempt has begun meanwhile.

    Args:
        run: The run as it was found.
        error: The run's error.
        now_ms: The time.
    """
    return end_patch(run, "crashed", now_ms, error=dict(error), attempt=run.attempt)


def next_patch(run: Run, error: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    """Return the patch that follows an interrupted attempt where the next one can be executed.

    The next attempt has no delay: restarting the process, or noticing its death, took time.

    Args:
        run: The run when its attempt was interrupted.
        error: The attempt's error.
        now_ms: The time.

    Returns:
        The patch that queues the next attempt; without one, the patch that marks the run crashed.
    """
    if may_retry_crash(run):
        return retry_patch(run, now_ms, error)
    return crash_patch(run, error, now_ms)


def unused_attempts(run: Run) -> str:
    """Return why a worker's run gets no further attempt, for its error; "" if it has none left."""
    if not may_retry_crash(run):
        return ""
    left = run.max_attempts - run.attempt
    return f"; attempts that are left: {left} of {run.max_attempts}, but only a worker makes them"


def log(run: Run, reason: str) -> None:
    """Log that a run was interrupted.

    Args:
        run: The run after the patch.
        reason: The reason of the interruption.
    """
    then = f"attempt {run.attempt} of {run.max_attempts} follows"
    _log.warning(
        "run %s (%s) was cut off: %s; %s",
        run.id,
        run.task,
        reason,
        "it is marked crashed" if run.is_finished else then,
        extra={"run": run.id, "task": run.task},
    )
