"""What tasks, workers and backends call. Public names are exported by `gateway`.

May import `stores` and the rooms below it, and `settings`; never `fanout` or `server`.

    assembler         puts the parts of an AI answer together again
    definitions       what a stream is called and carries
    forks             whether this process was forked from one that uses the SDK
    inputs            input streams: what a page or backend sends to a run
    metadata          a small JSON object of a run
    options           tags, delay, limits and retries of a run
    part_limits       makes a part of an answer fit into a record
    parts             the parts of an AI answer
    results           what a trigger returns
    revocation        stores a revoked token
    run_subscription  follows a run and its streams
    runs              runs as a backend sees them
    runtime           what the SDK uses in one process: store, secret, runner, writers
    session           `connect()`
    stream_registry   the streams that this process defines
    streams           typed streams: define, append, pipe, read
    tasks             functions whose executions are runs
    wait              waits in the middle of a task

    execution/        executes runs: attempts, leases, recovery, cancellation
    loops/            the SDK in synchronous code and on other event loops
    values/           types as JSON and JSON Schemas
    writers/          queues between the SDK and the store
"""
