"""Realtime streams in Reflex pages.

actions     use_input_stream, use_task_trigger, use_realtime_task_trigger
hooks       use_realtime_stream, use_realtime_run, use_realtime_run_with_streams
run_sets    use_realtime_runs_with_tag, use_realtime_batch, use_realtime_children
vars        the typed Vars that they return
chart_rows  a stream's values as rows of a chart
arguments   what they may be called with
refusals    words of the errors of wrong arguments
text_numbers  the Vars of numbers that JSON carries as text
client      the browser's part: one socket, subscriptions, records (plain JavaScript)
"""

from gateway.extras import needs

with needs("ui"):
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
        RealtimeRunWithStreams,
        use_realtime_run,
        use_realtime_run_with_streams,
        use_realtime_stream,
    )
    from ui.loop_variables import LoopVariableError
    from ui.page_runs import PageRun, PageStream
    from ui.run_sets import (
        RealtimeRuns,
        use_realtime_batch,
        use_realtime_children,
        use_realtime_runs_with_tag,
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
    "PageRun",
    "PageStream",
    "Parts",
    "RealtimeRun",
    "RealtimeRunWithStreams",
    "RealtimeRuns",
    "RealtimeStream",
    "RealtimeTaskTrigger",
    "RealtimeTaskTriggerWithStreams",
    "SourceParts",
    "StreamRecord",
    "TaskTrigger",
    "ToolCall",
    "use_input_stream",
    "use_realtime_batch",
    "use_realtime_children",
    "use_realtime_run",
    "use_realtime_run_with_streams",
    "use_realtime_runs_with_tag",
    "use_realtime_stream",
    "use_realtime_task_trigger",
    "use_realtime_task_trigger_with_streams",
    "use_task_trigger",
]
