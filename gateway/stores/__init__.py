"""Storage of records and runs: one contract, four stores, and their shared code.

May import `protocol` and the rooms below it.

    append_tasks     runs each `begin_append` as a task, for stores whose appends await
    base             the contract; its docstrings are binding
    change_notifier  notifies followers in this process of new records
    factory          makes the store that a URL names: memory, SQLite, Redis
    idempotency      duplicates, gaps and old epochs of a writer
    instrumented     a wrapper that measures the calls of a store
    leases           the contract of a store that several processes share
    memory           `memory:`
    migration        copies a store into another and preserves positions
    paging           resolves a position in a stream and builds the page after it
    reserved_logs    logs that stores write: new streams, changes of run sets
    run_lists        runs as lists and sets show them: without large fields
    tail_cache       known tails of open streams, so that a read needs no query

    redis/           `redis:`, for several gateways
    remote/          `ws:`, a gateway elsewhere
    sqlite/          `sqlite:PATH`, the embedded default
"""
