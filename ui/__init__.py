"""Realtime streams on Reflex pages: hooks that return typed Vars.

Import it as `gateway.ui`. It imports Reflex, and of `gateway` the definitions of streams, the parts
of AI answers, runs and errors.

    hooks            use_realtime_stream, use_realtime_run, use_realtime_run_with_streams
    run_set_hooks    use_realtime_runs_with_tag, use_realtime_batch, use_realtime_children
    action_hooks     use_input_stream, use_task_trigger, use_realtime_task_trigger
    vars             the Vars of a stream and of a run
    var_types        the types of these Vars
    page_models      PageRun, PageStream: a run and a stream on a page
    hook_call        a hook's call as one line of JavaScript, and its event handlers
    arguments        rules for the arguments of hooks
    argument_errors  messages for wrong arguments
    foreach_guard    rejects loop variables of `rx.foreach`
    gateway_check    logs that an application has no gateway
    chart_rows       a stream's values as rows of a chart
    text_numbers     numbers that JSON carries as text
    client/          the browser's client, in JavaScript
"""

import sys

from gateway._internal.extras import needs

# Absolute imports: this file is also the top-level package `ui`, and has to export the same objects
# under both names. The other modules of this folder import each other relatively.
with needs("ui"):
    from gateway.ui.action_hooks import (
        InputStreamHook,
        RealtimeTaskTrigger,
        RealtimeTaskTriggerWithStreams,
        TaskTrigger,
        use_input_stream,
        use_realtime_task_trigger,
        use_realtime_task_trigger_with_streams,
        use_task_trigger,
    )
    from gateway.ui.foreach_guard import LoopVariableError
    from gateway.ui.hooks import (
        RealtimeRunWithStreams,
        use_realtime_run,
        use_realtime_run_with_streams,
        use_realtime_stream,
    )
    from gateway.ui.page_models import PageRun, PageStream
    from gateway.ui.run_set_hooks import (
        RealtimeRuns,
        use_realtime_batch,
        use_realtime_children,
        use_realtime_runs_with_tag,
    )
    from gateway.ui.var_types import Finish, Parts, SourceParts, StreamRecord, ToolCall
    from gateway.ui.vars import RealtimeRun, RealtimeStream

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
    # `gateway/ui` is this folder, and the imports above have loaded its modules as `gateway.ui.*`.
    # An application with its own package `ui` does not run this: its `ui` is found first.
    for name, module in list(sys.modules.items()):
        if f"{name}.".startswith("gateway.ui."):
            sys.modules[name.removeprefix("gateway.")] = module
