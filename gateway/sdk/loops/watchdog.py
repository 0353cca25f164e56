"""Warn, with the stack, when one step of a coroutine blocks the event loop for a second.

A thread checks the loop twice a second. When a step is running, the thread schedules a callback on
the loop. If the callback has not run a second later and the same step is still running, the step
is blocking. An idle loop gets no callback. While a C function holds the GIL no thread can run, so
such a call is not detected.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from gateway.sdk.context import run_of

LOOK_S = 0.5
LATE_S = 1.0
QUIET_S = 10.0  # after a warning
MAX_FRAMES = 20
_ASYNCIO = str(Path(asyncio.__file__).parent)
_LOOPS = {"_run", "run", "run_forever", "run_until_complete"}  # of asyncio, below a step's frames

_log = logging.getLogger("realtime.runner")


@dataclass(eq=False, slots=True)
class _Question:
    """The callback that was scheduled on the loop during a step of a task."""

    task: asyncio.Task[Any]
    asked_s: float
    is_over: bool = False

    def end(self) -> None:
        self.is_over = True


class BlockingWatch:
    """Find steps that block an event loop.

    Args:
        loop: The loop that runs in the calling thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread_id = threading.get_ident()
        self._question: _Question | None = None
        self._quiet_until_s = 0.0

    def look(self, now_s: float) -> None:
        """Warn of the running step if it has blocked the loop for `LATE_S`.

        Args:
            now_s: The time of a monotonic clock.
        """
        task, question = asyncio.current_task(self._loop), self._question
        if task is None:
            self._question = None
        elif question is None or question.task is not task or question.is_over:
            self._question = _Question(task, now_s)
            try:
                self._loop.call_soon_threadsafe(self._question.end)
            except RuntimeError:
                self._question = None  # the loop is closed
        elif now_s - question.asked_s >= LATE_S:
            self._warn(task, now_s - question.asked_s, now_s)

    def _warn(self, task: asyncio.Task[Any], late_s: float, now_s: float) -> None:
        if now_s < self._quiet_until_s:
            return
        frame = sys._current_frames().get(self._thread_id)
        if frame is None or asyncio.current_task(self._loop) is not task:
            return
        self._quiet_until_s = now_s + QUIET_S
        context = run_of(task)
        where = f"task {context.task!r}, run {context.id}" if context else task.get_name()
        _log.warning(
            "%s: a blocking call has stopped the event loop for %.1f s, and with it all that this "
            "process does. Await an asynchronous call instead, move it into a thread "
            "(await asyncio.to_thread(…)), or make the task a plain function\n%s",
            where,
            late_s,
            _stack(frame),
            extra={"run": context.id, "task": context.task} if context else {},
        )


def _stack(frame: FrameType) -> str:
    """Format the frames of a step, without the event loop's frames below them."""
    frames = list(traceback.walk_stack(frame))[::-1]
    first = 0
    for number, (each, _) in enumerate(frames):
        code = each.f_code
        if code.co_name in _LOOPS and code.co_filename.startswith(_ASYNCIO):
            first = number + 1
    summary = traceback.StackSummary.extract(iter(frames[first:][-MAX_FRAMES:]))
    return "".join(summary.format()).rstrip()


@asynccontextmanager
async def watch_for_blocking() -> AsyncIterator[None]:
    """Warn of blocking steps on the running event loop while the block runs."""
    watch, is_over = BlockingWatch(asyncio.get_running_loop()), threading.Event()

    def look() -> None:
        while not is_over.wait(LOOK_S):
            watch.look(time.monotonic())

    threading.Thread(target=look, name="realtime blocking", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()
