"""What a trigger gives: the run that was triggered, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.errors import RunFailed
from gateway.model.runs import RunError
from gateway.sdk.execution.runner import waiting
from gateway.sdk.loops.bridge import on_its_loop
from gateway.sdk.loops.sync_calls import in_plain_code

if TYPE_CHECKING:
    from gateway.sdk.tasks import Task

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class RunHandle(Generic[R]):
    """A run that was triggered.

    Attributes:
        id: The run's id.
        access_token: Reads this run and its streams, and nothing else; for a page.
    """

    id: str
    access_token: str
    _task: Task[..., R]

    @on_its_loop
    async def wait(self) -> RunResult[R]:
        """Wait until the run has ended; a failure is in the result, not raised."""
        async with waiting():
            return await self._task.wait(self.id)

    wait_sync = in_plain_code(wait)


@dataclass(frozen=True, slots=True)
class RunResult(Generic[R]):
    """How a run ended.

    Attributes:
        ok: Whether it completed.
        run_id: Its id.
        status: A final one: `completed`, `failed`, `canceled`, `crashed`, `expired`, `timed_out`.
        error: Type and message, when it neither completed nor was canceled.
    """

    ok: bool
    run_id: str
    status: str
    error: RunError | None
    _output: R | None

    @property
    def output(self) -> R:
        """What the task returned.

        Raises:
            RunFailed: it returned nothing, because it did not complete.
        """
        if not self.ok:
            why = f"{self.error.type}: {self.error.message}" if self.error else self.status
            raise RunFailed(f"run {self.run_id} has no output: {why}")
        return self._output  # type: ignore[return-value]
