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

import sys

from gateway.extras import needs

# Absolute, as this file is also the top-level package `ui`: under either name it exports the same
# objects. The other modules of this folder import each other relatively.
with needs("ui"):
    from gateway.ui.actions import (
        InputStreamHook,
        RealtimeTaskTrigger,
        RealtimeTaskTriggerWithStreams,
        TaskTrigger,
        use_input_stream,
        use_realtime_task_trigger,
        use_realtime_task_trigger_with_streams,
        use_task_trigger,
    )
    from gateway.ui.hooks import (
        RealtimeRunWithStreams,
        use_realtime_run,
        use_realtime_run_with_streams,
        use_realtime_stream,
    )
    from gateway.ui.loop_variables import LoopVariableError
    from gateway.ui.page_runs import PageRun, PageStream
    from gateway.ui.run_sets import (
        RealtimeRuns,
        use_realtime_batch,
        use_realtime_children,
        use_realtime_runs_with_tag,
    )
    from gateway.ui.vars import (
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

if __name__ == "ui":
    # `gateway/ui` is this folder too, and the lines above have imported all of it by that name. An
    # application with a folder `ui` of its own never gets here: it imports `gateway.ui`.
    for name, module in list(sys.modules.items()):
        if f"{name}.".startswith("gateway.ui."):
            sys.modules[name.removeprefix("gateway.")] = module
