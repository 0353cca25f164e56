"""The browser's client: plain ES modules, handed to Reflex as shared assets."""

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
def library() -> str:
    """Register the modules with the app that is being built and return the one to import from.

    It happens at the first hook and not at import: registering writes into the working
    directory, where nothing but a Reflex app should find it.
    """
    # All are registered by this module, so that they land in one folder and find each other.
    paths = {name: rx.asset(name, shared=True) for name in _MODULES}
    return paths["hooks.js"].importable_path
