"""Queues between synchronous calls and the store: ordered, bounded, nothing dropped.

May import `context`, `definitions` and the rooms below the SDK.

    metadata_writer  changes of metadata, batched
    pipe             appends a whole iterable
    stream_writer    appends, batched
    writer_pool      the writers of one process
"""
