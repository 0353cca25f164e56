"""Realtime streams in Reflex pages.

hooks       use_realtime_stream, use_realtime_run, use_realtime_run_with_streams
vars        the typed Vars that they return
client      the browser's part: one socket, subscriptions, records (plain JavaScript)
"""

from ui.hooks import (
    LoopVariableError,
    RealtimeRunWithStreams,
    use_realtime_run,
    use_realtime_run_with_streams,
    use_realtime_stream,
)
from ui.vars import Finish, Parts, RealtimeRun, RealtimeStream, StreamRecord, ToolCall

__all__ = [
    "Finish",
    "LoopVariableError",
    "Parts",
    "RealtimeRun",
    "RealtimeRunWithStreams",
    "RealtimeStream",
    "StreamRecord",
    "ToolCall",
    "use_realtime_run",
    "use_realtime_run_with_streams",
    "use_realtime_stream",
]
