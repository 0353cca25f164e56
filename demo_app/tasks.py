"""The tasks of the demo: a code census, a question, and a delivery that fails on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from demo_app import assistant
from demo_app.assistant.tools import Approve
from demo_app.census import reader, sources
from demo_app.census.reader import Totals, WorkerReport
from demo_app.census.totals import Census
from demo_app.streams import answer, decision, events, progress, stop, summary
from gateway import Retry, current_run, metadata, runs, task
from gateway.sdk.context import RunContext
from gateway.sdk.parts import PART, ErrorPart, Finish, Part, TextDelta

MAX_WORKERS = 8
PARCEL_S = 0.4  # slow enough to see each step on the page
MAX_QUESTION_CHARACTERS = 500
DECISION_TIMEOUT_S = 600.0  # for a visitor to approve or reject a tool call


@task
async def take_census(source_id: str, workers: int = 4) -> Totals:
    """Read and tokenise every file of a source, divided among child runs."""
    if not 1 <= workers <= MAX_WORKERS:
        raise ValueError(f"workers is {workers}; it must be from 1 to {MAX_WORKERS}")
    files = await asyncio.to_thread(sources.resolve, source_id)
    workers = min(workers, max(1, len(files)))
    metadata.set("source", source_id)
    metadata.set("stage", "reading")
    publisher = _SummaryPublisher(Census(len(files)))
    publisher.publish()
    following = asyncio.create_task(publisher.follow(_run().id))
    try:
        results = await read_share.options(tags=_run().tags).batch_trigger_and_wait(
            [{"source_id": source_id, "part": part, "parts": workers} for part in range(workers)]
        )
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
    for result in results:
        publisher.add(result.output)  # raises the child's error if the child failed
    metadata.set("stage", "done")
    return publisher.publish()


@task
def read_share(source_id: str, part: int, parts: int) -> WorkerReport:
    """Read one share of a source and report to the parent's stream. Runs in a thread."""
    files, root = sources.share(source_id, part, parts), sources.root_of(source_id)
    report = WorkerReport(_run().id, "", len(files), Totals())
    for report in reader.read_files(files, root, _run().id):
        progress.append(report, target="parent")
    metadata.parent.increment("shares_done")
    return report


@task(retry=Retry(max_attempts=4, min_s=1.5, max_s=6, factor=2))
async def deliver(parcels: int, failures: int) -> str:
    """Deliver parcels. The first `failures` attempts drop a parcel and fail."""
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
    """Answer a question about the standard library, and stream the parts of the answer.

    The page can stop the run. With `ask_first`, the run waits for the page's approval before it
    reads a file.
    """
    question = question.strip()
    if not 0 < len(question) <= MAX_QUESTION_CHARACTERS:
        raise ValueError(
            f"the question has {len(question)} characters; "
            f"it must have from 1 to {MAX_QUESTION_CHARACTERS}"
        )
    written: list[str] = []
    approve = _wait_for_approval if ask_first else None
    writing = asyncio.create_task(_write(question, approve, written))
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
                raise  # the run is being canceled; the page has not sent `stop`
            answer.append(Finish("stopped"))
    return "".join(written)


async def _write(question: str, approve: Approve | None, written: list[str]) -> None:
    async for part in answer.pipe(_parts(assistant.answer(question, approve=approve))):
        if isinstance(part, ErrorPart):
            raise RuntimeError(part.message)
        if isinstance(part, TextDelta):
            written.append(part.text)


async def _parts(answered: AsyncIterator[dict[str, Any]]) -> AsyncIterator[Part]:
    async for part in answered:
        yield PART.validate_python(part)


async def _wait_for_approval(call_id: str) -> bool:
    while True:
        received = await decision.wait(timeout_s=DECISION_TIMEOUT_S)
        if received.call_id == call_id:  # skips late decisions about earlier calls
            return received.approved


class _SummaryPublisher:
    """Adds the children's reports up and appends the summary that the page shows."""

    def __init__(self, census: Census, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._census = census
        self._clock_s = clock_s
        self._started_s = clock_s()

    async def follow(self, run_id: str) -> None:
        async for report in progress.read(run_id):
            self.add(report)
            self.publish()

    def add(self, report: WorkerReport) -> None:
        self._census.add(report, self._elapsed_s())

    def publish(self) -> Totals:
        now = self._census.progress(self._elapsed_s())
        summary.append(now)
        return now.totals

    def _elapsed_s(self) -> float:
        return self._clock_s() - self._started_s


def _run() -> RunContext:
    run = current_run()
    assert run is not None, "there is no current run"
    return run
