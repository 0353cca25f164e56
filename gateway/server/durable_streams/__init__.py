"""Durable Streams over HTTP: the only place where the words of that open protocol are spoken.

Its `message` is our record, its `chunk` our page, its `producer` our writer, its `closed` our
`ended`; its offsets are our positions. What a run's task appends is read at
`/v1/stream/{run_id}/{stream_id}`; streams of any other path belong to no run.

    refusals       what is answered instead of a result
    headers        requests' headers as values (pure)
    bodies         bodies and events, by content type (pure)
    offsets        offsets, entity tags and the cursor that keeps caches from looping (pure)
    configuration  how a path's stream is kept: a frozen value, and what forks inherit (pure)
    matching       whether a stream that is there is the one that a request would create
    paths          the streams of paths: create, find, delete, expire, fork
    sources        what a request reads: a run's stream or a path's, page by page and live
    reading        GET and HEAD: catch-up, long-poll, server-sent events
    writing        PUT, POST and DELETE
    events         carries server-sent events to one reader
    sweeping       forgets what has expired or was deleted
    endpoints      the routes: who may do what, and the headers of every answer

Source:
    PROTOCOL.md, section 12; the Durable Streams Protocol 1.0.
"""

from gateway.server.durable_streams.endpoints import DurableStreams

__all__ = ["DurableStreams"]
