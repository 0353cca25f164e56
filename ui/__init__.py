"""Realtime streams in Reflex pages.

actions     use_input_stream, use_task_trigger, use_realtime_task_trigger
hooks       use_realtime_stream, use_realtime_run, use_realtime_run_with_streams
vars        the typed Vars that they return
client      the browser's part: one socket, subscriptions, records (plain JavaScript)
"""

from ui.actions import (
    InputStreamHook,
    RealtimeTaskTrigger,
    RealtimeTaskTriggerWithStreams,
    TaskTrigger,
    use_input_stream,
    use_realtime_task_trigger,
    use_realtime_task_trigger_with_streams,
    use_task_trigger,
)
from ui.hooks import (
    LoopVariableError,
    RealtimeRunWithStreams,
    use_realtime_run,
    use_realtime_run_with_streams,
    use_realtime_stream,
)
from ui.vars import (
    Finish,
    Parts,
    RealtimeRun,
    RealtimeStream,
    SourceParts,
    StreamRecord,
    ToolCall,
)

__all__ = [
    "Finish",
    "InputStreamHook",
    "LoopVariableError",
    "Parts",
    "RealtimeRun",
    "RealtimeRunWithStreams",
    "RealtimeStream",
    "RealtimeTaskTrigger",
    "RealtimeTaskTriggerWithStreams",
    "SourceParts",
    "StreamRecord",
    "TaskTrigger",
    "ToolCall",
    "use_input_stream",
    "use_realtime_run",
    "use_realtime_run_with_streams",
    "use_realtime_stream",
    "use_realtime_task_trigger",
    "use_realtime_task_trigger_with_streams",
    "use_task_trigger",
]
