"""The streams of the demo, shared by its tasks and its pages."""

from dataclasses import dataclass

from demo_app.census.reader import WorkerReport
from demo_app.census.totals import CensusProgress
from gateway import streams
from gateway.sdk.parts import Part

progress = streams.define("progress", WorkerReport)  # what the children report to their parent
summary = streams.define("summary", CensusProgress)  # what the parent makes of it
answer = streams.define("answer", Part)
events = streams.define("events", str)


@dataclass(frozen=True)
class Decision:
    """Whether a tool may be called."""

    call_id: str
    approved: bool


decision = streams.input("decision", Decision)  # what the page tells a run that asks
stop = streams.input("stop", str)
