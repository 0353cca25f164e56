"""Realtime Streams: durable, typed streams from Python tasks to any frontend.

What a user imports is listed in `__all__`. The rooms, in the order in which they may import: each
from those above it only.

    errors         every error: code, HTTP status, close code, retryable
    _internal/     concurrency, memory, counters, tracing
    model/         values: records, positions, runs, patches, limits
    settings       the environment as frozen settings
    auth/          scopes, keys, verification of tokens
    tokens         mint, attenuate and revoke access tokens
    protocol/      WebSocket frames and a connection's state machine (PROTOCOL.md)
    stores/        the log: memory, SQLite, Redis, a gateway elsewhere
    fanout/        from a log to many subscribers
    sdk/           what tasks and backends call; executes runs
    ui/            hooks for Reflex pages
    server/        the Starlette application
    integrations/  one file or folder for each library, imported only when used
    cli/           the `realtime` command
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway import errors, tokens
from gateway.errors import AbortTask
from gateway.model.runs import Run, RunError
from gateway.sdk import runs, streams, wait
from gateway.sdk.background import connect_process
from gateway.sdk.context import current_run
from gateway.sdk.loops.bridge import run_in_loop, set_connector
from gateway.sdk.metadata import metadata
from gateway.sdk.options import Retry
from gateway.sdk.results import RunHandle, RunResult
from gateway.sdk.run_subscription import StreamRecord
from gateway.sdk.session import connect
from gateway.sdk.streams import Stream
from gateway.sdk.task_registry import task
from gateway.sdk.tasks import Task
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.server.app import create_app
    from gateway.server.mount import mount

set_connector(connect_process)  # for synchronous code that finds no runtime

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
