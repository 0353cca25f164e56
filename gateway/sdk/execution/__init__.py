"""Executes runs in this process, and recovers those whose process is gone.

cancellation  cancels runs and their children
context       what the executions of one runner share
creation      creates a run: stored and started, or not there
execution     one run: timers, attempts, end
heartbeat     renews this process's leases
interruption  attempts that ended with their process
outcome       how a run ends
recovery      runs of a process that is gone
redelivery    runs that a task queue delivers again
runner        bounded concurrency
slot          the slot of one attempt, released while it waits
task_queues   who executes what this process triggers
time_limit    how long a run may execute
"""
