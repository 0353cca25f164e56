"""Taskiq functions whose runs can be canceled, before they start and while they execute."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import update_wrapper, wraps
from typing import Any

from gateway.errors import RunCanceled
from gateway.sdk.context import RunContext

_CANCELLABLE_KEY = "_realtime_guarded"  # attribute of functions that `cancellable` returns


@dataclass(eq=False, slots=True)
class TrackedMessage:
    """One execution of a message.

    Attributes:
        context: Context of the run.
        is_skipped: The run was canceled before it started.
        token: Restores the previous current run.
        has_timeout: The message has the label `timeout`.
        task: The asyncio task of an async function, while it executes.
        watching: The task that follows the run's log for its cancellation.
        raised: The exception of the function itself.
        error: The failure of the message as reported by Taskiq.
        is_sent_again: The message was sent again for the next attempt.
    """

    context: RunContext
    is_skipped: bool
    token: Token[RunContext | None]
    has_timeout: bool = False
    task: asyncio.Task[Any] | None = None
    watching: asyncio.Task[None] | None = None
    raised: BaseException | None = None
    error: BaseException | None = None
    is_sent_again: bool = False

    @property
    def id(self) -> str:
        """The run's id."""
        return self.context.id

    def is_timed_out(self, error: BaseException | None) -> bool:
        """Return whether an error is Taskiq's, by the label `timeout`, not the function's own."""
        is_bare = type(error) is TimeoutError and not error.args
        # asyncio re-creates a TimeoutError of another thread, so identity cannot be compared.
        return self.has_timeout and is_bare and type(self.raised) is not TimeoutError

    def raise_if_canceled(self) -> None:
        """Raise `RunCanceled` if the run was canceled before it started."""
        if self.is_skipped:
            raise RunCanceled(f"run {self.id} was canceled before it started")


current_message: ContextVar[TrackedMessage | None] = ContextVar("realtime_taskiq", default=None)
"""The message whose function executes in this context."""


def cancellable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function: it does not start for a canceled run, and stops if it is async."""
    if hasattr(function, _CANCELLABLE_KEY):
        return function
    made = (
        _wrap_async(function) if inspect.iscoroutinefunction(function) else _SyncWrapper(function)
    )
    setattr(made, _CANCELLABLE_KEY, True)
    return made


def _wrap_async(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        tracked, task = current_message.get(), asyncio.current_task()
        if tracked is None or task is None:
            return await function(*args, **kwargs)
        tracked.raise_if_canceled()
        tracked.task = task
        try:
            return await function(*args, **kwargs)
        except asyncio.CancelledError:
            if not tracked.context.is_canceled:
                raise
            task.uncancel()  # the run was canceled, not Taskiq's worker
            raise RunCanceled(f"run {tracked.id} was canceled") from None
        except Exception as error:
            tracked.raised = error
            raise
        finally:
            tracked.task = None

    return run


class _SyncWrapper:
    """A class, so that pickling passes the function itself to another process of Taskiq."""

    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if (tracked := current_message.get()) is None:
            return self._function(*args, **kwargs)
        tracked.raise_if_canceled()
        try:
            return self._function(*args, **kwargs)
        except Exception as error:
            tracked.raised = error
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return _unwrapped, (self._function,)


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
