"""Durable Streams over HTTP: the only room that uses the words of that open protocol.

Its `message` is a record, its `chunk` a page, its `producer` a writer, its `closed` is `ended`; its
offsets are positions. `/v1/stream/{run_id}/{stream_id}` is a run's stream; streams of any other
path belong to no run.

    bodies             bodies of requests, responses and events, by content type
    cleanup            deletes expired streams
    configuration      the configuration of a path's stream, and what forks inherit
    endpoints          routes, permissions, headers of every response
    errors             error responses
    events             server-sent events
    forks              what a fork inherits
    headers            headers of requests as values
    idempotent_create  whether an existing stream is what a request would create
    live               a live reader
    offsets            offsets, entity tags, the cursor that defeats caches
    path_streams       streams of paths: create, find, delete, expire
    reading            GET and HEAD
    stream             what a request reads, page by page
    writing            PUT, POST and DELETE

Source:
    PROTOCOL.md, section 12; the Durable Streams Protocol 1.0.
"""

from gateway.server.durable_streams.endpoints import DurableStreams

__all__ = ["DurableStreams"]
