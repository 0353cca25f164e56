"""The browser's client: plain ES modules without dependencies.

Pages of Reflex import `hooks.js`, which Reflex bundles. Other pages import `client.js` from the
gateway, with all its modules in one file.

    hooks            React hooks for pages of Reflex
    client           connect(): the API for pages without Reflex, and for Node
    react            React hooks over that API
    store            cache entries by key; one subscription for many observers
    cache_entry      the state of one subscription: snapshots, throttling, handlers
    snapshot         the immutable state that a page renders
    reducers         records to state: of a stream, a run, a set of runs
    run_model        a run with its computed fields
    run_streams      all streams of a run
    views            records selected by a field, or grouped by source
    sliding_window   the newest records, at a constant cost per record
    attempt_filter   which attempts of a run a stream shows
    parts_assembler  parts of an AI answer to its text, tool calls and sources
    async_iterator   records of a stream for `for await`
    actions          append, trigger, cancel: calls of one key run in order
    token_source     a fixed token, or a function that fetches one
    connection       one connection with its subscriptions, reconnecting and pings
    subscription     a cursor on a stream, a run or a set of runs
    transport        WebSocket or HTTP
    http_socket      the frames of a WebSocket over HTTP
    response_slots   how many tabs hold a streaming HTTP response
    sse_parser       server-sent events of a fetch
    protocol         frames and rules of PROTOCOL.md
    backoff          delay before a retry
    gateway_url      the gateway's address on a page of Reflex
    platform         time, randomness and sockets; tests replace them
"""

from __future__ import annotations

from functools import cache

import reflex as rx

_MODULES = (
    "protocol.js",
    "backoff.js",
    "response_slots.js",
    "platform.js",
    "sse_parser.js",
    "http_socket.js",
    "transport.js",
    "subscription.js",
    "connection.js",
    "parts_assembler.js",
    "sliding_window.js",
    "views.js",
    "run_model.js",
    "reducers.js",
    "snapshot.js",
    "attempt_filter.js",
    "cache_entry.js",
    "store.js",
    "run_streams.js",
    "gateway_url.js",
    "actions.js",
    "hooks.js",
)


@cache
def register_client() -> str:
    """Register the modules as shared assets and return the path of the one to import from.

    The first call of a hook registers them, and not the import of this package: registering writes
    into the working directory, which must be the folder of a Reflex application.
    """
    # Reflex names the assets' folder after the module that registers them. The modules import each
    # other by relative paths, so all are registered here.
    paths = {name: rx.asset(name, shared=True) for name in _MODULES}
    return paths["hooks.js"].importable_path
