"""The streams of the demo. Tasks append to them; pages subscribe to them."""

from dataclasses import dataclass

from demo_app.census.reader import WorkerReport
from demo_app.census.totals import CensusProgress
from gateway import streams
from gateway.sdk.parts import Part

progress = streams.define("progress", WorkerReport)  # reports of the children to their parent
summary = streams.define("summary", CensusProgress)  # the parent's sum of these reports
answer = streams.define("answer", Part)
events = streams.define("events", str)


@dataclass(frozen=True)
class Decision:
    """A visitor's answer to whether a tool may be called."""

    call_id: str
    approved: bool


decision = streams.input("decision", Decision)  # sent by the page to a run that waits for it
stop = streams.input("stop", str)
