"""The tasks of the demo."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from demo_app import answerer, census
from demo_app.census import Census, Totals, WorkerReport
from demo_app.streams import answer, progress, summary
from gateway import current_run, task
from gateway.sdk.runtime import Context

MAX_WORKERS = 8
MAX_QUESTION_CHARACTERS = 500


@task
async def take_census(source_id: str, workers: int = 4) -> Totals:
    """Read and tokenise every file of a source, shared out among child runs."""
    if not 1 <= workers <= MAX_WORKERS:
        raise ValueError(f"workers is {workers}; it goes from 1 to {MAX_WORKERS}")
    files = await asyncio.to_thread(census.resolve, source_id)
    workers = min(workers, max(1, len(files)))
    fold = _Fold(Census(len(files)))
    fold.publish()
    reading = asyncio.create_task(fold.follow(_run().id))
    try:
        results = await read_share.options(tags=_run().tags).batch_trigger_and_wait(
            [{"source_id": source_id, "part": part, "parts": workers} for part in range(workers)]
        )
    finally:
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
    for result in results:
        fold.add(result.output)  # raises what the child failed with
    return fold.publish()


@task
def read_share(source_id: str, part: int, parts: int) -> WorkerReport:
    """Read one share of a source and report to the parent's stream; executed in a thread."""
    files, root = census.share(source_id, part, parts), census.root_of(source_id)
    report = WorkerReport(_run().id, "", len(files), Totals())
    for report in census.read_files(files, root, _run().id):
        progress.append(report, target="parent")
    return report


@task
async def ask(question: str) -> str:
    """Answer a question about the standard library, streaming the parts of the answer."""
    question = question.strip()
    if not 0 < len(question) <= MAX_QUESTION_CHARACTERS:
        raise ValueError(
            f"the question has {len(question)} characters; it has 1 to {MAX_QUESTION_CHARACTERS}"
        )
    text = ""
    async for part in answer.pipe(answerer.answer(question)):
        if part["type"] == "error":
            raise RuntimeError(part["message"])
        text += part["text"] if part["type"] == "text-delta" else ""
    return text


class _Fold:
    """Folds the children's reports into the summary that the page shows."""

    def __init__(self, folded: Census, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._folded = folded
        self._clock_s = clock_s
        self._started_s = clock_s()

    async def follow(self, run_id: str) -> None:
        async for report in progress.read(run_id):
            self.add(report)
            self.publish()

    def add(self, report: WorkerReport) -> None:
        self._folded.add(report, self._elapsed_s())

    def publish(self) -> Totals:
        now = self._folded.progress(self._elapsed_s())
        summary.append(now)
        return now.totals

    def _elapsed_s(self) -> float:
        return self._clock_s() - self._started_s


def _run() -> Context:
    run = current_run()
    assert run is not None, "called outside a run"
    return run
