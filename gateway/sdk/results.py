"""What a trigger returns: a handle of the run, and the result once the run has ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.errors import RunFailed
from gateway.model.runs import RunError
from gateway.sdk.execution.slot import waiting
from gateway.sdk.loops.bridge import run_on_sdk_loop
from gateway.sdk.loops.sync_calls import make_sync

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RunHandle(Generic[R]):
    """A run that was triggered.

    Attributes:
        id: The run's id.
        access_token: Reads this run and its streams, and nothing else. Give it to a page.
    """

    id: str
    access_token: str
    _wait: Callable[[str], Awaitable[RunResult[R]]]

    @run_on_sdk_loop
    async def wait(self) -> RunResult[R]:
        """Wait until the run has ended; a failure is in the result, not raised."""
        async with waiting():
            return await self._wait(self.id)

    wait_sync = make_sync(wait)


@dataclass(frozen=True, slots=True)
class RunResult(Generic[R]):
    """How a run ended.

    Attributes:
        ok: Whether the run completed.
        run_id: The run's id.
        status: A final status: `completed`, `failed`, `canceled`, `crashed`, `expired`,
            `timed_out`.
        error: Type and message; None if the run completed or was canceled.
    """

    ok: bool
    run_id: str
    status: str
    error: RunError | None
    _output: R | None

    @property
    def output(self) -> R:
        """The task's return value.

        Raises:
            RunFailed: the run did not complete, so it has no output.
        """
        if not self.ok:
            reason = f"{self.error.type}: {self.error.message}" if self.error else self.status
            raise RunFailed(f"run {self.run_id} has no output: {reason}")
        return self._output  # type: ignore[return-value]
