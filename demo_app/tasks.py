"""The tasks of the demo."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from demo_app import assistant
from demo_app.assistant.tools import Allow
from demo_app.census import reader, sources
from demo_app.census.reader import Totals, WorkerReport
from demo_app.census.totals import Census
from demo_app.streams import answer, decision, events, progress, stop, summary
from gateway import Retry, current_run, metadata, runs, task
from gateway.sdk.parts import PART, ErrorPart, Finish, Part, TextDelta
from gateway.sdk.runtime import Context

MAX_WORKERS = 8
PARCEL_S = 0.4  # slow enough to be watched
MAX_QUESTION_CHARACTERS = 500
DECISION_S = 600.0  # for a visitor to say whether a file may be read


@task
async def take_census(source_id: str, workers: int = 4) -> Totals:
    """Read and tokenise every file of a source, shared out among child runs."""
    if not 1 <= workers <= MAX_WORKERS:
        raise ValueError(f"workers is {workers}; it goes from 1 to {MAX_WORKERS}")
    files = await asyncio.to_thread(sources.resolve, source_id)
    workers = min(workers, max(1, len(files)))
    metadata.set("source", source_id)
    metadata.set("stage", "reading")
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
    metadata.set("stage", "done")
    return fold.publish()


@task
def read_share(source_id: str, part: int, parts: int) -> WorkerReport:
    """Read one share of a source and report to the parent's stream; executed in a thread."""
    files, root = sources.share(source_id, part, parts), sources.root_of(source_id)
    report = WorkerReport(_run().id, "", len(files), Totals())
    for report in reader.read_files(files, root, _run().id):
        progress.append(report, target="parent")
    metadata.parent.increment("shares_done")
    return report


@task(retry=Retry(max_attempts=4, min_s=1.5, max_s=6, factor=2))
async def deliver(parcels: int, failures: int) -> str:
    """Deliver parcels; the first attempts fail on purpose, at a parcel that cannot be carried."""
    attempt = (await runs.retrieve(_run().id)).attempt
    metadata.set("attempt", attempt)
    metadata.set("stage", "delivering")
    for number in range(1, parcels + 1):
        await asyncio.sleep(PARCEL_S)
        if attempt <= failures and number == 1 + attempt % parcels:
            metadata.append("dropped", number)
            raise ConnectionError(f"parcel {number} was dropped in attempt {attempt}")
        metadata.increment("carried")
        events.append(f"attempt {attempt}: parcel {number} delivered")
    metadata.set("stage", "done")
    return f"{parcels} parcels in {attempt} attempts"


@task
async def ask(question: str, ask_first: bool = False) -> str:
    """Answer a question about the standard library, streaming the parts of the answer.

    The page can stop it, and with `ask_first` it asks the page before it reads a file.
    """
    question = question.strip()
    if not 0 < len(question) <= MAX_QUESTION_CHARACTERS:
        raise ValueError(
            f"the question has {len(question)} characters; it has 1 to {MAX_QUESTION_CHARACTERS}"
        )
    written: list[str] = []
    writing = asyncio.create_task(_write(question, _may_read if ask_first else None, written))
    stopped = asyncio.Event()

    def on_stop(_: str) -> None:
        stopped.set()
        writing.cancel()

    async with stop.on(on_stop):
        try:
            await writing
        except asyncio.CancelledError:
            if not stopped.is_set():
                writing.cancel()
                raise  # the run itself is being canceled
            answer.append(Finish("stopped"))
    return "".join(written)


async def _write(question: str, allow: Allow | None, written: list[str]) -> None:
    async for part in answer.pipe(_parts(assistant.answer(question, allow=allow))):
        if isinstance(part, ErrorPart):
            raise RuntimeError(part.message)
        if isinstance(part, TextDelta):
            written.append(part.text)


async def _parts(answered: AsyncIterator[dict[str, Any]]) -> AsyncIterator[Part]:
    async for part in answered:
        yield PART.validate_python(part)


async def _may_read(call_id: str) -> bool:
    while True:
        said = await decision.wait(timeout_s=DECISION_S)
        if said.call_id == call_id:  # else it was about a call of before
            return said.approved


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
