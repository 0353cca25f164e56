"""Whether this process was forked from one that uses the SDK.

A forked child inherits the parent's writers, but not the threads that serve them: what it appended
would be accepted and lost. So every writer knows the process that made it.
"""

from __future__ import annotations

import os

from gateway.errors import NotStarted

here = object()
"""Stands for this process; a forked child has another one."""
is_child = False


def not_here(what: str) -> NotStarted:
    """Make the error of a forked child that uses what its parent opened."""
    return NotStarted(
        f"{what} belongs to the process that this one (pid {os.getpid()}) was forked from, and its "
        "threads are not here: return or send the values to the parent and append them there, or "
        "use `async with gateway.connect():` in this process (with REALTIME_URL, while the parent "
        "has the store) and append with target=run_id"
    )


def _begin() -> None:
    global here, is_child
    here, is_child = object(), True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin)
