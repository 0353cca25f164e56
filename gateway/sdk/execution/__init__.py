"""Executes runs in this process, and recovers the runs of processes that are gone.

May import `runtime`, `writers`, `values` and the rooms below the SDK; not `tasks` or `streams`.

    cancellation  cancels a run and its descendants
    context       state shared by the executions of one runner; retried writes
    creation      creates and starts a run as one unit
    execution     one run: timers, attempts, end
    heartbeat     renews the leases of this process
    interruption  patches and logs for attempts that ended with their process
    outcome       how a run ends; errors as text
    ownership     the unfinished runs of an owner, and marking them crashed
    recovery      takes over the runs of a gateway or worker that is gone
    redelivery    runs that a task queue delivers again
    runner        bounded concurrency
    slot          the slot of one attempt, released while it waits
    stored_run    the stored state of a run that executes: fenced writes, takeover
    task_queues   who executes the runs that this process triggers
    time_limit    how long a run may execute
"""
