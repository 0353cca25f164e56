"""Queues between synchronous calls and the store: ordered, bounded, nothing dropped.

metadata_writer  changes of metadata, batched
stream_writer    appends, batched
"""
