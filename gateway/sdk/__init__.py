"""What tasks, workers and backends call. `gateway` exports the public names.

May import `stores` and the rooms below it, and `settings`; never `fanout` or `server`.

    assembler         puts the parts of an AI answer together again
    background        the runtime of programs without an event loop
    context           the run that the calling code executes
    definitions       what a stream is called and carries
    inputs            input streams: what a page or backend sends to a run
    metadata          a small JSON object of a run
    options           tags, delay, limits and retries of a run
    part_limits       makes a part of an answer fit into a record
    parts             the parts of an AI answer
    results           what a trigger returns
    run_subscription  follows a run and its streams
    runs              runs as a backend sees them
    runtime           the SDK's state in one process: store, runner, writers
    session           `connect()`
    stream_reader     reads a stream from the store
    stream_registry   the streams that this process defines
    streams           typed streams: define, append, pipe, read
    task_registry     `@task`, and the tasks that this process defines
    tasks             functions whose executions are runs
    wait              waits in the middle of a task

    execution/        executes runs: attempts, leases, recovery, cancellation
    loops/            the SDK in synchronous code and on other event loops
    values/           types as JSON and JSON Schemas
    writers/          queues between the SDK and the store
"""
