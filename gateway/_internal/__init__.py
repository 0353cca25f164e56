"""Bookkeeping without knowledge of streams: concurrency, memory, counters, tracing.

May import `gateway.errors` and nothing else of the gateway.

    counters        what a gateway counts while it works
    extras          an import error that names the extra to install
    fair_share      a quota of expensive steps in one iteration of the event loop
    forks           whether this process was forked from one that uses the SDK
    memory_budget   one amount of memory for many owners; the least recently used is evicted first
    name_lists      known names in messages about an unknown one
    private_folder  creates the folder of a SQLite file and its secret key
    single_flight   concurrent callers of one key share one call
    tracing         spans of OpenTelemetry
    wakeup          an event and a queue for one waiter
"""
