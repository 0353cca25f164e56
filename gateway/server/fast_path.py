"""What the endpoint of appends and the HTTP protocol of `serve` share: a prefix and a callback."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.responses import Response

STREAM_PREFIX = "/v1/stream/"
"""Streams over HTTP have this prefix; a POST below it is an append."""

Respond = Callable[[Response | Awaitable[Response]], None]
"""Takes the response to an append: ready, or as an awaitable that has to run in a task."""
