"""The errors of the gateway and the SDK, with their codes on the wire.

    RealtimeError
    ├── MalformedFrame        400  the frame is not a JSON object of a known form
    ├── UnknownFrame          400  unknown `type`
    ├── FrameTooLarge         413  over the frame limit
    ├── ProtocolVersion       400  close 4406
    ├── HelloExpected         400  close 4400
    ├── HelloTimeout          408  close 4408, retryable
    ├── TokenInUrl            400  close 4400
    ├── OriginForbidden       403  close 4403; a page of another origin
    ├── TooManyConnections    429  close 4429, retryable
    ├── InvalidToken          401  close 4401
    ├── TokenExpired          401  close 4401
    ├── TokenRevoked          401  close 4401
    ├── Forbidden             403  no scope allows it
    ├── InvalidId             422  the id of a run, stream, tag or token breaks its rule
    ├── InvalidPosition       422
    ├── InvalidValue          422  a value or payload does not match its type
    ├── RecordTooLarge        413
    ├── MetadataTooLarge      413  the metadata of a run would exceed its limit
    ├── TooManySubscriptions  429
    ├── DuplicateId           409  the id is in use on the connection
    ├── UnknownSubscription   404
    ├── RunNotFound           404
    ├── RunExists             409
    ├── IllegalTransition     409  the current status or attempt does not allow the patch
    ├── StreamEnded           409  the stream accepts no records
    ├── WriterFenced          409  a newer epoch of this writer exists
    ├── WriterGap             409  an earlier append of this writer is missing
    ├── OutOfOrder            409  the order is not greater than the last one
    ├── WriterFull            429  retryable; the buffer of the writer is full
    ├── StoreUnavailable      503  retryable
    ├── StoreLocked           503  another process owns the store's file
    ├── ConnectionLost        503  retryable; the gateway did not answer in time
    ├── QueueUnavailable      503  retryable; the task queue cannot be reached
    ├── ShuttingDown          503  close 4503, retryable
    ├── Silent                408  close 4508, retryable; no frame from the client
    ├── Idle                  408  close 4509, retryable; no subscription and no request
    ├── ConnectionAged        503  close 4510, retryable; maximum age
    ├── Internal              500  close 1011, retryable
    ├── ConfigurationError    500  an invalid setting
    ├── NotStarted            500  close 4404; no store is open
    ├── TokenSpent            403  a trigger token without uses left
    ├── NoParent              422  target "parent" or "root" without a parent
    ├── NotInRun              422  called outside a task
    ├── TaskNotFound          404
    ├── RunCanceled           409  raised in a task that is being canceled
    ├── RunFailed             500  an awaited run did not complete
    ├── StreamIncomplete      409  the stream ended without completing
    ├── ReadTimeout           504  no record arrived within the timeout of the reader
    ├── WaitTimeout           504  a wait token was not completed in time
    └── AbortTask             500  raised by a task: do not retry

Each class carries ``code`` (the string on the wire), ``http_status``, ``close_code`` (None: the
connection stays open) and ``retryable`` (the same request may succeed later, unchanged).
"""

from __future__ import annotations


class RealtimeError(Exception):
    """Base class of all errors.

    Args:
        message: Names the thing, its value, the limit and the remedy.
        retry_after_s: Time to wait before a retry, in seconds; None: unknown.
    """

    code: str = "internal"
    http_status: int = 500
    close_code: int | None = None
    retryable: bool = False

    def __init_subclass__(
        cls,
        *,
        code: str | None = None,
        http_status: int | None = None,
        close_code: int | None = None,
        retryable: bool = False,
        **more: object,
    ) -> None:
        super().__init_subclass__(**more)
        if code is not None and http_status is not None:  # a subclass of an error keeps its code
            cls.code, cls.http_status = code, http_status
            cls.close_code, cls.retryable = close_code, retryable

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


class MalformedFrame(RealtimeError, code="malformed_frame", http_status=400):
    """The frame is not a JSON object of a known form."""


class UnknownFrame(RealtimeError, code="unknown_frame", http_status=400):
    """The `type` of the frame is unknown."""


class FrameTooLarge(RealtimeError, code="frame_too_large", http_status=413):
    """The frame exceeds its limit in bytes."""


class ProtocolVersion(RealtimeError, code="protocol_version", http_status=400, close_code=4406):
    """The gateway does not support the protocol version of the client."""


class HelloExpected(RealtimeError, code="hello_expected", http_status=400, close_code=4400):
    """The first frame was not `hello`."""


class HelloTimeout(
    RealtimeError, code="hello_timeout", http_status=408, close_code=4408, retryable=True
):
    """No `hello`, or no valid token, arrived in time."""


class TokenInUrl(RealtimeError, code="token_in_url", http_status=400, close_code=4400):
    """The URL has a token; logs and browser histories store URLs."""


class OriginForbidden(RealtimeError, code="origin_forbidden", http_status=403, close_code=4403):
    """The origin of the page is not allowed to connect."""


class TooManyConnections(
    RealtimeError, code="too_many_connections", http_status=429, close_code=4429, retryable=True
):
    """The subject, the address or the gateway has reached its limit of connections."""


class InvalidToken(RealtimeError, code="invalid_token", http_status=401, close_code=4401):
    """The token is missing, malformed, or not signed by this gateway."""


class TokenExpired(RealtimeError, code="token_expired", http_status=401, close_code=4401):
    """The token's `exp` has passed."""


class TokenRevoked(RealtimeError, code="token_revoked", http_status=401, close_code=4401):
    """The token, or a token that it was derived from, was revoked."""


class Forbidden(RealtimeError, code="forbidden", http_status=403):
    """No scope of the token allows the request."""


class InvalidId(RealtimeError, code="invalid_id", http_status=422):
    """The id of a run, stream, tag, task or writer breaks its rule."""


class InvalidPosition(RealtimeError, code="invalid_position", http_status=422):
    """The string is not a position."""


class InvalidValue(RealtimeError, code="invalid_value", http_status=422):
    """A value or payload does not match its type, or is not JSON."""


class RecordTooLarge(RealtimeError, code="record_too_large", http_status=413):
    """A record exceeds the limit in bytes."""


class MetadataTooLarge(RealtimeError, code="metadata_too_large", http_status=413):
    """The metadata of a run would exceed the limit in bytes."""


class TooManySubscriptions(RealtimeError, code="too_many_subscriptions", http_status=429):
    """The connection has reached its limit of subscriptions."""


class DuplicateId(RealtimeError, code="duplicate_id", http_status=409):
    """A live subscription or request of the connection has this `id`."""


class UnknownSubscription(RealtimeError, code="unknown_subscription", http_status=404):
    """The connection has no subscription with this `id`."""


class RunNotFound(RealtimeError, code="run_not_found", http_status=404):
    """The run does not exist."""


class RunExists(RealtimeError, code="run_exists", http_status=409):
    """A run with this id exists."""


class IllegalTransition(RealtimeError, code="illegal_transition", http_status=409):
    """The current status or attempt of the run does not allow the patch."""


class StreamEnded(RealtimeError, code="stream_ended", http_status=409):
    """The stream has ended and accepts no records."""


class WriterFenced(RealtimeError, code="writer_fenced", http_status=409):
    """A newer epoch of this writer exists; this writer must stop.

    Attributes:
        epoch: The newest epoch of the writer; None for an error from the wire.
    """

    epoch: int | None = None


class WriterGap(RealtimeError, code="writer_gap", http_status=409):
    """An earlier append of this writer is missing.

    Attributes:
        expected: The next sequence; None for an error from the wire.
        is_new_epoch: The writer is known and its epoch is newer, so its sequence has to be 0.
    """

    expected: int | None = None
    is_new_epoch: bool = False


class OutOfOrder(RealtimeError, code="out_of_order", http_status=409):
    """The `order` of the append is not greater than the last one of the stream."""


class WriterFull(RealtimeError, code="writer_full", http_status=429, retryable=True):
    """The buffer of the writer is full; await a receipt first."""


class StoreUnavailable(RealtimeError, code="store_unavailable", http_status=503, retryable=True):
    """The store cannot be reached, read or written."""


class StoreLocked(RealtimeError, code="store_locked", http_status=503):
    """Another process owns the store's file."""


class ConnectionLost(RealtimeError, code="connection_lost", http_status=503, retryable=True):
    """The gateway did not answer in time."""


class QueueUnavailable(RealtimeError, code="queue_unavailable", http_status=503, retryable=True):
    """The task queue that delivers runs to workers cannot be reached."""


class ShuttingDown(
    RealtimeError, code="shutting_down", http_status=503, close_code=4503, retryable=True
):
    """The gateway is shutting down; reconnect."""


class Silent(RealtimeError, code="silent", http_status=408, close_code=4508, retryable=True):
    """The client sent no frame for too long."""


class Idle(RealtimeError, code="idle", http_status=408, close_code=4509, retryable=True):
    """The connection had no subscription and no request for too long."""


class ConnectionAged(
    RealtimeError, code="connection_aged", http_status=503, close_code=4510, retryable=True
):
    """The connection has reached its maximum age; reconnect."""


class Internal(RealtimeError, code="internal", http_status=500, close_code=1011, retryable=True):
    """Internal error of the gateway; its log has the details."""


class ConfigurationError(RealtimeError, code="configuration_error", http_status=500):
    """A setting is invalid."""


class MissingExtra(ConfigurationError, ModuleNotFoundError):
    """A package of an extra is not installed; the message has the command to install it."""


class NotStarted(RealtimeError, code="not_started", http_status=500, close_code=4404):
    """No store is open: the lifespan of the gateway or `connect()` was not entered."""


class TokenSpent(RealtimeError, code="token_spent", http_status=403):
    """The trigger token has no uses left."""


class NoParent(RealtimeError, code="no_parent", http_status=422):
    """`target="parent"` or `"root"` outside a run, or in a run without a parent."""


class NotInRun(RealtimeError, code="not_in_run", http_status=422):
    """A function that needs a run was called outside a task."""


class TaskNotFound(RealtimeError, code="task_not_found", http_status=404):
    """No task with this id is defined in this process."""


class RunCanceled(RealtimeError, code="run_canceled", http_status=409):
    """The run of the calling task is being canceled."""


class RunFailed(RealtimeError, code="run_failed", http_status=500):
    """An awaited run did not complete."""


class StreamIncomplete(RealtimeError, code="stream_incomplete", http_status=409):
    """The stream ended without completing while it was read."""


class ReadTimeout(RealtimeError, code="read_timeout", http_status=504):
    """No record arrived within the timeout of the reader."""


class WaitTimeout(RealtimeError, code="wait_timeout", http_status=504):
    """A wait token was not completed in time."""


class AbortTask(RealtimeError, code="abort_task", http_status=500):
    """Raise it in a task, alone or in an exception group, to fail the run without a retry."""


BY_CODE: dict[str, type[RealtimeError]] = {
    error.code: error for error in RealtimeError.__subclasses__()
}
"""The error class of each code on the wire."""

_OF_THE_SDK: frozenset[type[RealtimeError]] = frozenset(
    {
        WriterFull,
        StoreLocked,
        ConnectionLost,
        ConfigurationError,
        NoParent,
        NotInRun,
        RunCanceled,
        RunFailed,
        StreamIncomplete,
        ReadTimeout,
        WaitTimeout,
        AbortTask,
    }
)


def on_the_wire() -> list[type[RealtimeError]]:
    """Return the errors that gateways send; the SDK raises the others in its own process."""
    return [error for error in BY_CODE.values() if error not in _OF_THE_SDK]


def from_wire(code: str, message: str, retry_after_s: float | None = None) -> RealtimeError:
    """Make the error of an `error` frame.

    Args:
        code: The code of the frame; an unknown code gives a plain `RealtimeError`.
        message: The frame's message.
        retry_after_s: The frame's `retry_after_ms`, if it has one.

    Returns:
        An instance, not raised.

    Source:
        PROTOCOL.md, section 9.
    """
    return BY_CODE.get(code, RealtimeError)(message, retry_after_s)
