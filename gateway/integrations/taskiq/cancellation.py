"""Taskiq's functions as runs that can be canceled: before they begin, and in the middle."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import update_wrapper, wraps
from typing import Any

from gateway.errors import RunCanceled
from gateway.sdk.runtime import RunContext

_GUARDED = "_realtime_guarded"  # attribute of what `guarded` returns


@dataclass(eq=False, slots=True)
class TrackedMessage:
    """One execution of a message.

    Attributes:
        context: Of its run.
        is_refused: The run was canceled before it began.
        token: Undoes that the run is the current one.
        has_timeout: Its message has the label `timeout`.
        task: The async function, while it is executed.
        watching: Follows the run's own log, for its cancellation.
        raised: What left the function itself.
        error: How the message failed, as Taskiq says.
        is_sent_again: Its message was sent again, for the next attempt.
    """

    context: RunContext
    is_refused: bool
    token: Token[RunContext | None]
    has_timeout: bool = False
    task: asyncio.Task[Any] | None = None
    watching: asyncio.Task[None] | None = None
    raised: BaseException | None = None
    error: BaseException | None = None
    is_sent_again: bool = False

    @property
    def id(self) -> str:
        """Its run's."""
        return self.context.id

    def is_timed_out(self, error: BaseException | None) -> bool:
        """Whether an error is Taskiq's, after the label `timeout`, and not the function's own."""
        is_bare = type(error) is TimeoutError and not error.args
        # Of another thread's TimeoutError asyncio makes a new one: identity says nothing.
        return self.has_timeout and is_bare and type(self.raised) is not TimeoutError

    def refuse(self) -> None:
        """Raise RunCanceled if the run was canceled before it began."""
        if self.is_refused:
            raise RunCanceled(f"run {self.id} was canceled before it began")


executed: ContextVar[TrackedMessage | None] = ContextVar("realtime_taskiq", default=None)
"""What the calling function is executed as."""


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does not begin when its run is canceled, and, async, stops then."""
    if hasattr(function, _GUARDED):
        return function
    made = _async(function) if inspect.iscoroutinefunction(function) else _SyncWrapper(function)
    setattr(made, _GUARDED, True)
    return made


def _async(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        tracked, task = executed.get(), asyncio.current_task()
        if tracked is None or task is None:
            return await function(*args, **kwargs)
        tracked.refuse()
        tracked.task = task
        try:
            return await function(*args, **kwargs)
        except asyncio.CancelledError:
            if not tracked.context.is_canceled:
                raise
            task.uncancel()  # it was the run that was canceled, not Taskiq's worker
            raise RunCanceled(f"run {tracked.id} was canceled") from None
        except Exception as error:
            tracked.raised = error
            raise
        finally:
            tracked.task = None

    return run


class _SyncWrapper:
    """A class, so that another process of Taskiq's can be given the function itself."""

    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if (tracked := executed.get()) is None:
            return self._function(*args, **kwargs)
        tracked.refuse()
        try:
            return self._function(*args, **kwargs)
        except Exception as error:
            tracked.raised = error
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (self._function,)


def _same(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
