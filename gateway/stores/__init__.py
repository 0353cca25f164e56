"""Where records and runs are kept: one contract, four stores, and what they share.

May import `protocol` and the rooms below it.

    append_tasks     appends that a task carries out, for stores that await
    base             the contract; its docstrings are binding
    change_notifier  notifies followers in this process of new records
    factory          makes the store that a URL names
    idempotency      duplicates, gaps and old epochs of a writer
    instrumented     a store that counts the calls of another
    leases           a store that several processes share: which of them are alive
    memory           `memory:`
    migration        copies a store into another, positions kept
    paging           where a position is in a stream, and the page after it
    reserved_logs    logs that stores write: new streams, changes of run sets
    run_lists        runs as lists and sets show them: without large fields
    tail_cache       the ends of open streams, known without a read

    redis/           `redis:`, for several gateways
    remote/          `ws:`, a gateway elsewhere
    sqlite/          `sqlite:PATH`, the embedded default
"""
