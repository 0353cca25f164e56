"""Realtime Streams: durable, typed streams from Python tasks to any frontend.

What a user imports is listed in `__all__`. The modules, in the order in which the data flows:

    errors       every error: code, HTTP status, close code, retryable
    extras       names the extra that brings a package which is not installed
    records      StreamKey, Record, Position: frozen values
    limits       what a client must stay below
    untrusted    which JSON is accepted from outside
    visitors     where a connection comes from
    admission    who may open one more connection
    counters     what a gateway counts
    tracing      spans of OpenTelemetry
    patches      merge patches, and operations on metadata
    run_limits   which values a run may hold
    runs         Run, its statuses and the table of transitions
    access       what a token says, and what a scope allows
    claims       which claims a token may have
    keys         the key ring: which key signs, which verify
    revocations  which tokens are good no more
    verification reads a token; the clock is an argument
    tokens       mint scoped tokens, make lesser ones of them, revoke them
    protocol/    WebSocket frames as values (PROTOCOL.md says what they mean)
    stores/      base (the contract), memory, sqlite, redis, remote
    signals      an event for one waiter
    budget       one amount of memory for all rings
    turns        few at once of what takes long
    asking       one question for many
    frame        a frame that many readers get
    pages        what readers that lag read, once for all of them
    cohorts      readers at one tail that are handed the same bytes
    tail         the live end of a stream, and its recent records
    cursor       a reader's place on a tail
    hub          how readers share the live streams
    record_cursor  a cursor that gives records instead of frames
    authorization  which scope a frame needs
    commands     what a connection asks its carrier to do
    bearer       who a connection's client is, by its tokens
    lifetime     how long a connection may stay
    subscriptions  what a connection follows, with which tokens, and when these run out
    connection   one connection's state machine
    settings     environment to frozen settings
    key_files    settings to a key ring
    sdk/         streams, tasks, metadata, wait, runs: what tasks and backends call
    web/         the Starlette application
    integrations/  one file a library, imported only when used
    cli/         the `realtime` command
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway import errors, tokens
from gateway.errors import AbortTask
from gateway.model.runs import Run, RunError
from gateway.sdk import runs, streams, wait
from gateway.sdk.loops.bridge import run_in_loop
from gateway.sdk.metadata import metadata
from gateway.sdk.options import Retry
from gateway.sdk.results import RunHandle, RunResult
from gateway.sdk.run_subscription import StreamRecord
from gateway.sdk.runtime import current_run
from gateway.sdk.session import connect
from gateway.sdk.streams import Stream
from gateway.sdk.tasks import Task, task
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.server.app import create_app
    from gateway.server.mount import mount

__version__ = "0.1.0"

__all__ = [
    "AbortTask",
    "Retry",
    "Run",
    "RunError",
    "RunHandle",
    "RunResult",
    "Settings",
    "Stream",
    "StreamRecord",
    "Task",
    "connect",
    "create_app",
    "current_run",
    "errors",
    "metadata",
    "mount",
    "run_in_loop",
    "runs",
    "streams",
    "task",
    "tokens",
    "wait",
]


def __getattr__(name: str) -> Any:
    # The web half is imported when asked for: a worker that only appends needs no Starlette.
    if name == "create_app":
        from gateway.server.app import create_app

        return create_app
    if name == "mount":
        from gateway.server.mount import mount

        return mount
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
